"""Many listening sockets in one descriptor: an end of a socket pair that holds one message.

It says where each listener is and how many sockets it has, none while its interface is absent. It
is only peeked, never read, like a carrier of the pool.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from udpproxy.proxy.config.model import Place
from udpproxy.proxy.engine import pool

_FORMER = struct.Struct("=IH")
"""Of version 0.1.0, for each socket: a listener's number and a worker's."""

_LONGEST = 200
"""Bytes that a listener takes: its address, its interface's name, numbers."""

Item = tuple[int, Place | None, Sequence[socket.socket]]
"""A listener's number, where it is, and a socket for each worker. None: a version that told only
sockets has stored it."""
Told = list[tuple[int, Place | None, int]]
"""The same with the number of sockets."""


def space(each: Sequence[socket.socket]) -> int:
    """How much of a shelf's pool.BATCH places a listener takes."""
    return max(1, len(each))


def pack(items: Iterable[Item]) -> socket.socket:
    """At most pool.BATCH places of them; OSError where the system has no more descriptors."""
    told = []
    descriptors: list[int] = []
    for number, place, each in items:
        assert place is not None
        where = [str(place.address), place.port, place.interface, place.transparent]
        told.append([number, *where, len(each)])
        descriptors += [sock.fileno() for sock in each]
    keep, fill = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with fill:
        try:
            socket.send_fds(fill, [json.dumps(told).encode()], descriptors)
        except OSError:
            keep.close()
            raise
    return keep


def unpack(shelf: socket.socket) -> list[Item]:
    """Duplicates of what it holds. OSError: EMFILE where the system has no descriptors for all of
    them, else it is none."""
    text, fds = pool.peek(shelf, (pool.BATCH + 1) * _LONGEST)
    found: Told | None
    try:
        found, needed = _told(text)
    except (ValueError, TypeError, RecursionError):
        found, needed = _told_formerly(text)
    if found is None or needed != len(fds):
        for fd in fds:
            os.close(fd)
        whole = found is not None and len(fds) < needed <= pool.BATCH
        number = errno.EMFILE if whole else errno.EBADMSG
        raise OSError(number, os.strerror(number))
    each = iter([socket.socket(fileno=fd) for fd in fds])
    return [(number, place, [next(each) for _ in range(count)]) for number, place, count in found]


def _told(text: bytes) -> tuple[Told, int]:
    """What it says, and how many sockets that makes; ValueError or TypeError: it says nothing."""
    found: Told = []
    for number, address, port, interface, transparent, count in json.loads(text):
        numbers = (number, port, count)
        if not all(type(one) is int and one >= 0 for one in numbers) or not isinstance(
            interface, str
        ):
            raise ValueError("no listener")
        found.append(
            (number, Place(ip_address(address), port, interface, bool(transparent)), count)
        )
    return found, sum(count for _, _, count in found)


def _told_formerly(text: bytes) -> tuple[Told | None, int]:
    """The same of version 0.1.0: the sockets of one listener stand together, in their order."""
    if len(text) % _FORMER.size:
        return None, 0
    counts: dict[int, int] = {}
    for number, _ in _FORMER.iter_unpack(text):
        counts[number] = counts.get(number, 0) + 1
    return [(number, None, count) for number, count in counts.items()], sum(counts.values())
