"""Another process's sockets in our hands (pidfd_getfd(2)), as a process gone bad could use them."""

from __future__ import annotations

import ctypes
import os
import socket

_PIDFD_GETFD = 438


def of_process(pid: int, port: int) -> list[socket.socket]:
    """Duplicates of the sockets of that process that are bound to the port."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):  # noqa: PTH115
                continue
            fd = libc.syscall(_PIDFD_GETFD, pidfd, int(name), 0)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            sock = socket.socket(fileno=fd)
            inet = sock.family in (socket.AF_INET, socket.AF_INET6)
            if inet and sock.getsockname()[1] == port:
                found.append(sock)
            else:
                sock.close()
    finally:
        os.close(pidfd)
    return found
