"""Sessions that outlive an engine, a change of the rules, a listener; and those that do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rig import Rig, has_nothing, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.reasons import Reason

GONE = ["crash", "stop"]


def go(rig: Rig, how: str) -> None:
    rig.crash() if how == "crash" else rig.stop()


def test_kill_ends_one_session(rig: Rig) -> None:
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    clients = [rig.udp() for _ in range(2)]
    sources = [rig.converse(client, server, rig.where()) for client in clients]
    assert rig.engine.kill(1)
    assert not rig.engine.kill(1)
    assert not rig.engine.kill(99)
    rig.expect_end(1, Reason.KILLED)
    for source in sources:
        server.sendto(b"answer", source)
    assert rig.take(clients[1])[0] == b"answer"
    assert has_nothing(clients[0])


def test_the_last_figures_of_a_session_go_into_the_totals(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    wanted = {"upload-bytes": 8, "download-bytes": 6, "sessions-opened": 1}
    assert wanted.items() <= rig.engine.figures().items()
    assert rig.count("sessions") == 1
    assert rig.engine.kill(1)
    assert wanted.items() <= rig.engine.figures().items()
    assert (rig.count("sessions"), rig.count("sessions-ended")) == (0, 1)


def test_reconsider_ends_what_is_no_longer_accepted(rig: Rig) -> None:
    rig.listen()
    client, other, server = rig.udp(), rig.udp("127.0.0.2"), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    rig.converse(other, server, rig.where())
    accept = rig.host.policy
    rig.host.policy = lambda address: None if address == "127.0.0.1" else accept(address)
    assert rig.engine.reconsider() == 1
    rig.expect_end(1, Reason.POLICY)
    rig.converse(other, server, rig.where())
    assert rig.host.opened_ids == [1, 2]


def test_reconsider_gives_new_limits(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(idle=1000))
    source = rig.converse(client, server, rig.where())
    rig.host.policy = lambda _: verdict(
        server.getsockname(), limits=Limits(idle=5, download_datagrams=3), generation=2, rule="new"
    )
    assert rig.engine.reconsider() == 0
    record = rig.table.read(next(slot for slot, _ in rig.table.records()))
    assert record is not None
    assert record.generation == 2
    server.sendto(b"two", source)
    server.sendto(b"three", source)
    assert rig.take(client)[0] == b"two"
    assert rig.take(client)[0] == b"three"
    rig.expect_end(1, Reason.DOWNLOAD_DATAGRAMS)
    rig.converse(client, server, rig.where())
    rig.pass_time(6)
    rig.expect_end(2, Reason.IDLE)


def test_reconsider_with_a_nearer_end(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(idle=0))
    rig.converse(client, server, rig.where())
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(idle=5))
    assert rig.engine.reconsider() == 0
    rig.pass_time(6)
    rig.expect_end(1, Reason.IDLE)


def test_watching_goes_on_after_a_change_of_the_rules(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.engine.watch(on=True)
    rig.converse(client, server, rig.where())
    assert rig.engine.reconsider() == 0
    seen: list[str] = []
    rig.host.on_datagram = lambda direction, data: seen.append(direction)
    rig.converse(client, server, rig.where())
    assert seen == ["upload", "download"]
    rig.engine.watch(on=False)
    rig.converse(client, server, rig.where())
    assert seen == ["upload", "download"]


def test_a_listener_goes_and_its_sessions_with_it(rig: Rig) -> None:
    first, second = rig.listen(), rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where(first))
    rig.converse(client, server, rig.where(second))
    place = rig.where(first)
    assert rig.engine.remove_listener(first) == 1
    rig.listeners.pop(first).socket.close()
    rig.expect_end(1, Reason.POLICY)
    assert rig.engine.sessions == 1
    heir = rig.udp(*place)
    client.sendto(b"for somebody else", place)
    assert rig.take(heir)[0] == b"for somebody else"
    rig.converse(client, server, rig.where(second))
    assert rig.host.opened_ids == [1, 2]


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_sessions_survive_the_engine(rig: Rig, how: str, address: str) -> None:
    rig.listen(address)
    host = "::1" if ":" in address else "127.0.0.1"
    where = host, rig.where()[1]
    client, server = rig.udp(host), rig.udp(host)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2])
    source = rig.converse(client, server, where)
    go(rig, how)
    assert rig.restart() == 1
    assert rig.converse(client, server, where) == source
    assert rig.host.opened_ids == [1]
    assert len(rig.host.asked) == 1
    assert rig.engine.kill(1)
    record = rig.expect_end(1, Reason.KILLED)
    assert (record.uploads, record.upload_bytes) == (2, 16)
    assert (record.downloads, record.download_bytes) == (2, 12)
    rig.converse(client, server, where)
    assert rig.host.opened_ids == [1, 2]


@pytest.mark.parametrize("how", GONE)
def test_what_came_meanwhile_is_carried(rig: Rig, how: str) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    source = rig.converse(client, server, rig.where())
    go(rig, how)
    client.sendto(b"upload", rig.where())
    server.sendto(b"download", source)
    rig.restart()
    assert rig.take(client)[0] == b"download"
    assert rig.take(server) == (b"upload", source)


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("kind", [SessionType.ANY_PORT, SessionType.ANY_SOCK])
def test_the_peer_stays_fixed(rig: Rig, kind: SessionType, how: str) -> None:
    rig.listen()
    client, server, other = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    other.sendto(b"answer", source)
    rig.take(client)
    go(rig, how)
    assert rig.restart() == 1
    client.sendto(b"to whom?", rig.where())
    assert rig.take(other) == (b"to whom?", source)
    server.sendto(b"forged", source)
    other.sendto(b"true", source)
    assert rig.take(client)[0] == b"true"
    assert has_nothing(client)


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize(
    "kind", [SessionType.ANY_PORT, SessionType.ANY_SOCK, SessionType.BROADCAST]
)
def test_a_peer_that_was_not_fixed_may_still_be(rig: Rig, kind: SessionType, how: str) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, network="127.0.0.0/8")
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    go(rig, how)
    assert rig.restart() == 1
    assert rig.converse(client, server, rig.where()) == source


@pytest.mark.parametrize("how", GONE)
def test_a_closed_upload_stays_closed(rig: Rig, how: str) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(upload_datagrams=1))
    client.sendto(b"one", rig.where())
    _, source = rig.take(server)
    go(rig, how)
    assert rig.restart() == 1
    server.sendto(b"answer", source)
    assert rig.take(client)[0] == b"answer"
    client.sendto(b"two", rig.where())
    _, second = rig.take(server)
    assert second != source
    assert rig.host.opened_ids == [1, 2]


@pytest.mark.parametrize("how", GONE)
def test_limits_go_on(rig: Rig, how: str) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(idle=100, lifetime=150, download_datagrams=3, upload_bytes=20)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits)
    source = rig.converse(client, server, rig.where())
    go(rig, how)
    rig.restart()
    rig.pass_time(99)
    assert rig.engine.sessions == 1
    for _ in range(2):
        server.sendto(b"more", source)
        rig.take(client)
    assert rig.expect_end(1, Reason.DOWNLOAD_DATAGRAMS).downloads == 3
    rig.converse(client, server, rig.where())
    go(rig, how)
    rig.restart()
    client.sendto(bytes(13), rig.where())
    assert rig.expect_end(2, Reason.UPLOAD_BYTES).upload_bytes == 8


@pytest.mark.parametrize("how", GONE)
def test_rules_that_changed_meanwhile(rig: Rig, how: str) -> None:
    rig.listen()
    client, other, server = rig.udp(), rig.udp("127.0.0.2"), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    rig.converse(other, server, rig.where())
    go(rig, how)
    accept = rig.host.policy
    rig.host.policy = lambda address: None if address == "127.0.0.1" else accept(address)
    rig.restart()
    assert rig.engine.sessions == 1
    assert rig.expect_end(1, Reason.POLICY).uploads == 1
    assert rig.count("sessions-ended") == 1
    assert rig.count("upload-datagrams") == 2
    rig.converse(other, server, rig.where())
    for _ in range(7):
        rig.converse(rig.udp("127.0.0.2"), server, rig.where())
    assert rig.engine.sessions == 8


@pytest.mark.parametrize("how", GONE)
def test_a_listener_that_is_gone_meanwhile(rig: Rig, how: str) -> None:
    first = rig.listen()
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where(first))
    go(rig, how)
    rig.listeners.pop(first).socket.close()
    rig.restart()
    rig.expect_end(1, Reason.POLICY)
    assert rig.engine.sessions == 0
    rig.expect_clean_pool()


def half_written(rig: Rig, slot: int) -> None:
    rig.table.words[rig.table.at(slot)] |= 1


@pytest.mark.parametrize("state", [State.OPENING, State.CLOSING, None], ids=str)
@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK], ids=lambda k: k.value)
def test_what_was_half_done_is_cleared(rig: Rig, kind: SessionType, state: State | None) -> None:
    rig.listen()
    client, other, server = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    slot = next(slot for slot, _ in rig.table.records())
    rig.converse(other, server, rig.where())
    rig.crash()
    if state is None:
        half_written(rig, slot)
    else:
        rig.table.set_state(slot, state)
    server.sendto(b"nobody is there", source)
    assert rig.restart() == 1
    assert rig.table.state(slot) is State.FREE
    assert rig.host.reasons == {}
    rig.converse(other, server, rig.where())
    assert rig.engine.kill(2)
    rig.expect_clean_pool()
    fresh = rig.converse(client, server, rig.where())
    assert fresh != source
    assert rig.host.opened_ids == [1, 2, 3]
    assert has_nothing(client)


def test_after_a_crash_the_oldest_is_still_evicted_first(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(sessions=3, evict=True)
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    clients = [rig.udp() for _ in range(3)]
    for client in clients:
        client.sendto(b"x", rig.where())
        rig.take(server)
    # The first place is taken again, by what is now the youngest.
    assert rig.engine.kill(1)
    clients[0].sendto(b"x", rig.where())
    rig.take(server)
    rig.crash()
    assert rig.restart() == 3
    for number in (2, 3, 4):
        rig.converse(rig.udp(), server, rig.where())
        rig.expect_end(number, Reason.EVICTED)


def test_an_answered_session_is_not_evicted_after_a_crash(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(sessions=1, evict=True)
    rig.listen()
    server, client = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    rig.crash()
    assert rig.restart() == 1
    rig.udp().sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals)
    rig.converse(client, server, rig.where())
    assert rig.host.opened_ids == [1]


def test_whoever_dies_in_the_host_leaves_a_session_or_its_record(rig: Rig) -> None:
    """The log has the record before the session is given up: at worst it is there twice."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    states: list[State] = []
    note = rig.host.ended

    def ended(record: Record, rule: str, reason: Reason) -> None:
        states.extend(rig.table.state(slot) for slot, _ in rig.table.records())
        note(record, rule, reason)

    rig.host.ended = ended  # type: ignore[method-assign]
    assert rig.engine.kill(1)
    assert states == [State.OPEN]


