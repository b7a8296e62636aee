"""Errors that the network reports: counted, never fatal, and no datagram lost to them."""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import partial
from itertools import pairwise

import pytest

from rig import Endpoint, Rig, verdict
from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.engine.interface import Verdict
from udpproxy.proxy.session.reasons import Reason

KINDS = [SessionType.NORMAL, SessionType.ANY_PORT]
PORT_UNREACHABLE = 3
HOST_PROHIBITED = 10
"""The code that firewalls answer with: the kernel makes EHOSTUNREACH of it."""


def nobody(rig: Rig, address: str = "127.0.0.1") -> Endpoint:
    """A port where nobody listens."""
    with rig.udp(address) as sock:
        host, port = sock.getsockname()[:2]
    return host, port


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_a_closed_port_is_counted_and_the_session_goes_on(
    rig: Rig, kind: SessionType, address: str
) -> None:
    rig.listen(address)
    client, where = rig.udp(address), nobody(rig, address)
    rig.host.policy = lambda _: verdict(where, kind)
    for wanted in (1, 2, 3):
        client.sendto(b"anybody?", rig.where())
        rig.until(partial(rig.has_counted, "icmp-errors", wanted))
    assert rig.engine.sessions == 1
    assert rig.count("upload-datagrams") == 3
    server = rig.udp(*where)
    rig.converse(client, server, rig.where())
    assert rig.engine.kill(1)
    assert rig.expect_end(1, Reason.KILLED).icmp == 3
    assert rig.count("send-errors") == 0
    assert rig.count("icmp-errors") == 3
    rig.expect_clean_pool()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_the_host_hears_once_until_the_server_answers(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    client, where = rig.udp(), nobody(rig)
    rig.host.policy = lambda _: verdict(where, kind)
    for wanted in (1, 2, 3):
        client.sendto(b"anybody?", rig.where())
        rig.until(partial(rig.has_counted, "icmp-errors", wanted))
    rig.until(lambda: rig.host.dead)
    assert rig.host.dead == [(1, errno.ECONNREFUSED)]
    with rig.udp(*where) as server:
        for _ in range(2):
            rig.converse(client, server, rig.where())
        rig.until(lambda: rig.host.answering)
    assert rig.host.answering == [1]
    if kind is SessionType.NORMAL:  # the other is pinned by now
        client.sendto(b"anybody?", rig.where())
        rig.until(lambda: len(rig.host.dead) == 2)


def test_the_host_hears_of_other_sessions_first_replies_when_it_awaits_them(rig: Rig) -> None:
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(rig.udp(), server, rig.where())
    rig.engine.await_answers(on=True)
    client = rig.udp()
    for _ in range(3):
        rig.converse(client, server, rig.where())
    rig.until(lambda: rig.host.answering)
    rig.engine.await_answers(on=False)
    rig.converse(rig.udp(), server, rig.where())
    assert rig.is_quiet()
    assert rig.host.answering == [2]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_a_closed_port_ends_the_session_where_that_is_wanted(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    client, where = rig.udp(), nobody(rig)
    rig.host.policy = lambda _: verdict(where, kind, close_on_unreachable=True)
    client.sendto(b"anybody?", rig.where())
    record = rig.expect_end(1, Reason.UNREACHABLE)
    assert (record.uploads, record.icmp) == (1, 1)
    server = rig.udp(*where)
    rig.converse(client, server, rig.where())
    assert rig.host.opened_ids == [1, 2]
    assert rig.engine.kill(2)
    rig.expect_clean_pool()


def test_a_pinned_peer_that_went_away(rig: Rig) -> None:
    rig.listen()
    client, server, other = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ANY_PORT)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    other.sendto(b"answer", source)
    rig.take(client)
    where = other.getsockname()
    other.close()
    client.sendto(b"anybody?", rig.where())
    rig.until(lambda: rig.count("icmp-errors") == 1)
    back = rig.udp(*where)
    client.sendto(b"again", rig.where())
    assert rig.take(back) == (b"again", source)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_the_datagram_after_an_error_is_not_lost(rig: Rig, kind: SessionType) -> None:
    """Two datagrams in one batch: the error of the first is reported as the second is sent."""
    rig.listen()
    client, where = rig.udp(), nobody(rig)
    rig.host.policy = lambda _: verdict(where, kind)
    servers: list[socket.socket] = []

    def open_the_port(_: str, data: bytes) -> None:
        if data == b"two":
            servers.append(rig.udp(*where))

    rig.host.on_datagram = open_the_port
    rig.engine.watch(on=True)
    for data in (b"one", b"two"):
        client.sendto(data, rig.where())
    rig.until(lambda: servers)
    assert rig.take(servers[0])[0] == b"two"
    assert rig.count("upload-datagrams") == 2
    assert rig.count("icmp-errors") == 1
    assert rig.count("send-errors") == 0


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_the_error_ends_the_session_before_the_next_datagrams(
    rig: Rig, kind: SessionType, address: str, *, watched: bool
) -> None:
    """They came after it: the first of them opens another session."""
    rig.listen(address)
    client, where = rig.udp(), nobody(rig)
    to = ("127.0.0.1", rig.where()[1])
    servers: list[socket.socket] = []

    def decide(_: str) -> Verdict:
        if rig.host.opened_ids or len(rig.host.asked) > 1:
            servers.append(rig.udp(*where))
        return verdict(where, kind, close_on_unreachable=True)

    rig.host.policy = decide
    rig.engine.watch(on=watched)
    sent = [b"one", b"two", b"three", b"four!"]
    for data in sent:
        client.sendto(data, to)
    record = rig.expect_end(1, Reason.UNREACHABLE)
    assert (record.uploads, record.icmp) == (1, 1)
    rig.until(lambda: servers)
    got = [rig.take(servers[0]) for _ in sent[1:]]
    assert [data for data, _ in got] == sent[1:]
    servers[0].sendto(b"answer", got[0][1])
    assert rig.take(client) == (b"answer", to)
    assert rig.host.opened_ids == [1, 2]
    assert rig.count("upload-datagrams") == len(sent)
    assert rig.count("send-errors") == 0


def forge(code: int, source: Endpoint, server: Endpoint) -> None:
    """An ICMP "unreachable" about a datagram from `source` to `server`."""
    total = 28
    inner = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, total, 1, 0, 64, socket.IPPROTO_UDP, 0,
        socket.inet_aton(source[0]), socket.inet_aton(server[0]),
    )  # fmt: skip
    inner += struct.pack("!HHHH", source[1], server[1], 8, 0)
    message = struct.pack("!BBHI", 3, code, 0, 0) + inner
    words = sum(struct.unpack(f"!{len(message) // 2}H", message))
    words = (words & 0xFFFF) + (words >> 16)
    check = ~(words + (words >> 16)) & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.sendto(message[:2] + struct.pack("!H", check) + message[4:], (source[0], 0))


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can send ICMP messages of its own")


