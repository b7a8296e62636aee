"""Servers that do not answer, and sessions that are connected afresh (SPEC 3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rig import Endpoint, Rig, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.session import layout
from udpproxy.proxy.session.limits import TRIED
from udpproxy.proxy.session.reasons import Reason

PATIENT = Limits(silent=10)
ANSWERED = [SessionType.NORMAL, SessionType.ANY_PORT, SessionType.ANY_SOCK]


def asked(rig: Rig, slot: int = 0) -> int:
    """The word of the table."""
    return rig.table.words[rig.table.at(slot) + layout.ASKED]


def source(rig: Rig, slot: int = 0) -> Endpoint:
    """By which end of ours the session goes, as the table has it."""
    record = rig.table.read(slot)
    assert record
    return str(record.source[0]), record.source[1]


@pytest.mark.parametrize("kind", ANSWERED)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_server_that_never_answers(rig: Rig, kind: SessionType, address: str) -> None:
    """One try from a fresh port, and the end when as much time has passed again."""
    rig.listen()
    client, server = rig.udp(), rig.udp(address)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind, limits=PATIENT)
    client.sendto(b"one", rig.where())
    _, first = rig.take(server)
    since = asked(rig)
    assert since
    assert not since & TRIED
    rig.pass_time(9)
    assert (rig.host.tries, rig.host.reasons) == ([], {})
    rig.pass_time(11)
    rig.until(lambda: rig.host.tries)
    assert asked(rig) == since | TRIED
    client.sendto(b"two", rig.where())
    _, second = rig.take(server)
    assert second != first
    assert source(rig)[1] == second[1]
    assert rig.host.tries == [1]
    rig.pass_time(19)
    assert rig.host.reasons == {}
    rig.pass_time(21)
    rig.expect_end(1, Reason.SILENT)
    assert (rig.host.tries, rig.host.reroutes) == ([1], [])
    rig.until(lambda: rig.engine.sessions == 0)
    rig.expect_clean_pool()


def test_one_that_answers_is_not_silent(rig: Rig) -> None:
    """Though its client sends and sends, and though the last answer is old."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=PATIENT)
    for _ in range(3):
        rig.converse(client, server, rig.where())
        assert asked(rig) == 0
        rig.pass_time(59)
    for _ in range(4):
        client.sendto(b"more", rig.where())
        _, where = rig.take(server)
    assert asked(rig)
    server.sendto(b"at last", where)
    assert rig.take(client)[0] == b"at last"
    rig.pass_time(59)
    assert (rig.host.tries, rig.host.reasons) == ([], {})
    rig.pass_time(61)
    rig.expect_end(1, Reason.IDLE)


@pytest.mark.parametrize("kind", ANSWERED)
def test_one_that_answers_after_the_fresh_start(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, limits=PATIENT)
    if kind is not SessionType.NORMAL:
        rig.converse(client, server, rig.where())  # the peer is fixed
    client.sendto(b"lost", rig.where())
    rig.take(server)
    rig.pass_time(11)
    rig.until(lambda: rig.host.tries == [1])
    rig.converse(client, server, rig.where())
    assert asked(rig) == 0
    rig.pass_time(25)
    assert rig.host.reasons == {}
    assert rig.engine.sessions == 1


@pytest.mark.parametrize("later", [11, 21])
def test_an_answer_that_nobody_has_read_yet(rig: Rig, later: int) -> None:
    """The whole host may have stood still."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=PATIENT)
    client.sendto(b"question", rig.where())
    _, where = rig.take(server)
    for number in range(3):
        server.sendto(b"answer %d" % number, where)
    rig.pass_time(later)
    assert [rig.take(client)[0] for _ in range(3)] == [b"answer 0", b"answer 1", b"answer 2"]
    assert (rig.host.tries, rig.host.reasons, asked(rig)) == ([], {}, 0)


def test_nobody_waits_in_a_one_way_session(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ONE_WAY, limits=PATIENT)
    client.sendto(b"one", rig.where())
    rig.take(server)
    rig.pass_time(59)
    assert (rig.host.tries, rig.host.reasons, asked(rig)) == ([], {}, 0)


@pytest.mark.parametrize("tried", [False, True])
def test_the_moment_outlives_the_engine(rig: Rig, *, tried: bool) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=PATIENT)
    client.sendto(b"one", rig.where())
    rig.take(server)
    if tried:
        rig.pass_time(11)
        rig.until(lambda: rig.host.tries == [1])
    since = asked(rig)
    rig.crash()
    assert rig.restart() == 1
    assert asked(rig) == since
    client.sendto(b"two", rig.where())
    rig.take(server)
    assert asked(rig) == since
    rig.pass_time(21 if tried else 11)
    if tried:
        rig.expect_end(1, Reason.SILENT)
    rig.until(lambda: rig.host.tries == [1])


@pytest.mark.parametrize("limits", [Limits(), Limits(silent=1000)])
def test_another_limit(rig: Rig, limits: Limits) -> None:
    """Without one nothing is left of the wait, for nobody would note its end."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rules = {"limits": PATIENT}
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=rules["limits"])
    client.sendto(b"one", rig.where())
    rig.take(server)
    since = asked(rig)
    rules["limits"] = limits
    assert rig.engine.reconsider() == 0
    assert asked(rig) == (since if limits.silent else 0)
    rig.pass_time(59)
    assert (rig.host.tries, rig.host.reasons) == ([], {})


def test_a_slot_begins_anew(new_rig: Callable[..., Rig]) -> None:
    """What the session before had waited for is not the next one's."""
    rig = new_rig(sessions=1)
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rules = {"limits": PATIENT}
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=rules["limits"])
    client.sendto(b"one", rig.where())
    rig.take(server)
    assert asked(rig)
    assert rig.engine.kill(1)
    rig.expect_end(1, Reason.KILLED)
    rules["limits"] = Limits()
    client.sendto(b"two", rig.where())
    rig.take(server)
    assert asked(rig) == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ONE_WAY, SessionType.ANY_SOCK])
def test_connected_afresh_on_demand(rig: Rig, kind: SessionType, address: str) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp(address)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind)
    client.sendto(b"one", rig.where())
    _, first = rig.take(server)
    if kind is SessionType.ANY_SOCK:
        assert not rig.engine.reconnect(0, 1), "its socket has no peer yet"
        server.sendto(b"pin", first)
        assert rig.take(client)[0] == b"pin"
    waiting = [] if kind is SessionType.ONE_WAY else [b"%d" % number for number in range(100)]
    for data in waiting:
        server.sendto(data, first)
    assert rig.engine.reconnect(0, 1)
    assert [rig.take(client)[0] for _ in waiting] == waiting
    client.sendto(b"two", rig.where())
    data, second = rig.take(server)
    assert (data, source(rig)[1]) == (b"two", second[1])
    assert second != first
    rig.until(lambda: rig.host.reroutes == [1])
    assert rig.host.reasons == {}


def test_there_is_no_such_session(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    assert not rig.engine.reconnect(0, 2)
    assert not rig.engine.reconnect(7, 9)
    assert not rig.engine.reconnect(1 << 40, 9)
    rig.converse(client, server, rig.where())
    assert rig.host.reroutes == []
