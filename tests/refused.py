"""Runs a command from which the kernel withholds one thing: `refused.py WHAT COMMAND ...`.

WHAT is `limits` (prlimit(2) may only read) or the number of a prctl(2) that fails with EPERM.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_NUMBERS = {"x86_64": (302, 157), "aarch64": (261, 167)}
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1
_NUMBER, _FIRST, _THIRD = 0, 16, 32


def program(what: str) -> bytes:
    """The filter (seccomp(2)), for this machine's system calls."""
    prlimit, prctl = _NUMBERS[platform.machine()]
    if what == "limits":
        lines = [
            (_LOAD, 0, 0, _NUMBER),
            (_EQUAL, 0, 4, prlimit),
            (_LOAD, 0, 0, _THIRD),
            (_EQUAL, 0, 3, 0),
            (_LOAD, 0, 0, _THIRD + 4),
            (_EQUAL, 0, 1, 0),
        ]
    else:
        lines = [
            (_LOAD, 0, 0, _NUMBER),
            (_EQUAL, 0, 2, prctl),
            (_LOAD, 0, 0, _FIRST),
            (_EQUAL, 1, 0, int(what)),
        ]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def main(what: str, *words: str) -> None:
    """Never returns."""
    code = program(what)
    kept = ctypes.create_string_buffer(code)
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(kept))
    if ctypes.CDLL(None, use_errno=True).prctl(22, 2, head, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no filter")
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(*sys.argv[1:])
