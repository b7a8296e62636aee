"""Datagrams of every size, both families, and the address that answers (SPEC 3)."""

from __future__ import annotations

import pytest

from rig import Rig, has_nothing, verdict
from udpproxy.proxy.config.model import SessionType

MOST = 65_507
MOST_V6 = 65_527


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::"])
@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK], ids=lambda k: k.value)
@pytest.mark.parametrize("size", [0, 1, 1472, 9000, MOST])
def test_a_datagram_of_any_size_passes_whole(
    rig: Rig, address: str, kind: SessionType, size: int
) -> None:
    rig.listen(address)
    host = "::1" if ":" in address else "127.0.0.1"
    client, server = rig.udp(host), rig.udp(host)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind)
    data = bytes(number % 251 for number in range(size))
    where = host, rig.where()[1]
    client.sendto(data, where)
    received, source = rig.take(server)
    assert received == data
    server.sendto(data[::-1], source)
    assert rig.take(client) == (data[::-1], where)
    assert rig.count("upload-bytes") == rig.count("download-bytes") == size
    assert rig.count("upload-datagrams") == rig.count("download-datagrams") == 1


def test_empty_datagrams_end_nothing(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    source = rig.converse(client, server, rig.where())
    for _ in range(3):
        client.sendto(b"", rig.where())
        assert rig.take(server) == (b"", source)
        server.sendto(b"", source)
        assert rig.take(client) == (b"", rig.where())
    assert rig.converse(client, server, rig.where()) == source


@pytest.mark.parametrize(
    ("listening", "serving"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("::", "127.0.0.1")]
)
def test_a_session_may_lead_to_the_other_family(rig: Rig, listening: str, serving: str) -> None:
    rig.listen(listening)
    host = "::1" if listening == "::" else listening
    client, server = rig.udp(host), rig.udp(serving)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2])
    rig.converse(client, server, (host, rig.where()[1]))


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK], ids=lambda k: k.value)
def test_what_cannot_be_sent_on_is_counted_and_costs_only_itself(
    rig: Rig, kind: SessionType
) -> None:
    """An IPv6 client can send a little more than IPv4 can carry."""
    rig.listen("::1")
    client, server = rig.udp("::1"), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind)
    source = rig.converse(client, server, rig.where())
    client.sendto(bytes(MOST_V6), rig.where())
    client.sendto(b"marker", rig.where())
    assert rig.take(server) == (b"marker", source)
    assert has_nothing(server)
    assert rig.count("send-errors") == 1
    assert rig.count("icmp-errors") == 0
    assert rig.host.failures == ["send to a server"]
    assert rig.engine.kill(1)
    assert rig.host.records[1].uploads == 2
    rig.expect_clean_pool()


def test_a_failed_send_leaves_nothing_that_wakes_for_ever(rig: Rig) -> None:
    """With IP_RECVERR on, such an error is noted in the error queue: epoll would go on ringing."""
    rig.listen("::1")
    client, server = rig.udp("::1"), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ANY_SOCK)
    client.sendto(bytes(MOST_V6), rig.where())
    rig.until(lambda: rig.count("send-errors") == 1)
    # Quiet means: one look at what is ready lasts as long as the patience it was given.
    rig.until(lambda: rig.is_quiet())


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK], ids=lambda k: k.value)
def test_a_wildcard_listener_answers_from_the_address_written_to(
    rig: Rig, kind: SessionType
) -> None:
    rig.listen("0.0.0.0")
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind)
    port = rig.where()[1]
    sources = {}
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.1"):
        sources[address] = rig.converse(client, server, (address, port))
    assert len(set(sources.values())) == 3
    assert [asked[2] for asked in rig.host.asked] == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    for address in ("127.0.0.3", "127.0.0.1", "127.0.0.2"):
        assert rig.converse(client, server, (address, port)) == sources[address]
    assert rig.engine.sessions == 3


def test_two_listeners_know_their_own_sessions(rig: Rig) -> None:
    first, second = rig.listen(), rig.listen("127.0.0.2")
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    one = rig.converse(client, server, rig.where(first))
    two = rig.converse(client, server, rig.where(second))
    assert one != two
    assert [asked[::2] for asked in rig.host.asked] == [(1, "127.0.0.1"), (2, "127.0.0.2")]


def test_bursts_pass_in_order(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    source = rig.converse(client, server, rig.where())
    for number in range(500):
        client.sendto(b"%d" % number, rig.where())
        server.sendto(b"%d" % number, source)
    for number in range(500):
        assert rig.take(server)[0] == b"%d" % number
        assert rig.take(client)[0] == b"%d" % number
