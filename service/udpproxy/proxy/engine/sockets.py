"""The few socket calls that Python has no name for, and the constants of linux/*.h that go
with them. Every function takes sockets of either family."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import sys
from typing import cast

LARGEST = 65535
"""No datagram is larger, so a receive of this size truncates nothing."""

IP_PKTINFO = 8
IP_MTU_DISCOVER = 10
IP_RECVERR = 11
IPV6_MTU_DISCOVER = 23
IPV6_RECVERR = 25
IPV6_PKTINFO = 50
MSG_ERRQUEUE = 0x2000
PMTUDISC_DONT = 0
SO_MEMINFO = 55
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75

UNREACHABLE = {
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENONET,
    errno.ENOPROTOOPT, errno.EACCES, errno.EPROTO,
}  # fmt: skip
"""What an ICMP message can make of the next call on a connected socket (icmp(7), icmp.c)."""

CUT_OFF = {
    errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENODEV, errno.EDESTADDRREQ,
}  # fmt: skip
"""Our address towards the server is gone, or its interface, or the route; or the socket has none
since the last time that this was so."""

_MEMINFO = struct.Struct("=9I")
_ORIGIN_AT, _LOCAL = 4, 1  # of struct sock_extended_err (linux/errqueue.h)
_PKTINFO4 = struct.Struct("=I4s4s")
_PKTINFO6 = struct.Struct("=16sI")
_CONTROL_SPACE = 128
_MOST_ERRORS = 64
_LOOPBACK6 = socket.inet_pton(socket.AF_INET6, "::1")
MOST_EARLY = 64  # datagrams that are at a new port before we are
_SMALLEST = 256  # bytes of a receive buffer: no datagram takes less, with its struct sk_buff
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_NOTHING = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))  # a filter: return 0
_UNSPEC = ctypes.create_string_buffer(28)  # sockaddr_in6 long, family AF_UNSPEC (0)
_libc = ctypes.CDLL(None, use_errno=True)

Ancillary = list[tuple[int, int, bytes]]


def disconnect(sock: socket.socket) -> None:
    """Dissolve the association and give the port back (connect to AF_UNSPEC, connect(2))."""
    _libc.connect(sock.fileno(), _UNSPEC, len(_UNSPEC))


def drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped since the socket was made, modulo 2**32."""
    return _meminfo(sock)[8]


def _meminfo(sock: socket.socket) -> tuple[int, ...]:
    return _MEMINFO.unpack_from(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))


def report_errors(sock: socket.socket, *, on: bool) -> None:
    """IP_RECVERR: without it ICMP errors of an unconnected socket are never seen."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, on)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, on)


def family_of(packed: bytes) -> socket.AddressFamily:
    """The family of a packed address."""
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6


def has_ipv6() -> bool:
    """A kernel can be built or started without it."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


FAMILIES = (socket.AF_INET, socket.AF_INET6)


def scope_of(endpoint: tuple[str, int]) -> int:
    """The interface number that a link-local IPv6 address needs, else 0."""
    if len(endpoint) > 2:
        return cast(tuple[str, int, int, int], endpoint)[3]
    if "%" not in endpoint[0]:
        return 0
    zone = endpoint[0].partition("%")[2]
    if zone.isdigit():
        return int(zone)
    try:
        return socket.if_nametoindex(zone)
    except OSError:  # it has gone since
        return 0


def server_of(endpoint: tuple[bytes, int], scope: int) -> tuple[str, int]:
    """A server or peer as sessions name it, with the number of its link in its address where that
    is one of a link's."""
    packed = endpoint[0]
    of_link = len(packed) == 16 and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
    zone = f"%{scope}" if of_link and scope else ""
    return unpack(packed) + zone, endpoint[1]


def sender_of(name: tuple[str, int]) -> tuple[str, int]:
    """The same, of whom a socket names."""
    scope = scope_of(name)
    return (f"{name[0]}%{scope}" if scope else name[0]), name[1]


def whole(endpoint: tuple[str, int]) -> tuple[str, int]:
    """As a socket takes it: Python ignores a scope in the address's text."""
    if "%" not in endpoint[0]:
        return endpoint
    scope = scope_of(endpoint)
    return cast(tuple[str, int], (*endpoint[:2], 0, scope)) if scope else endpoint


def sockaddr(endpoint: tuple[bytes, int], scope: int) -> tuple[str, int]:
    """An address as the socket module gives and takes it; four values for IPv6."""
    address, port = unpack(endpoint[0]), endpoint[1]
    return (
        (address, port)
        if len(endpoint[0]) == 4
        else cast(tuple[str, int], (address, port, 0, scope))
    )


