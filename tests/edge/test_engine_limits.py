"""When a session has had enough: datagrams, bytes, silence, age (SPEC 3)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rig import SECOND, Rig, has_nothing, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.session.reasons import Reason

NORMAL_AND_ANY = [SessionType.NORMAL, SessionType.ANY_PORT]


@pytest.mark.parametrize("kind", NORMAL_AND_ANY)
def test_upload_datagrams_close_the_clients_side_only(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(upload_datagrams=2)
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, limits=limits)
    sources = []
    for data in (b"one", b"two", b"three"):
        client.sendto(data, rig.where())
        received, source = rig.take(server)
        assert received == data
        sources.append(source)
    assert sources[0] == sources[1] != sources[2]
    assert rig.engine.sessions == 2
    assert rig.host.opened_ids == [1, 2]
    for source in (sources[0], sources[2], sources[0]):
        server.sendto(b"answer", source)
        assert rig.take(client) == (b"answer", rig.where())
    rig.pass_time(61)
    assert rig.host.reasons == {1: [Reason.IDLE], 2: [Reason.IDLE]}
    assert [rig.host.records[n].uploads for n in (1, 2)] == [2, 1]
    assert [rig.host.records[n].downloads for n in (1, 2)] == [2, 1]


@pytest.mark.parametrize("most", [1, 3])
def test_upload_datagrams_end_a_session_that_nobody_may_answer(
    new_rig: Callable[..., Rig], most: int
) -> None:
    """Slot and port are free at once: messages from fresh ports never fill the table."""
    rig = new_rig(sessions=4)
    rig.listen()
    server = rig.udp()
    limits = Limits(upload_datagrams=most)
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ONE_WAY, limits=limits)
    for number in range(20):
        client = rig.udp()
        for turn in range(most):
            client.sendto(b"%d %d" % (number, turn), rig.where())
            assert rig.take(server)[0] == b"%d %d" % (number, turn)
    rig.until(lambda: len(rig.host.reasons) == 20)
    assert rig.host.refusals == []
    assert {tuple(reasons) for reasons in rig.host.reasons.values()} == {(Reason.UPLOAD_DATAGRAMS,)}
    assert {record.uploads for record in rig.host.records.values()} == {most}
    assert rig.engine.sessions == 0
    rig.expect_clean_pool()


@pytest.mark.parametrize("most", [4, 7, 19, 20, 21, 22])
def test_upload_datagrams_are_counted_within_a_burst(rig: Rig, most: int) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(upload_datagrams=most)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits)
    burst = [b"%02d" % number for number in range(20)]
    rig.converse(client, server, rig.where())
    for data in burst:
        client.sendto(data, rig.where())
    assert [rig.take(server)[0] for _ in burst] == burst
    rig.converse(client, server, rig.where())
    total = len(burst) + 2
    sessions = -(-total // most)
    assert rig.engine.sessions == sessions
    rig.pass_time(61)
    counts = [rig.host.records[number].uploads for number in range(1, sessions + 1)]
    assert counts == [*[most] * (sessions - 1), total - most * (sessions - 1)]


def test_bursts_of_several_clients_in_turn(rig: Rig) -> None:
    """Each client keeps its order and its own sessions, whose limits come in between."""
    rig.listen()
    server = rig.udp()
    limits = {
        "127.0.0.2": Limits(),
        "127.0.0.3": Limits(upload_datagrams=25),
        "127.0.0.4": Limits(upload_bytes=40),
    }
    clients = [rig.udp(address) for address in limits]
    rig.host.policy = lambda client: verdict(server.getsockname(), limits=limits[client])
    for client in clients[:2]:
        rig.converse(client, server, rig.where())
    for number in range(40):
        for who, client in enumerate(clients):
            client.sendto(b"%d%02d." % (who, number), rig.where())
    # The third client's sessions end by the datagram that would be too much, each eleventh.
    wanted = [[n for n in range(40) if who < 2 or n % 11 != 10] for who in range(3)]
    found: list[list[int]] = [[], [], []]
    sources: list[set[object]] = [set(), set(), set()]
    for _ in range(sum(map(len, wanted))):
        data, source = rig.take(server)
        found[int(data[:1])].append(int(data[1:3]))
        sources[int(data[:1])].add(source)
    assert found == wanted
    assert list(map(len, sources)) == [1, 2, 4]


def test_upload_bytes_are_counted_within_a_burst(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(upload_bytes=70))
    burst = [bytes([number]) * 10 for number in range(10)]
    for data in burst:
        client.sendto(data, rig.where())
    taken = [rig.take(server)[0] for _ in range(9)]
    assert taken == burst[:7] + burst[8:]
    record = rig.expect_end(1, Reason.UPLOAD_BYTES)
    assert (record.uploads, record.upload_bytes) == (7, 70)


def test_one_question_one_answer(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(upload_datagrams=1, download_datagrams=1)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits)
    for number in (1, 2, 3):
        rig.converse(client, server, rig.where())
        rig.expect_end(number, Reason.DOWNLOAD_DATAGRAMS)
    assert rig.engine.sessions == 0


@pytest.mark.parametrize("kind", NORMAL_AND_ANY)
def test_the_download_that_reaches_the_limit_is_passed(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(download_datagrams=2)
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, limits=limits)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    for data in (b"one", b"two", b"three"):
        server.sendto(data, source)
    assert rig.take(client)[0] == b"one"
    assert rig.take(client)[0] == b"two"
    record = rig.expect_end(1, Reason.DOWNLOAD_DATAGRAMS)
    assert (record.downloads, record.download_bytes) == (2, 6)
    rig.converse(client, server, rig.where())
    assert has_nothing(client)


def test_upload_bytes_may_be_reached_but_not_exceeded(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(upload_bytes=100)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits)
    for size in (60, 40, 0):
        client.sendto(bytes(size), rig.where())
        assert len(rig.take(server)[0]) == size
    client.sendto(b"x", rig.where())
    record = rig.expect_end(1, Reason.UPLOAD_BYTES)
    assert (record.uploads, record.upload_bytes) == (3, 100)
    client.sendto(bytes(100), rig.where())
    assert len(rig.take(server)[0]) == 100
    assert has_nothing(server)
    assert rig.host.opened_ids == [1, 2]


def test_a_first_datagram_larger_than_the_budget(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(upload_bytes=10))
    client.sendto(bytes(11), rig.where())
    assert rig.expect_end(1, Reason.UPLOAD_BYTES).uploads == 0
    assert has_nothing(server)


@pytest.mark.parametrize("kind", NORMAL_AND_ANY)
def test_download_bytes_may_be_reached_but_not_exceeded(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(download_bytes=100)
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, limits=limits)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    for size in (60, 40, 0):
        server.sendto(bytes(size), source)
        assert len(rig.take(client)[0]) == size
    server.sendto(b"x", source)
    record = rig.expect_end(1, Reason.DOWNLOAD_BYTES)
    assert (record.downloads, record.download_bytes) == (3, 100)
    assert has_nothing(client)


def test_strays_use_up_no_budget(rig: Rig) -> None:
    rig.listen()
    client, server, stranger = rig.udp(), rig.udp(), rig.udp("127.0.0.2")
    limits = Limits(download_datagrams=1)
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ANY_PORT, limits=limits)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    for _ in range(5):
        stranger.sendto(b"forged", source)
    server.sendto(b"answer", source)
    assert rig.take(client)[0] == b"answer"
    record = rig.expect_end(1, Reason.DOWNLOAD_DATAGRAMS)
    assert (record.stray, record.downloads) == (5, 1)


def test_silence_ends_a_session(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(idle=10))
    source = rig.converse(client, server, rig.where())
    rig.pass_time(9)
    assert rig.engine.sessions == 1
    rig.pass_time(10.5)
    assert rig.engine.sessions == 0
    record = rig.expect_end(1, Reason.IDLE)
    assert (record.uploads, record.downloads) == (1, 1)
    server.sendto(b"late", source)
    rig.converse(client, server, rig.where())
    assert has_nothing(client)


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_datagram_in_either_direction_ends_the_silence(rig: Rig, direction: str) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(idle=0.15))
    source = rig.converse(client, server, rig.where())
    begin = time.monotonic()
    while time.monotonic() < begin + 0.5:
        if direction == "upload":
            client.sendto(b"more", rig.where())
            rig.take(server)
        else:
            server.sendto(b"more", source)
            rig.take(client)
        rig.engine.work(time.monotonic_ns())
        rig.turn(0.02)
    assert rig.host.opened_ids == [1]
    assert rig.engine.sessions == 1
    rig.until(lambda: (rig.engine.work(time.monotonic_ns()), not rig.engine.sessions)[1])
    rig.expect_end(1, Reason.IDLE)


def test_a_stray_does_not_end_the_silence(rig: Rig) -> None:
    rig.listen()
    client, server, stranger = rig.udp(), rig.udp(), rig.udp("127.0.0.2")
    limits = Limits(idle=0.2)
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ANY_PORT, limits=limits)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)

    def over() -> bool:
        stranger.sendto(b"forged", source)
        rig.engine.work(time.monotonic_ns())
        return not rig.engine.sessions

    rig.until(over)
    assert rig.expect_end(1, Reason.IDLE).stray > 0


def test_a_session_has_its_lifetime_however_busy(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(idle=0, lifetime=100)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits)
    rig.converse(client, server, rig.where())
    rig.pass_time(99)
    rig.converse(client, server, rig.where())
    assert rig.host.opened_ids == [1]
    rig.pass_time(101)
    rig.expect_end(1, Reason.LIFETIME)


def test_no_limits_at_all(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(idle=0))
    rig.converse(client, server, rig.where())
    rig.pass_time(10 * 365 * 86400)
    rig.converse(client, server, rig.where())
    assert rig.host.opened_ids == [1]


def test_work_says_when_it_wants_to_be_called(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(idle=0.5))
    rig.converse(client, server, rig.where())
    now = time.monotonic_ns()
    due = rig.engine.work(now)
    assert due is not None
    assert now < due <= now + SECOND // 2


def test_many_that_are_due_do_not_hold_up_the_datagrams(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(sessions=250)
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    clients = [rig.udp() for _ in range(250)]
    for client in clients:
        client.sendto(b"x", rig.where())
    rig.until(lambda: rig.engine.sessions == 250)
    while (due := rig.pass_time(61)) is not None and due <= time.monotonic_ns() + 61 * SECOND:
        pass
    assert rig.engine.sessions == 0
    assert set(map(tuple, rig.host.reasons.values())) == {(Reason.IDLE,)}
    rig.expect_clean_pool()
