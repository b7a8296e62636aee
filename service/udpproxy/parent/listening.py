"""Sockets that listen: one for each worker of the relay, all on the same address and port.

Which of them gets a datagram is decided by a small filter (SO_ATTACH_REUSEPORT_CBPF), not by the
kernel's hash: a client always comes to the same worker, also after a restart. The sum is the
relay's own (worker_of in engine/relay/sessions.c): the last 32 bits of the client's address and
its port, modulo the number of workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Iterator, Sequence

from udpproxy.config.model import Address
from udpproxy.engine import sockets
from udpproxy.errors import UnitError

RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_SO_ATTACH_FILTER = 26
_SO_ATTACH_REUSEPORT_CBPF = 51
_LOW_PORT = ": ports below 1024 need root or CAP_NET_BIND_SERVICE, see udp-proxy-units(7)"

_NET = -0x100000 & 0xFFFFFFFF  # SKF_NET_OFF: from the IP header on
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_HALF_AT_X = 0x20, 0x28, 0x30, 0x48
_AND, _SHIFT_LEFT, _ADD_X, _MODULO = 0x54, 0x64, 0x0C, 0x94
_TO_X, _RETURN, _RETURN_NUMBER = 0x07, 0x16, 0x06

Program = list[tuple[int, int]]


def listening_sockets(
    address: Address, port: int, workers: int, beside: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """All of them, or UnitError. `beside` are sockets of ours that would be in the way."""
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
            if workers > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with _side_by_side([sock, *beside] if beside else []):
                sock.bind((str(address), port))
        if workers > 1:
            steer(made[0], workers)
    except OSError as problem:
        for sock in made:
            sock.close()
        hint = _LOW_PORT if problem.errno == errno.EACCES and port < 1024 else ""
        raise UnitError(f"listen on {address} port {port}", f"{problem.strerror}{hint}") from None
    return made


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
        _attach(sock, _SO_ATTACH_FILTER, [(_RETURN_NUMBER, 0)])
    except OSError:
        # Somebody has locked it: connected to itself it hears nobody else either.
        with contextlib.suppress(OSError):
            sock.connect(sock.getsockname())


def steer(sock: socket.socket, workers: int) -> None:
    """For all sockets that are bound as this one is, in the order in which they were bound."""
    program = _program4(workers) if sock.family == socket.AF_INET else _program6(workers)
    _attach(sock, _SO_ATTACH_REUSEPORT_CBPF, program)


def _attach(sock: socket.socket, option: int, program: Program) -> None:
    code = b"".join(struct.pack("=HBBI", word, 0, 0, value) for word, value in program)
    buffer = ctypes.create_string_buffer(code)
    filter_program = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, option, filter_program)


def _program4(workers: int) -> Program:
    return [
        (_LOAD_BYTE, _NET),  # the header's length, in words
        (_AND, 0x0F),
        (_SHIFT_LEFT, 2),
        (_TO_X, 0),
        (_LOAD_HALF_AT_X, _NET),  # source port
        (_TO_X, 0),
        (_LOAD_WORD, _NET + 12),  # source address
        (_ADD_X, 0),
        (_MODULO, workers),
        (_RETURN, 0),
    ]


def _program6(workers: int) -> Program:
    return [
        (_LOAD_HALF, _NET + 40),
        (_TO_X, 0),
        (_LOAD_WORD, _NET + 20),
        (_ADD_X, 0),
        (_MODULO, workers),
        (_RETURN, 0),
    ]


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