def pack(address: str) -> bytes:
    """An address as bytes; a scope (`%eth0`) is left out."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    return socket.inet_pton(socket.AF_INET, address)


def unpack(packed: bytes) -> str:
    """The other way round."""
    return socket.inet_ntop(family_of(packed), packed)


def take_foreign(sock: socket.socket) -> None:
    """It may be bound to addresses of others, and hear what is sent there (IP_TRANSPARENT, ip(7));
    PermissionError without CAP_NET_RAW."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def allow_fragments(sock: socket.socket) -> None:
    """Datagrams of any size pass whole: routers on the way may fragment them (ip(7))."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT)


def take_errors(sock: socket.socket) -> tuple[int, int]:
    """What the error queue has, and at most so much of it: what is left rings again. How many
    errors were told of by ICMP, not by our own system, and the number of the last."""
    count = problem = 0
    with contextlib.suppress(BlockingIOError):
        for _ in range(_MOST_ERRORS):
            _, control, _, _ = sock.recvmsg(1, 512, MSG_ERRQUEUE)
            told = next((data for *_, data in control if data[_ORIGIN_AT] != _LOCAL), None)
            if told is not None:
                count, problem = count + 1, int.from_bytes(told[:4], sys.byteorder)
    return count, problem


def waits(sock: socket.socket) -> bool:
    """Is there a datagram in it, or an error in its queue?"""
    return _meminfo(sock)[0] > 0


def drain(sock: socket.socket) -> int:
    """Throw away all that waits in the socket by now, however much that is, and not what comes
    after it; how many that were."""
    count = discard(sock, MOST_EARLY)
    if count == MOST_EARLY:
        count += discard(sock, _meminfo(sock)[0] // _SMALLEST)
    return count


def discard(sock: socket.socket, most: int) -> int:
    """Throw away what waits in the socket, up to so many; how many there were. `most`: there may
    be more."""
    for count in range(most):
        try:
            sock.recv(1)
        except BlockingIOError:
            return count
        except OSError:
            continue  # a pending error is reported once, then cleared
    return most


def reset(sock: socket.socket) -> None:
    """As the pool made it: no port, no peer, nothing waiting, no option left on; or at least
    nobody's, where it keeps its port."""
    if keeps_port(sock):
        park(sock)
        return
    disconnect(sock)
    report_errors(sock, on=False)
    allow_broadcast(sock, on=False)
    take_errors(sock)
    drain(sock)


def keeps_port(sock: socket.socket) -> bool:
    """Was it bound to a port by its number? See fixed.py."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))


def share_port(sock: socket.socket, *, on: bool) -> None:
    """Others may be bound to the same port, and the same address."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, on)


def deafen(sock: socket.socket, *, on: bool) -> None:
    """Nothing comes in, whoever sends it."""
    program = struct.pack("@HP", 1, ctypes.addressof(_NOTHING))
    option = _SO_ATTACH_FILTER if on else _SO_DETACH_FILTER
    with contextlib.suppress(FileNotFoundError):  # there is no filter
        sock.setsockopt(socket.SOL_SOCKET, option, program)


def park(sock: socket.socket) -> None:
    """Its session has ended, and another may have the same end of ours before the socket is gone.
    So it hears itself alone, and nobody writes by it."""
    own = sock.getsockname()
    try:
        sock.connect(own)
    except OSError:  # the address is gone
        disconnect(sock)
        loopback = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
        with contextlib.suppress(OSError):
            sock.connect((loopback, own[1]))
    drain(sock)


def allow_broadcast(sock: socket.socket, *, on: bool) -> None:
    """SO_BROADCAST: without it sending to a broadcast address is refused."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, on)


def is_loopback(packed: bytes) -> bool:
    """Of IPv4 there are many such."""
    return packed[0] == 127 if len(packed) == 4 else packed == _LOOPBACK6


def addressed_to(control: Ancillary) -> tuple[bytes, bytes, int]:
    """From the control messages of a wildcard listener: the address the client wrote to, the
    address to answer from, and the interface. Equal but for broadcast and multicast, where the
    interface's own address (ipi_spec_dst, ip(7)) answers."""
    for level, kind, data in control:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            interface, own, header = _PKTINFO4.unpack_from(data)
            return header, own, interface
        if level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
            header, interface = _PKTINFO6.unpack_from(data)
            return header, b"" if header[0] == 0xFF else header, interface
    return b"", b"", 0


def answer_from(own: bytes, interface: int) -> Ancillary:
    """The control message that makes a reply leave from `own`. The interface is left to the
    routes, except for link-local addresses and where there is no address to name."""
    if len(own) == 4:
        return [(socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, own, bytes(4)))]
    link_local = own[:1] == b"\xfe" and own[1] & 0xC0 == 0x80
    address = own or bytes(16)
    number = interface if link_local or not own else 0
    return [(socket.IPPROTO_IPV6, IPV6_PKTINFO, _PKTINFO6.pack(address, number))]


def receive_with_destination(sock: socket.socket) -> tuple[bytes, Ancillary, tuple[str, int]]:
    """One datagram of a wildcard listener with its control messages."""
    data, control, _, sender = sock.recvmsg(LARGEST, _CONTROL_SPACE)
    return data, control, sender
