"""Many listening sockets in one descriptor: an end of a socket pair that holds one message.

It says whose each socket is, and is only peeked, never read, like a carrier of the pool.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable

from udpproxy.proxy.engine import pool

_ITEM = struct.Struct("=IH")

Item = tuple[int, int, socket.socket]
"""A listener's number, a worker's, and the socket."""


def pack(items: Iterable[Item]) -> socket.socket:
    """At most pool.BATCH of them; OSError where the system has no more descriptors."""
    each = list(items)
    keep, fill = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with fill:
        try:
            text = b"".join(_ITEM.pack(number, worker) for number, worker, _ in each)
            socket.send_fds(fill, [text], [sock.fileno() for _, _, sock in each])
        except OSError:
            keep.close()
            raise
    return keep


def unpack(shelf: socket.socket) -> list[Item]:
    """Duplicates of what it holds. OSError: EMFILE where the system has no descriptors for all of
    them, else it is none."""
    text, fds = pool.peek(shelf, (pool.BATCH + 1) * _ITEM.size)
    if len(text) != len(fds) * _ITEM.size:
        for fd in fds:
            os.close(fd)
        whole = len(fds) * _ITEM.size < len(text) <= pool.BATCH * _ITEM.size
        number = errno.EMFILE if whole else errno.EBADMSG
        raise OSError(number, os.strerror(number))
    whose = _ITEM.iter_unpack(text)
    return [
        (number, worker, socket.socket(fileno=fd))
        for (number, worker), fd in zip(whose, fds, strict=True)
    ]
