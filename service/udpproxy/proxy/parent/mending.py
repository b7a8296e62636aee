"""A listener as it is to be, whoever had it before: a child gone bad, or an end that made it deaf.

The socket is shared with every process that was lent it, and systemd's store keeps it as it was
left. So what the parent hands on is never taken for good.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

from udpproxy.config.model import Address
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.parent import listening, steering

_SO_DETACH_FILTER = 27
_SO_LOCK_FILTER = 44
_UDP_CORK, _UDP_SEGMENT, _UDP_GRO = 1, 103, 104
_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73


class Spoilt(Exception):
    """That socket cannot be put right."""


def mend(listener: ListenerSocket, key: int) -> list[str]:
    """Put all its sockets right; what was wrong with them. Spoilt where that is not possible. `key`
    divides clients between them."""
    each = listener.sockets
    wrong: list[str] = []
    try:
        for sock in each:
            wrong += _mend(sock, listener.address, listener.port, shared=len(each) > 1)
        if len(each) > 1:
            steering.steer(each[0], len(each), key)
    except OSError as problem:
        raise Spoilt(problem.strerror or str(problem)) from None
    return wrong


def empty(listener: ListenerSocket) -> None:
    """What was queued before an end is nobody's."""
    for sock in listener.sockets:
        sockets.drain(sock)


DEAF = "it dropped what came"


def _mend(sock: socket.socket, address: Address, port: int, *, shared: bool) -> list[str]:
    wrong = []
    if sock.getsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER):
        raise Spoilt("its filter is locked")
    if os.get_blocking(sock.fileno()):
        wrong.append("it could block")
    sock.settimeout(0)
    if _detach(sock):
        wrong.append(DEAF)
    if _is_connected(sock):
        if shared:
            # To dissolve it would take the socket out of those that are steered together.
            raise Spoilt("it is connected")
        wrong.append("it was connected")
        sockets.disconnect(sock)
    if _is_shut(sock):
        raise Spoilt("it is shut down")
    name = sock.getsockname()
    if (sockets.pack(name[0]), name[1]) != (address.packed, port):
        raise Spoilt("it is bound elsewhere")
    wrong += _mend_options(sock, address)
    return wrong


def _detach(sock: socket.socket) -> bool:
    """Was there a filter? That which steers between workers is another."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except OSError as problem:
        if problem.errno == errno.ENOENT:
            return False
        raise
    return True


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _is_shut(sock: socket.socket) -> bool:
    """Towards us, as poll says; away from us, as a datagram to ourselves finds out."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    if any(told & (select.POLLRDHUP | select.POLLHUP) for _, told in poll.poll(0)):
        return True
    loopback = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    with socket.socket(sock.family, socket.SOCK_DGRAM) as somebody:
        try:
            somebody.bind((loopback, 0))
            sock.sendto(b"", socket.MSG_DONTWAIT, somebody.getsockname()[:2])
        except OSError as problem:
            return problem.errno == errno.EPIPE
    return False


def _mend_options(sock: socket.socket, address: Address) -> list[str]:
    """What is set again as it was at first, and what nobody sets."""
    wrong = ["its receive buffer was another"] if _enlarge(sock) else []
    listening.set_options(sock, wildcard=address.is_unspecified)
    with socket.socket(sock.family, socket.SOCK_DGRAM) as fresh:
        size = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sockets.report_errors(sock, on=False)
    for option in (_UDP_CORK, _UDP_SEGMENT, _UDP_GRO):
        with contextlib.suppress(OSError):  # a kernel that does not have it
            sock.setsockopt(socket.IPPROTO_UDP, option, 0)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, 0)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, -1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, -1)
    return wrong


def _enlarge(sock: socket.socket) -> bool:
    """The receive buffer, where it is smaller than what we can have; was it?"""
    with socket.socket(sock.family, socket.SOCK_DGRAM) as fresh:
        listening.enlarge(fresh)
        wanted = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= wanted:
        return False
    listening.enlarge(sock)
    return True