@root
@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_a_firewall_on_the_way_refuses(rig: Rig, kind: SessionType, *, closing: bool) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    where = server.getsockname()
    rig.host.policy = lambda _: verdict(where, kind, close_on_unreachable=closing)
    client.sendto(b"one", rig.where())
    _, source = rig.take(server)
    rig.host.on_datagram = lambda _, data: forge(HOST_PROHIBITED, source, where)
    rig.engine.watch(on=True)
    client.sendto(b"two", rig.where())
    if closing:
        record = rig.expect_end(1, Reason.UNREACHABLE)
        data, again = rig.take(server)
        # A connected socket cannot tell it from a missing route, but by sending.
        plain = kind is SessionType.NORMAL
        assert (record.icmp, record.uploads) == (1, 1 + plain)
        assert (data, again == source) == (b"two", plain)
        return
    assert rig.take(server) == (b"two", source)
    assert rig.count("icmp-errors") == 1
    assert rig.count("send-errors") == 0
    assert rig.host.failures == []


@pytest.mark.parametrize("closing", [False, True])
def test_an_error_that_only_the_queue_tells_of(rig: Rig, *, closing: bool) -> None:
    """The socket's own error was taken by another call, as a check of it would."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    where = server.getsockname()
    rig.host.policy = lambda _: verdict(where, SessionType.ANY_PORT, close_on_unreachable=closing)
    client.sendto(b"one", rig.where())
    _, source = rig.take(server)
    server.close()
    for sock in rig.lent_sockets():
        if sock.getsockname()[1] == source[1]:
            sock.sendto(b"anybody?", where)
            # ICMP of our own system is there at once.
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if closing:
        assert rig.expect_end(1, Reason.UNREACHABLE).icmp == 1
    else:
        rig.until(lambda: rig.count("icmp-errors") == 1)
        assert rig.engine.sessions == 1


MOST = 64
"""Errors that are taken from a queue in one go."""

QUEUED = 3 * MOST + 8
"""The kernel keeps some more in a socket of the default size."""


@root
def test_a_queue_is_emptied_in_parts(rig: Rig) -> None:
    """Others can fill it as fast as it is read, and are not to keep the engine."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    where = server.getsockname()
    rig.host.policy = lambda _: verdict(where, SessionType.ANY_PORT)
    client.sendto(b"one", rig.where())
    _, source = rig.take(server)
    forge(PORT_UNREACHABLE, source, where)  # the first is news, which an engine may take a turn for
    rig.until(partial(rig.has_counted, "icmp-errors", 1))
    for _ in range(QUEUED):
        forge(PORT_UNREACHABLE, source, where)
    taken = [1]
    for _ in range(10):
        rig.turn()
        taken.append(rig.count("icmp-errors"))
    assert max(after - before for before, after in pairwise(taken)) == MOST
    rig.until(partial(rig.has_counted, "icmp-errors", QUEUED + 1))
    rig.until(lambda: rig.is_quiet())


@root
def test_a_full_queue_costs_no_datagram(rig: Rig) -> None:
    """The kernel reports what is left in it by the next call again."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    where = server.getsockname()
    rig.host.policy = lambda _: verdict(where, SessionType.ANY_PORT)
    client.sendto(b"one", rig.where())
    _, source = rig.take(server)

    def fill(*_: object) -> None:
        for _number in range(QUEUED):
            forge(PORT_UNREACHABLE, source, where)

    rig.host.on_datagram = fill
    rig.engine.watch(on=True)
    client.sendto(b"two", rig.where())
    assert rig.take(server) == (b"two", source)
    rig.until(partial(rig.has_counted, "icmp-errors", QUEUED))
    assert rig.count("send-errors") == 0