def test_an_engine_that_leaves_closes_what_it_was_lent(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    rig.stop()
    client.sendto(b"meanwhile", rig.where())
    rig.turn(0.02)
    assert has_nothing(server)
    assert rig.host.reasons == {}
    assert rig.table.count_live() == 1
    assert rig.restart() == 1
    assert rig.take(server)[0] == b"meanwhile"


def test_a_client_that_comes_back_after_a_crash_has_no_second_session(rig: Rig) -> None:
    rig.listen("0.0.0.0")
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    port = rig.where()[1]
    sources = {
        address: rig.converse(client, server, (address, port))
        for address in ("127.0.0.2", "127.0.0.3")
    }
    rig.crash()
    assert rig.restart() == 2
    for address, source in sources.items():
        assert rig.converse(client, server, (address, port)) == source
    found = {sockets.unpack(record.addressed) for _, record in rig.table.records()}
    assert found == set(sources)


@pytest.mark.parametrize("how", [*GONE, "reload"])
@pytest.mark.parametrize(
    ("kind", "new"),
    [
        (SessionType.ANY_PORT, SessionType.NORMAL),
        (SessionType.NORMAL, SessionType.ANY_SOCK),
        (SessionType.NORMAL, SessionType.ONE_WAY),
    ],
)
def test_the_type_stays_though_the_rule_has_another(
    rig: Rig, kind: SessionType, new: SessionType, how: str
) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    stranger = rig.udp("127.0.0.9")
    rig.host.policy = lambda _: verdict(server.getsockname(), kind)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    rig.host.policy = lambda _: verdict(server.getsockname(), new, generation=2)
    assert rig.engine.reconsider() == 0
    if how != "reload":
        go(rig, how)
        assert rig.restart() == 1
    stranger.sendto(b"forged", source)
    assert rig.converse(client, server, rig.where()) == source
    assert has_nothing(client)
    assert rig.host.opened_ids == [1]
    assert rig.engine.kill(1)
    rig.expect_clean_pool()
