"""Run a command that may have no netlink socket, as in a sandbox: seccomp(2) refuses them.

python tests/without_netlink.py COMMAND ...
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_SOCKET = {"x86_64": 41, "aarch64": 198}
_AF_NETLINK = 16
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _FIRST = 0, 16  # in struct seccomp_data, of a machine whose low half comes first
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def words() -> list[str]:
    """What stands before the command."""
    return [sys.executable, __file__]


def _forbid() -> None:
    steps = [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, _SOCKET[platform.machine()]),
        (_LOAD, 0, 0, _FIRST),
        (_EQUAL, 0, 1, _AF_NETLINK),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0) == 0, os.strerror(ctypes.get_errno())


if __name__ == "__main__":
    _forbid()
    os.execvp(sys.argv[1], sys.argv[1:])
