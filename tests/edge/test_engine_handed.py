"""Sessions whose datagrams the host treats, one by one, over both engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rig import Rig, has_nothing, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.engine.interface import ExtensionResult
from udpproxy.proxy.session.reasons import Reason

SIZES = [0, 1, 1472, 65_507]


def loud(direction: str, data: bytes) -> ExtensionResult:
    return direction, data.upper()


def nothing(direction: str, data: bytes) -> ExtensionResult:
    return None


def answer(direction: str, data: bytes) -> ExtensionResult:
    return ("download", b"no: " + data) if direction == "upload" else (direction, data)


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_PORT], ids=lambda k: k.value)
@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
def test_what_passes_is_whole_and_in_order(rig: Rig, listen: str, kind: SessionType) -> None:
    rig.listen(listen)
    client, server = rig.udp(), rig.udp()
    at = ("127.0.0.1", rig.where()[1])
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, handed=True)
    for number, size in enumerate(SIZES * 3):
        client.sendto(bytes([number]) * size, at)
    source = ("", 0)
    for number, size in enumerate(SIZES * 3):
        data, source = rig.take(server)
        assert data == bytes([number]) * size
    for number, size in enumerate(SIZES * 3):
        server.sendto(bytes([number]) * size, source)
    for number, size in enumerate(SIZES * 3):
        assert rig.take(client) == (bytes([number]) * size, at)
    assert rig.engine.sessions == 1
    assert [len(data) for _, _, data in rig.host.handed_over] == SIZES * 6
    assert rig.count("upload-datagrams") == rig.count("download-datagrams") == len(SIZES) * 3


def test_nobody_is_asked_about_other_sessions(rig: Rig) -> None:
    rig.listen()
    server, treated, plain = rig.udp(), rig.udp("127.0.0.2"), rig.udp("127.0.0.3")
    rig.host.policy = lambda client: verdict(server.getsockname(), handed=client == "127.0.0.2")
    rig.converse(plain, server, rig.where())
    assert rig.host.handed_over == []
    rig.converse(treated, server, rig.where())
    rig.converse(plain, server, rig.where())
    assert rig.host.handed_over == [(2, "upload", b"question"), (2, "download", b"answer")]


def test_another_payload_is_what_counts(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), handed=True)
    rig.host.treat = lambda direction, data: (direction, data * 3)
    client.sendto(b"up", rig.where())
    data, source = rig.take(server)
    assert data == b"upupup"
    server.sendto(b"down", source)
    assert rig.take(client) == (b"down" * 3, rig.where())
    rig.engine.kill(1)
    record = rig.expect_end(1, Reason.KILLED)
    assert (record.uploads, record.upload_bytes) == (1, 6)
    assert (record.downloads, record.download_bytes) == (1, 12)


def test_what_is_dropped_keeps_the_session_alive(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(idle=30, upload_datagrams=2)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits, handed=True)
    rig.host.treat = nothing
    client.sendto(b"one", rig.where())
    rig.until(lambda: rig.host.handed_over)
    opened = next(iter(rig.table.records()))[1].last
    client.sendto(b"two", rig.where())
    rig.until(lambda: len(rig.host.handed_over) == 2)
    (_, record) = next(iter(rig.table.records()))
    assert record.last > opened
    assert (record.uploads, record.upload_bytes, record.downloads) == (0, 0, 0)
    rig.host.treat = loud
    client.sendto(b"three", rig.where())
    assert rig.take(server)[0] == b"THREE"
    assert has_nothing(server)
    assert rig.engine.sessions == 1, "what was dropped is no use of the limit"
    rig.pass_time(31)
    assert rig.expect_end(1, Reason.IDLE).uploads == 1


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_the_client_is_answered_from_where_it_wrote_to(rig: Rig, listen: str) -> None:
    rig.listen(listen)
    host = "::1" if ":" in listen else "127.0.0.1"
    client, server = rig.udp(host), rig.udp(host)
    at = (host, rig.where()[1])
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], handed=True)
    rig.host.treat = answer
    client.sendto(b"please", at)
    assert rig.take(client) == (b"no: please", at)
    assert has_nothing(server)
    rig.engine.kill(1)
    record = rig.expect_end(1, Reason.KILLED)
    assert (record.uploads, record.downloads, record.download_bytes) == (0, 1, 10)


def test_an_answer_uses_the_limit_up(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(upload_datagrams=1, download_datagrams=1)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits, handed=True)
    rig.host.treat = answer
    client.sendto(b"please", rig.where())
    assert rig.take(client)[0] == b"no: please"
    rig.expect_end(1, Reason.DOWNLOAD_DATAGRAMS)
    assert rig.engine.sessions == 0


def test_byte_limits_see_what_leaves(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(upload_bytes=10)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits, handed=True)
    rig.host.treat = lambda direction, data: (direction, data[:5])
    for _ in range(2):
        client.sendto(b"much too long", rig.where())
        assert rig.take(server)[0] == b"much "
    client.sendto(b"much too long", rig.where())
    assert rig.expect_end(1, Reason.UPLOAD_BYTES).upload_bytes == 10


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_the_host_may_end_it(rig: Rig, direction: str) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), handed=True)
    rig.host.treat = lambda arrival, data: (
        Reason.EXTENSION if arrival == direction else (arrival, data)
    )
    client.sendto(b"question", rig.where())
    if direction == "download":
        server.sendto(b"answer", rig.take(server)[1])
    record = rig.expect_end(1, Reason.EXTENSION)
    assert (record.uploads, record.downloads) == (int(direction == "download"), 0)
    assert has_nothing(client)
    assert rig.engine.sessions == 0


@pytest.mark.parametrize("last", ["upload", "download"])
def test_each_of_many_at_once_gets_the_session_that_the_limits_give_it(
    new_rig: Callable[..., Rig], last: str
) -> None:
    """They are all there before the first has been treated."""
    rig = new_rig(sessions=64)
    rig.listen()
    client, server = rig.udp(), rig.udp()
    one = Limits(upload_datagrams=1) if last == "upload" else Limits(download_datagrams=1)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=one, handed=True)
    rig.host.treat = loud if last == "upload" else answer
    for number in range(20):
        client.sendto(b"n%d" % number, rig.where())
    getter, text = (server, b"N%d") if last == "upload" else (client, b"no: n%d")
    came = [rig.take(getter) for _ in range(20)]
    assert sorted(data for data, _ in came) == sorted(text % number for number in range(20))
    assert rig.count("sessions-opened") == 20
    sessions = [number for number, _, _ in rig.host.handed_over]
    assert len(sessions) == len(set(sessions)) == 20, "each was treated once, for its own session"


def test_a_one_way_sessions_server_still_may_not_reply(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ONE_WAY, handed=True)
    client.sendto(b"line", rig.where())
    _, source = rig.take(server)
    server.sendto(b"what?", source)
    rig.expect_end(1, Reason.UNEXPECTED_REPLY)
    assert [direction for _, direction, _ in rig.host.handed_over] == ["upload"]


def test_strangers_datagrams_are_not_treated(rig: Rig) -> None:
    rig.listen()
    client, server, stranger = rig.udp(), rig.udp(), rig.udp("127.0.0.2")
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ANY_PORT, handed=True)
    client.sendto(b"question", rig.where())
    _, source = rig.take(server)
    stranger.sendto(b"forged", source)
    server.sendto(b"answer", source)
    assert rig.take(client)[0] == b"answer"
    assert [data for _, _, data in rig.host.handed_over] == [b"question", b"answer"]


@pytest.mark.parametrize("crash", [False, True])
def test_it_goes_on_in_the_next_engine(rig: Rig, *, crash: bool) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), handed=True)
    rig.converse(client, server, rig.where())
    (rig.crash if crash else rig.stop)()
    assert rig.restart() == 1
    rig.host.treat = loud
    client.sendto(b"still there?", rig.where())
    data, source = rig.take(server)
    assert data == b"STILL THERE?"
    server.sendto(b"yes", source)
    assert rig.take(client)[0] == b"YES"
    assert {number for number, _, _ in rig.host.handed_over} == {1}


@pytest.mark.parametrize("before", [False, True])
def test_other_rules_change_it(rig: Rig, *, before: bool) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), handed=before)
    rig.converse(client, server, rig.where())
    rig.host.handed_over.clear()
    rig.host.policy = lambda _: verdict(server.getsockname(), handed=not before, generation=2)
    assert rig.engine.reconsider() == 0
    rig.converse(client, server, rig.where())
    assert len(rig.host.handed_over) == (0 if before else 2)


def test_the_watching_host_sees_what_leaves(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    seen: list[tuple[str, bytes]] = []
    rig.host.on_datagram = lambda direction, data: seen.append((direction, data))
    rig.host.policy = lambda _: verdict(server.getsockname(), handed=True)
    rig.host.treat = answer
    rig.engine.watch(on=True)
    client.sendto(b"please", rig.where())
    assert rig.take(client)[0] == b"no: please"
    rig.until(lambda: seen)
    assert seen == [("download", b"no: please")]
