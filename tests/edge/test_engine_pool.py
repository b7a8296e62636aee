"""The borrowed sockets: nothing of an old session clings to a new one (DESIGN 3)."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Callable
from socket import AF_INET, AF_INET6

import pytest

from echo import udp
from host import descriptors_left
from namespaces import Network
from rig import Rig, has_nothing, verdict
from udpproxy.errors import UnitError
from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.pool import BATCH, Pool, is_full, make_carrier, peek_carrier
from udpproxy.proxy.parent.listening import enlarge
from udpproxy.proxy.session.reasons import Reason

KINDS = list(SessionType)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_sockets_come_back_clean(rig: Rig, kind: SessionType, address: str) -> None:
    rig.listen(address)
    client, server = rig.udp(address), rig.udp(address)
    network = "::/0" if ":" in address else "127.0.0.0/8"
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind, network=network)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    if kind is not SessionType.ONE_WAY:
        server.sendto(b"answer", source)
        rig.take(client)
    for _ in range(20):
        server.sendto(b"left over", source)
    assert rig.engine.kill(1)
    rig.expect_clean_pool()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_an_error_that_waits_is_cleared(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    where = server.getsockname()
    server.close()
    rig.host.policy = lambda _: verdict(where, kind, network="127.0.0.0/8")
    client.sendto(b"anybody?", rig.where())
    # The datagram goes out in the turn that opens the session; its error is then still unread.
    rig.until(lambda: rig.host.opened_ids)
    assert rig.engine.kill(1)
    rig.expect_clean_pool()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_a_late_reply_never_reaches_the_next_session(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    old, new, server = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, network="127.0.0.0/8")
    old.sendto(b"question", rig.where())
    _, source = rig.take(server)
    server.sendto(b"in the socket, unread", source)
    assert rig.engine.kill(1)
    new.sendto(b"question", rig.where())
    _, second = rig.take(server)
    assert second != source
    server.sendto(b"late", source)
    server.sendto(b"marker", second)
    if kind is SessionType.ONE_WAY:
        rig.expect_end(2, Reason.UNEXPECTED_REPLY)
    else:
        assert rig.take(new)[0] == b"marker"
    assert has_nothing(new)
    assert has_nothing(old)
    assert rig.count("stray-replies") == 0


def leave(sock: socket.socket, sender: socket.socket, count: int) -> None:
    """What was on its way to the socket when it gave its port back, and came in afterwards."""
    sock.bind(("127.0.0.1", 0))
    for _ in range(count):
        sender.sendto(b"late", sock.getsockname())
    sockets.disconnect(sock)


def expect_the_answer_alone(
    rig: Rig, client: socket.socket, server: socket.socket, kind: SessionType
) -> None:
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    assert rig.host.reasons == {}
    server.sendto(b"answer", source)
    if kind is SessionType.ONE_WAY:
        rig.expect_end(rig.host.opened_ids[0], Reason.UNEXPECTED_REPLY)
    else:
        assert rig.take(client)[0] == b"answer"
    assert has_nothing(client)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_what_came_in_late_is_nobodys(new_rig: Callable[..., Rig], kind: SessionType) -> None:
    rig = new_rig(sessions=1)
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, network="127.0.0.0/8")
    for sock in rig.lent_sockets():
        if sock.family == AF_INET:
            leave(sock, server, 3)
    expect_the_answer_alone(rig, client, server, kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_so_is_more_than_a_session_waits_for(
    new_rig: Callable[..., Rig], kind: SessionType
) -> None:
    """A buffer that somebody made larger than ours holds more than ten thousand."""
    rig = new_rig(sessions=1)
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, network="127.0.0.0/8")
    for sock in rig.lent_sockets():
        if sock.family == AF_INET:
            enlarge(sock)
            leave(sock, server, 11_000)
    client.sendto(b"question", rig.where())
    rig.until(lambda: rig.host.refusals)
    assert rig.host.refusals == ["refused-no-port"]
    assert rig.host.problems == [errno.EAGAIN]
    assert rig.host.failures == []
    rig.expect_clean_pool()
    expect_the_answer_alone(rig, client, server, kind)


class Besieged(socket.socket):
    """For each datagram that is read from it another one comes, as long as it has a port."""

    def __init__(self, by: socket.socket) -> None:
        super().__init__(AF_INET, socket.SOCK_DGRAM)
        self.by = by
        self.reads = 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.reads += 1
        if self.getsockname()[1]:
            self.by.sendto(b"x", self.getsockname())
        return super().recv(size, flags)


def test_a_port_under_fire_is_no_port() -> None:
    pool = Pool([])
    with udp() as by, Besieged(by) as sock:
        sock.settimeout(0)
        with pytest.raises(OSError, match="temporarily unavailable") as problem:
            pool.connect(sock, by.getsockname())
        assert problem.value.errno == errno.EAGAIN
        assert sock.reads < 1000
        pool.reset(sock, plain=True)
        assert sock.getsockname()[1] == 0
        assert has_nothing(sock)


def test_ports_are_fresh(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    ports = set()
    for number in range(1, 21):
        ports.add(rig.converse(client, server, rig.where())[1])
        assert rig.engine.kill(number)
    assert len(ports) > 15


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK])
def test_ports_rest_before_they_come_again(rig: Rig, kind: SessionType) -> None:
    """Left to the kernel, some forty of these would have the port of one that has just ended."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind)
    ports = []
    for number in range(1, 1501):
        client.sendto(b"question", rig.where())
        ports.append(rig.take(server)[1][1])
        assert rig.engine.kill(number)
    assert len(set(ports)) == len(ports)


