"""Who may reply: every session type, with allowed senders and foreign ones (SPEC 3)."""

from __future__ import annotations

import socket
import struct

import pytest

from rig import Rig, has_nothing, verdict
from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.session.reasons import Reason

LOOPBACKS = ["127.0.0.1", "::1"]
IPV6_CHECKSUM, CHECKSUM_AT = 7, 6
"""linux/in6.h; in a UDP header."""


@pytest.mark.parametrize("address", LOOPBACKS)
@pytest.mark.parametrize(
    "kind", [SessionType.NORMAL, SessionType.ANY_PORT, SessionType.ANY_SOCK], ids=lambda k: k.value
)
def test_the_server_may_answer(rig: Rig, kind: SessionType, address: str) -> None:
    rig.listen(address)
    client, server = rig.udp(address), rig.udp(address)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind)
    first = rig.converse(client, server, rig.where())
    again = rig.converse(client, server, rig.where())
    assert first == again
    assert rig.engine.sessions == 1
    assert rig.host.opened_ids == [1]
    assert len(rig.host.asked) == 1


def test_many_clients_are_kept_apart(rig: Rig) -> None:
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    clients = [rig.udp() for _ in range(8)]
    sources = {}
    for number, client in enumerate(clients):
        client.sendto(str(number).encode(), rig.where())
        _, sources[number] = rig.take(server)
    assert len(set(sources.values())) == 8
    for number, source in reversed(sources.items()):
        server.sendto(str(number).encode(), source)
    for number, client in enumerate(clients):
        assert rig.take(client)[0] == str(number).encode()


def test_a_connected_session_is_deaf_to_strangers(rig: Rig) -> None:
    rig.listen()
    client, server, stranger = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    source = rig.converse(client, server, rig.where())
    stranger.sendto(b"forged", source)
    server.sendto(b"true", source)
    assert rig.take(client)[0] == b"true"
    assert has_nothing(client)


@pytest.mark.parametrize("kind", [SessionType.ANY_PORT, SessionType.ANY_SOCK])
@pytest.mark.parametrize("address", LOOPBACKS)
def test_the_first_reply_fixes_the_peer(rig: Rig, kind: SessionType, address: str) -> None:
    rig.listen(address)
    client, server, other = (rig.udp(address) for _ in range(3))
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    other.sendto(b"answer from another port", source)
    assert rig.take(client)[0] == b"answer from another port"
    client.sendto(b"to whom?", rig.where())
    assert rig.take(other) == (b"to whom?", source)
    server.sendto(b"too late", source)
    other.sendto(b"marker", source)
    assert rig.take(client)[0] == b"marker"
    assert has_nothing(server)
    assert has_nothing(client)


def test_what_came_before_the_peer_was_fixed_is_judged(rig: Rig) -> None:
    rig.listen()
    client, server, other = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ANY_PORT)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    for sock, data in ((other, b"first"), (server, b"second"), (other, b"third")):
        sock.sendto(data, source)
    assert rig.take(client)[0] == b"first"
    assert rig.take(client)[0] == b"third"
    assert rig.host.strays == [server.getsockname()]
    assert rig.count("stray-replies") == 1


def test_any_port_wants_the_address(rig: Rig) -> None:
    rig.listen()
    client, server, stranger = rig.udp(), rig.udp(), rig.udp("127.0.0.2")
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ANY_PORT)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    stranger.sendto(b"forged", source)
    server.sendto(b"true", source)
    assert rig.take(client)[0] == b"true"
    assert has_nothing(client)
    assert rig.host.strays == [stranger.getsockname()]
    assert rig.count("stray-replies") == 1


def test_any_sock_takes_another_address(rig: Rig) -> None:
    rig.listen()
    client, server, other = rig.udp(), rig.udp(), rig.udp("127.0.0.2")
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ANY_SOCK)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    other.sendto(b"answer", source)
    assert rig.take(client)[0] == b"answer"
    client.sendto(b"more", rig.where())
    assert rig.take(other)[0] == b"more"
    assert rig.engine.kill(1)
    record = rig.expect_end(1, Reason.KILLED)
    assert record.peer is not None
    assert record.peer[1] == other.getsockname()[1]


