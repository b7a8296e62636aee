"""A socket that is bound to a port by its number: what it shares, keeps and hears."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from host import free_port
from udpproxy.proxy.engine import fixed, sockets
from udpproxy.proxy.engine.ends import Claim, OwnEnds
from udpproxy.proxy.engine.fixed import Aim
from udpproxy.proxy.engine.pool import ANYWHERE, Sources, make_socket

NOBODY = (bytes(4), 0)
HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
ABSENT = "192.0.2.77"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


class Lab:
    """Servers, and sockets of the pool."""

    def __init__(self, stack: ExitStack, host: str = "127.0.0.1") -> None:
        self._stack = stack
        self.host = host
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.port = free_port(host)
        self.ends = OwnEnds()

    def sock(self) -> socket.socket:
        return self._stack.enter_context(make_socket(self.family))

    def server(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(self.family, socket.SOCK_DGRAM))
        sock.bind((self.host, 0))
        sock.settimeout(0)
        return sock

    def claim(self, server: socket.socket, *, alone: bool = False) -> Claim:
        return Claim(self.ends, server.getsockname()[:2], NOBODY, alone=alone)

    def aim(self, server: socket.socket, sources: Sources = ANYWHERE) -> Aim:
        return Aim(server.getsockname()[:2], sources, self.port)


def heard(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(100)
    except BlockingIOError:
        return None


@HOSTS
def test_two_share_a_port_towards_two_servers(stack: ExitStack, host: str) -> None:
    lab = Lab(stack, host)
    servers = [lab.server(), lab.server()]
    socks = [lab.sock(), lab.sock()]
    for sock, server in zip(socks, servers, strict=True):
        own = fixed.bind(sock, lab.aim(server), lab.claim(server))
        assert own == (host, lab.port)
        assert sockets.keeps_port(sock)
    for number, server in enumerate(servers):
        server.sendto(b"%d" % number, (host, lab.port))
    assert [heard(sock) for sock in socks] == [b"0", b"1"]
    third = lab.sock()
    with pytest.raises(OSError, match="in use") as caught:
        fixed.bind(third, lab.aim(servers[0]), lab.claim(servers[0]))
    assert caught.value.errno == errno.EADDRINUSE
    assert third.getsockname()[1] == 0
    assert not sockets.keeps_port(third)


@HOSTS
def test_one_that_hears_many(stack: ExitStack, host: str) -> None:
    lab = Lab(stack, host)
    server, stranger, sock = lab.server(), lab.server(), lab.sock()
    claim = lab.claim(server, alone=True)
    assert fixed.bind(sock, lab.aim(server), claim) == (host, lab.port)
    stranger.sendto(b"stranger", (host, lab.port))
    assert heard(sock) == b"stranger"
    with pytest.raises(OSError, match="in use"):
        fixed.bind(lab.sock(), lab.aim(stranger), lab.claim(stranger))
    claim.give_back()
    # Parked it leaves all to the next one, which hears many, too.
    sockets.park(sock)
    another = lab.sock()
    fixed.bind(another, lab.aim(server), lab.claim(server, alone=True))
    for sender in (server, stranger):
        sender.sendto(b"for the next", (host, lab.port))
        assert heard(another) == b"for the next"
    assert heard(sock) is None


@HOSTS
def test_it_keeps_its_port_and_leads_elsewhere(stack: ExitStack, host: str) -> None:
    lab = Lab(stack, host)
    first, second, sock = lab.server(), lab.server(), lab.sock()
    claim = lab.claim(first)
    fixed.bind(sock, lab.aim(first), claim)
    first.sendto(b"late", (host, lab.port))
    claim.give_back()
    moved = lab.claim(second)
    assert fixed.rejoin(sock, second.getsockname()[:2], moved, connected=True) == (host, lab.port)
    first.sendto(b"stranger", (host, lab.port))
    second.sendto(b"answer", (host, lab.port))
    assert [heard(sock), heard(sock)] == [b"answer", None]
    sock.send(b"question")
    assert second.recvfrom(100)[1][:2] == (host, lab.port)
    # Where it cannot it is deaf, and what is sent by it fails.
    taken = lab.sock()
    fixed.bind(taken, lab.aim(first), lab.claim(first))
    moved.give_back()
    with pytest.raises(OSError, match="in use"):
        fixed.rejoin(sock, first.getsockname()[:2], lab.claim(first), connected=True)
    second.sendto(b"stranger", (host, lab.port))
    assert heard(sock) is None
    with pytest.raises(OSError, match="Destination address required") as caught:
        sock.send(b"nowhere")
    assert caught.value.errno in sockets.CUT_OFF
    assert fixed.rejoin(sock, second.getsockname()[:2], lab.claim(second), connected=True)
    second.sendto(b"again", (host, lab.port))
    assert heard(sock) == b"again"


@pytest.mark.parametrize(
    ("named", "fallback", "own"),
    [
        ([ABSENT, "127.0.0.6"], False, "127.0.0.6"),
        ([ABSENT], True, "127.0.0.1"),
        ([ABSENT], False, None),
        ([], False, None),
    ],
)
def test_the_first_source_that_is_there(
    stack: ExitStack,
    named: list[str],
    fallback: bool,  # noqa: FBT001
    own: str | None,
) -> None:
    lab = Lab(stack)
    server, sock = lab.server(), lab.sock()
    aim = lab.aim(server, Sources(named, fallback, unbind=True))
    if own is None:
        with pytest.raises(OSError, match="Cannot assign") as caught:
            fixed.bind(sock, aim, lab.claim(server))
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert not sockets.keeps_port(sock)
    else:
        assert fixed.bind(sock, aim, lab.claim(server)) == (own, lab.port)


def test_the_next_source_where_the_end_is_anothers(stack: ExitStack) -> None:
    lab = Lab(stack)
    server = lab.server()
    sources = Sources(["127.0.0.5", "127.0.0.6"], fallback=True)
    for own in ("127.0.0.5", "127.0.0.6"):
        assert fixed.bind(lab.sock(), lab.aim(server, sources), lab.claim(server))[0] == own
    with pytest.raises(OSError, match="in use"):  # the system's choice is none
        fixed.bind(lab.sock(), lab.aim(server, sources), lab.claim(server))


def test_what_another_program_has(stack: ExitStack) -> None:
    lab = Lab(stack)
    server, holder, sock = lab.server(), lab.server(), lab.sock()
    aim = lab.aim(server)._replace(port=holder.getsockname()[1])
    with pytest.raises(OSError, match="in use"):
        fixed.bind(sock, aim, lab.claim(server))
    assert not sockets.keeps_port(sock)
    assert (lab.host, aim.port) not in lab.ends


@HOSTS
@pytest.mark.parametrize("alone", [False, True])
def test_one_without_a_way_to_its_server_keeps_nothing(
    stack: ExitStack,
    host: str,
    alone: bool,  # noqa: FBT001
) -> None:
    lab = Lab(stack, host)
    server, sock = lab.server(), lab.sock()
    port = server.getsockname()[1]
    to = ("255.255.255.255", port) if host == "127.0.0.1" else ("fe80::1", port)
    aim = lab.aim(server)._replace(server=to)  # which may not be written to
    with pytest.raises(OSError, match=r"denied|Invalid|unreachable"):
        fixed.bind(sock, aim, Claim(lab.ends, to, NOBODY, alone=alone))
    assert not sockets.keeps_port(sock)
    assert (host, lab.port) not in lab.ends


def test_a_reset_leaves_it_parked(stack: ExitStack) -> None:
    lab = Lab(stack)
    server, sock = lab.server(), lab.sock()
    fixed.bind(sock, lab.aim(server), lab.claim(server))
    sockets.reset(sock)
    assert sock.getsockname() == sock.getpeername() == (lab.host, lab.port)
    plain = lab.sock()
    plain.connect(server.getsockname())
    sockets.reset(plain)
    assert plain.getsockname()[1] == 0
