"""Sockets that listen: one for each worker of the relay, all on the same address and port."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from udpproxy.config.model import Address
from udpproxy.errors import NoRight, UnitError
from udpproxy.proxy.config.model import Place
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.parent import steering
from udpproxy.proxy.parent.holders import holder

RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_SO_BINDTOIFINDEX = 62
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_FOREIGN = ": transparent = true needs root or CAP_NET_RAW, see udp-proxy-units(7)"
_LOW_PORT = ": ports below 1024 need root or CAP_NET_BIND_SERVICE, see udp-proxy-units(7)"

_DROP = [(0x06, 0, 0)]
"""A filter that lets nothing in."""


def links() -> dict[str, int]:
    """The interfaces of this host by name, and their numbers."""
    try:
        return {name: number for number, name in socket.if_nameindex()}
    except OSError:  # where netlink(7) is forbidden
        return dict(_links_one_by_one())


def _links_one_by_one() -> Iterator[tuple[str, int]]:
    """As the two lines of headings and the rest of that file have them."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    for name in (line.partition(":")[0].strip() for line in lines):
        with contextlib.suppress(OSError):  # it is gone by now
            yield name, socket.if_nametoindex(name)


def is_link(name: str) -> bool:
    """Is there such an interface at this moment?"""
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def lack_of_descriptors() -> OSError | None:
    """Why no socket can be made now, whatever it is for; None: one can."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as problem:
        return problem
    return None


def link_of(listener: ListenerSocket) -> int:
    """The number of the interface that it is bound to; 0: none, or it is absent."""
    if listener.absent:
        return 0
    return listener.socket.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)


def absent(workers: int) -> list[socket.socket]:
    """In the place of sockets, as long as there is no interface for them: closed ones."""
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(workers)]
    for sock in made:
        sock.close()
    return made


def listening_sockets(
    place: Place, workers: int, key: int, beside: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """All of them, or UnitError. `key` divides clients between them; `beside` are sockets of ours
    that would be in the way."""
    address, port = place.address, place.port
    made: list[socket.socket] = []
    try:
        for _ in range(workers):
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            made.append(sock)
            enlarge(sock)
            set_options(sock, wildcard=address.is_unspecified)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _bind_freely(sock)
            if place.transparent:
                sockets.take_foreign(sock)
            if place.interface:
                name = place.interface.encode() + b"\0"
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
            if workers > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                # Until all are there and divide the clients, one would get what is another's, and
                # a known client a second session.
                deafen(sock)
            with _side_by_side([sock, *beside] if beside else []):
                sock.bind(sockets.whole((str(address), port)))
        if workers > 1:
            steering.steer(made[0], workers, key)
            for sock in made:
                sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except OSError as problem:
        for sock in made:
            sock.close()
        where = f"listen on {place}"
        if problem.errno == errno.EPERM and place.transparent:
            raise NoRight(where, f"{problem.strerror}{_FOREIGN}") from None
        if problem.errno == errno.EACCES and port < 1024:
            raise NoRight(where, f"{problem.strerror}{_LOW_PORT}") from None
        why = [problem.strerror or str(problem)]
        if problem.errno == errno.EADDRINUSE:
            why.append(holder(address, port, beside))
        raise UnitError(where, ": ".join(filter(None, why))) from None
    return made


def _bind_freely(sock: socket.socket) -> None:
    """An address may come late, go and come back (DHCP, VRRP, a tunnel, tentative IPv6): what is
    sent there is heard from then on (ip(7))."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)


@contextlib.contextmanager
def _side_by_side(each: Sequence[socket.socket]) -> Iterator[None]:
    """An address and the wildcard of its family on one port exclude each other unless both sockets
    have SO_REUSEADDR at the moment of bind(). They have it for that moment only, for whoever else
    sets it could share the port with us. Once both are bound the kernel gives each datagram to the
    socket whose address fits best, so none goes to the wrong one while both are there."""
    try:
        for sock in each:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield
    finally:
        for sock in each:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def refuse_all(sock: socket.socket) -> None:
    """The kernel drops what arrives from now on; nothing else can be done with sockets that
    another process reads."""
    try:
        deafen(sock)
    except OSError:
        # Somebody has locked it: connected to itself it hears nobody else either.
        with contextlib.suppress(OSError):
            sock.connect(sock.getsockname())


def deafen(sock: socket.socket) -> None:
    """It hears nothing from now on; OSError where somebody has locked its filter."""
    steering.attach(sock, _SO_ATTACH_FILTER, _DROP)


def enlarge(sock: socket.socket) -> None:
    """The receive buffer; only privileges lift it over net.core.rmem_max."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def set_options(sock: socket.socket, *, wildcard: bool) -> None:
    """What a listener needs, but for what nobody can change once it is bound."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sockets.allow_fragments(sock)
    if wildcard and sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif wildcard:
        sock.setsockopt(socket.IPPROTO_IP, sockets.IP_PKTINFO, 1)


def is_here(address: Address) -> bool:
    """Can it be bound on this host by now? Also those of many hosts, multicast and broadcast."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(sockets.whole((str(address), 0)))
        except OSError:
            return False
    return True
