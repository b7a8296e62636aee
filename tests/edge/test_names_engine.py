"""What names need of an engine: datagrams that waited, another server, an end for any reason."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from rig import Rig, has_nothing, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.engine.interface import PendingName, Verdict
from udpproxy.proxy.session.reasons import Reason

WAIT = PendingName(
    kind="server",
    name="srv.test",
    rule_number=0,
    generation=1,
    rule="rule",
    type=SessionType.NORMAL,
    port=9,
)
PLACES = ["127.0.0.1", "0.0.0.0", "::1", "::"]


def loopback(address: str) -> str:
    return "::1" if ":" in address else "127.0.0.1"


@pytest.mark.parametrize("address", PLACES)
def test_datagrams_that_wait_come_back_in_order(rig: Rig, address: str) -> None:
    rig.listen(address)
    to = (loopback(address), rig.where()[1])
    server, client = rig.udp(to[0]), rig.udp(to[0])
    rig.host.policy = lambda sender: WAIT
    for data in (b"one", b"", b"three"):
        client.sendto(data, to)
    rig.until(lambda: len(rig.host.kept) == 3)
    assert (rig.engine.sessions, rig.host.opened_ids) == (0, [])
    assert has_nothing(server)
    number, sender, arrival, _ = rig.host.kept[0]
    where = server.getsockname()[:2]
    rig.host.policy = lambda sender: verdict(where)
    rig.engine.inject(number, sender, arrival, [data for *_, data in rig.host.kept])
    assert [rig.take(server)[0] for _ in range(3)] == [b"one", b"", b"three"]
    assert rig.engine.sessions == 1
    source = rig.converse(client, server, to)
    server.sendto(b"reply", source)
    assert rig.take(client) == (b"reply", to)
    assert rig.count("upload-datagrams") == 4


def test_waiting_again_and_being_refused(rig: Rig) -> None:
    rig.listen()
    client = rig.udp()
    rig.host.policy = lambda sender: WAIT
    client.sendto(b"one", rig.where())
    rig.until(lambda: rig.host.kept)
    number, sender, arrival, data = rig.host.kept.pop()
    rig.engine.inject(number, sender, arrival, [data, b"two"])
    rig.until(lambda: len(rig.host.kept) == 2)
    assert [(key[1:3], data) for *key, data in rig.host.kept] == [
        ([sender, arrival], b"one"),
        ([sender, arrival], b"two"),
    ]
    rig.host.policy = lambda sender: None
    rig.engine.inject(number, sender, arrival, [b"one", b"two"])
    rig.until(rig.is_quiet)
    rig.engine.inject(99, sender, arrival, [b"whose listener is gone"])
    assert rig.engine.sessions == 0


TYPES = [SessionType.NORMAL, SessionType.ANY_PORT, SessionType.ANY_SOCK, SessionType.ONE_WAY]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.value)
@pytest.mark.parametrize(("old", "new"), [("127.0.0.1", "127.0.0.2"), ("127.0.0.1", "::1")])
def test_a_session_goes_on_to_another_server(
    rig: Rig, kind: SessionType, old: str, new: str
) -> None:
    rig.listen()
    one, two, client = rig.udp(old), rig.udp(new), rig.udp()
    here, there = one.getsockname()[:2], two.getsockname()[:2]
    limits = Limits(upload_datagrams=5)
    answers: dict[str, Verdict] = {"now": verdict(here, kind, limits=limits)}
    rig.host.policy = lambda sender: answers["now"]
    client.sendto(b"first", rig.where())
    _, source = rig.take(one)
    if kind is not SessionType.ONE_WAY:
        one.sendto(b"pins", source)
        rig.take(client)
    assert rig.engine.redirect(1, there)
    answers["now"] = verdict(there, kind, limits=limits)
    client.sendto(b"second", rig.where())
    data, fresh = rig.take(two)
    assert data == b"second"
    assert fresh != source
    if kind is not SessionType.ONE_WAY:
        two.sendto(b"answer", fresh)
        assert rig.take(client) == (b"answer", rig.where())
    one.sendto(b"late", source)
    client.sendto(b"third", rig.where())
    assert rig.take(two)[0] == b"third"
    assert has_nothing(client)
    # A new engine finds it where it went, with its counters.
    rig.crash()
    rig.host.later = lambda record: answers["now"]
    assert rig.restart() == 1
    client.sendto(b"fourth", rig.where())
    assert rig.take(two)[0] == b"fourth"
    (record,) = [record for _, record in rig.table.records()]
    assert (record.id, record.uploads) == (1, 4)
    assert record.server[1] == there[1]
    assert not rig.engine.redirect(99, there)


def test_a_redirection_that_the_system_refuses(rig: Rig) -> None:
    rig.listen()
    one, client = rig.udp(), rig.udp()
    where = one.getsockname()[:2]
    rig.host.policy = lambda sender: verdict(where)
    rig.converse(client, one, rig.where())
    assert rig.engine.redirect(1, ("255.255.255.255", 9))  # EACCES without SO_BROADCAST
    rig.expect_end(1, Reason.ERROR)
    assert rig.engine.sessions == 0
    rig.stop()
    rig.expect_clean_pool()


@pytest.mark.parametrize("reason", [Reason.POLICY, Reason.UNRESOLVED])
def test_an_end_for_a_reason(rig: Rig, reason: Reason) -> None:
    rig.listen()
    one, client = rig.udp(), rig.udp()
    where = one.getsockname()[:2]
    rig.host.policy = lambda sender: verdict(where)
    rig.converse(client, one, rig.where())
    assert rig.engine.kill(1, reason)
    rig.expect_end(1, reason)
    assert not rig.engine.kill(1, reason)


def test_injecting_many_is_quick(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(sessions=200)
    rig.listen()
    server = rig.udp()
    where = server.getsockname()[:2]
    rig.host.policy = lambda sender: WAIT
    clients = [rig.udp() for _ in range(150)]
    for client in clients:
        client.sendto(b"x", rig.where())
    rig.until(lambda: len(rig.host.kept) == 150)
    rig.host.policy = lambda sender: verdict(where)
    began = time.monotonic()
    for number, sender, arrival, data in rig.host.kept:
        rig.engine.inject(number, sender, arrival, [data])
    assert time.monotonic() - began < 1.0
    rig.until(lambda: rig.engine.sessions == 150)


def test_a_redirection_to_a_family_without_sockets(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(families=[socket.AF_INET])
    rig.listen()
    one, client = rig.udp(), rig.udp()
    where = one.getsockname()[:2]
    rig.host.policy = lambda sender: verdict(where)
    rig.converse(client, one, rig.where())
    assert rig.engine.redirect(1, ("::1", 9))
    rig.expect_end(1, Reason.ERROR)
    rig.until(lambda: rig.host.failures)
    assert rig.host.failures == ["follow a server to its new address"]
    rig.converse(client, one, rig.where())
    assert rig.engine.kill(2)
    rig.stop()
    rig.expect_clean_pool()