def test_one_way_ends_at_an_answer(rig: Rig) -> None:
    rig.listen()
    client, server, stranger = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ONE_WAY)
    for data in (b"one", b"two"):
        client.sendto(data, rig.where())
        received, source = rig.take(server)
        assert received == data
    stranger.sendto(b"nothing to me", source)
    client.sendto(b"three", rig.where())
    assert rig.take(server) == (b"three", source)
    assert rig.engine.sessions == 1
    server.sendto(b"answer", source)
    record = rig.expect_end(1, Reason.UNEXPECTED_REPLY)
    assert (record.uploads, record.downloads) == (3, 0)
    client.sendto(b"four", rig.where())
    rig.take(server)
    assert rig.host.opened_ids == [1, 2]
    assert has_nothing(client)


@pytest.mark.parametrize("any_port", [False, True])
def test_many_may_answer_a_broadcast(rig: Rig, *, any_port: bool) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    port = server.getsockname()[1]
    second, outside = rig.udp("127.0.0.200", port), rig.udp("127.0.1.1", port)
    elsewhere = rig.udp("127.0.0.3")
    rig.host.policy = lambda _: verdict(
        server.getsockname(), SessionType.BROADCAST, network="127.0.0.0/24", any_port=any_port
    )
    client.sendto(b"who is there?", rig.where())
    _, source = rig.take(server)
    outside.sendto(b"outside", source)
    elsewhere.sendto(b"elsewhere", source)
    second.sendto(b"second", source)
    server.sendto(b"first", source)
    got = [rig.take(client)[0] for _ in range(3 if any_port else 2)]
    assert got == ([b"elsewhere"] if any_port else []) + [b"second", b"first"]
    assert rig.count("stray-replies") == (1 if any_port else 2)
    client.sendto(b"still to all", rig.where())
    assert rig.take(server)[0] == b"still to all"
    assert has_nothing(second)


def test_watching_shows_every_datagram(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    seen: list[tuple[str, bytes]] = []
    rig.host.on_datagram = lambda direction, data: seen.append((direction, data))
    rig.converse(client, server, rig.where())
    assert seen == []
    rig.engine.watch(on=True)
    rig.converse(client, server, rig.where())
    assert seen == [("upload", b"question"), ("download", b"answer")]


def test_refused_by_policy(rig: Rig) -> None:
    rig.listen()
    client, other, server = rig.udp("127.0.0.9"), rig.udp(), rig.udp()
    rig.host.policy = lambda address: (
        None if address == "127.0.0.9" else verdict(server.getsockname())
    )
    client.sendto(b"let me in", rig.where())
    other.sendto(b"marker", rig.where())
    assert rig.take(server)[0] == b"marker"
    assert has_nothing(server)
    assert rig.host.asked == [(1, "127.0.0.9", "127.0.0.1"), (1, "127.0.0.1", "127.0.0.1")]
    assert rig.host.opened_ids == [1]


def from_port_0(address: str, to: tuple[str, int], data: bytes) -> None:
    """A datagram that no socket of ours would send."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, CHECKSUM_AT)
        sock.bind((address, 0))
        head = struct.pack("!HHHH", 0, to[1], 8 + len(data), 0)
        sock.sendto(head + data, (to[0], 0))


@pytest.mark.parametrize("kind", [SessionType.ANY_PORT, SessionType.ANY_SOCK])
@pytest.mark.parametrize("address", LOOPBACKS)
def test_port_0_never_fixes_the_peer(rig: Rig, kind: SessionType, address: str) -> None:
    rig.listen(address)
    client, server = rig.udp(address), rig.udp(address)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    from_port_0(address, (address, source[1]), b"forged")
    rig.until(lambda: rig.host.strays)
    server.sendto(b"answer", (address, source[1]))
    assert rig.take(client)[0] == b"answer"
    client.sendto(b"again", rig.where())
    assert rig.take(server)[0] == b"again"
    assert rig.count("stray-replies") == 1
