"""The DSCP of datagrams, as the byte of the IP header that it stands in: how it is set and seen.

The two lowest bits of that byte are ECN's (RFC 3168). They say something of the way that a datagram
has come, not of the one that it goes, so they are always 0 here.
"""

from __future__ import annotations

import socket
import struct
import sys

from udpproxy.proxy.engine.sockets import Ancillary

_DSCP = 0xFC
_IP_RECVTOS, _IPV6_RECVTCLASS, _IPV6_TCLASS = 13, 66, 67
_NUMBER = struct.Struct("=i")

_OWN = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TOS),
    socket.AF_INET6: (socket.IPPROTO_IPV6, _IPV6_TCLASS),
}
_TELL = {
    socket.AF_INET: (socket.IPPROTO_IP, _IP_RECVTOS),
    socket.AF_INET6: (socket.IPPROTO_IPV6, _IPV6_RECVTCLASS),
}


def byte_of(dscp: int) -> int:
    """The header's, for a DSCP from 0 to 63."""
    return dscp << 2


def set_tos(sock: socket.socket, tos: int) -> None:
    """What leaves by it has that from now on. Its priority within this host is the one that the
    system has for such (ip(7)), which needs no right."""
    sock.setsockopt(*_OWN[sock.family], tos)


def tos_of(sock: socket.socket) -> int:
    """The same, as it is."""
    return sock.getsockopt(*_OWN[sock.family]) & _DSCP


def tell(sock: socket.socket, *, on: bool) -> None:
    """What comes in by it tells its own, or no more."""
    sock.setsockopt(*_TELL[sock.family], on)


def tells(sock: socket.socket) -> bool:
    """Is that so?"""
    return bool(sock.getsockopt(*_TELL[sock.family]))


def reset(sock: socket.socket) -> None:
    """As it was made."""
    set_tos(sock, 0)
    tell(sock, on=False)


def told(control: Ancillary) -> int:
    """By the control messages of a datagram; 0 where they say nothing."""
    for level, kind, data in control:
        if (level, kind) in _OWN.values():
            return int.from_bytes(data, sys.byteorder) & _DSCP
    return 0


def with_tos(family: int, tos: int) -> Ancillary:
    """The control message that gives it to one datagram; none for 0, which all have."""
    return [(*_OWN[socket.AddressFamily(family)], _NUMBER.pack(tos))] if tos else []