def test_scarce_ports_are_used_all_the_same(new_rig: Callable[..., Rig]) -> None:
    """With twenty ports in all, resting ones are better than none."""
    with Network() as network:
        network.add("host")
        narrow = "echo 20000 20019 >/proc/sys/net/ipv4/ip_local_port_range"
        subprocess.run([*network.prefix("host"), "sh", "-c", narrow], check=True)
        rig = network.on("host", lambda: new_rig(sessions=4))
        network.on("host", rig.listen)
        client, server = network.on("host", lambda: (rig.udp(), rig.udp()))
        rig.host.policy = lambda _: verdict(server.getsockname())
        ports = set()
        for number in range(1, 201):
            ports.add(rig.converse(client, server, rig.where())[1])
            assert rig.engine.kill(number)
        assert rig.host.refusals == []
        assert ports <= set(range(20000, 20020))
        rig.close()


def test_a_pool_can_grow_by_a_family() -> None:
    carriers = [make_carrier(family, 2) for family in (AF_INET, AF_INET)]
    pool = Pool(carriers)
    assert carriers == []
    assert (pool.size(AF_INET), pool.size(AF_INET6)) == (4, 0)
    more = [make_carrier(AF_INET6, BATCH)]
    pool.extend(more)
    assert (pool.size(AF_INET), pool.size(AF_INET6)) == (4, BATCH)
    pool.close()


def test_a_carrier_stays_full_however_often_it_is_peeked() -> None:
    with make_carrier(AF_INET, 3) as carrier:
        for _ in range(3):
            found = peek_carrier(carrier)
            assert len(found) == 3
            for sock in found:
                sock.close()
            assert is_full(carrier)
        carrier.recv(1)
        assert not is_full(carrier)
        assert peek_carrier(carrier) == []


def test_a_carrier_that_does_not_fit_is_no_shorter_one() -> None:
    carriers = [make_carrier(AF_INET, 20) for _ in range(3)]
    pool = Pool([])
    with descriptors_left(50), pytest.raises(UnitError, match="10 of 20 sockets of a carrier"):
        pool.extend(carriers)
    assert (len(carriers), pool.size(AF_INET)) == (3, 0)
    with descriptors_left(60):
        pool.extend(carriers)
        assert (len(carriers), pool.size(AF_INET)) == (0, 60)
    pool.close()


def test_an_empty_carrier_is_a_clear_error() -> None:
    with make_carrier(AF_INET, 1) as carrier:
        carrier.recv(1)
        with pytest.raises(UnitError, match="empty"):
            Pool([carrier])
