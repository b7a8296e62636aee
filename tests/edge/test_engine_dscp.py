"""dscp in both engines: what servers and clients see of it, each way that a session can go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rig import Endpoint, Rig, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.engine import dscp
from udpproxy.proxy.engine.interface import PendingName

EF, AF41, CS1 = 46, 34, 8
ADDRESSES = {"127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::1": "::1", "::": "::1"}
"""Where the listener is, and where all others are."""
BOTH_WAYS = [
    (listener, kind)
    for listener in ADDRESSES
    for kind in SessionType
    if kind is not SessionType.ONE_WAY
    and not (kind is SessionType.BROADCAST and ":" in listener)  # IPv6 has none
]


class Party:
    """A client or a server that gives datagrams a DSCP and sees that of others."""

    def __init__(self, rig: Rig, host: str) -> None:
        self._rig = rig
        self.sock = rig.udp(host)
        dscp.tell(self.sock, on=True)

    @property
    def end(self) -> Endpoint:
        name = self.sock.getsockname()
        return name[0], name[1]

    def send(self, data: bytes, to: Endpoint, mark: int = 0, *, ecn: int = 0) -> None:
        dscp.set_tos(self.sock, dscp.byte_of(mark) | ecn)
        self.sock.sendto(data, to)

    def take(self) -> tuple[bytes, int, Endpoint]:
        """The next datagram, its DSCP and who sent it; ECN is as in any other."""
        got: list[tuple[bytes, int, Endpoint]] = []

        def came() -> bool:
            with contextlib.suppress(BlockingIOError):
                data, control, _, sender = self.sock.recvmsg(65535, 128)
                [(_, _, byte)] = control
                assert not byte[0] & 3
                got.append((data, byte[0] >> 2, (sender[0], sender[1])))
            return bool(got)

        self._rig.until(came)
        return got[0]


class Scene:
    """A client, a server and a listener between them."""

    def __init__(self, rig: Rig, listener: str = "127.0.0.1", **rule: object) -> None:
        host = ADDRESSES[listener]
        self.rig = rig
        number = rig.listen(listener, tells_dscp=rule.get("dscp", 0) is None)
        self.to = (host, rig.where(number)[1])
        self.client, self.server = Party(rig, host), Party(rig, host)
        self.generation = 0
        self.rule(**rule)

    def rule(self, **rule: object) -> None:
        """That one from now on."""
        self.generation += 1
        made = verdict(self.server.end, generation=self.generation, **rule)  # type: ignore[arg-type]
        self.rig.host.policy = lambda _: made

    def converse(self, *, up: int = 0, down: int = 0) -> tuple[int, int]:
        """A question and an answer, which have these; what the other side sees."""
        self.client.send(b"question", self.to, up)
        data, seen_up, source = self.server.take()
        assert data == b"question"
        self.server.send(b"answer", source, down)
        data, seen_down, sender = self.client.take()
        assert (data, sender) == (b"answer", self.to)
        return seen_up, seen_down


@pytest.mark.parametrize("listener", ADDRESSES)
def test_none(rig: Rig, listener: str) -> None:
    scene = Scene(rig, listener)
    assert [scene.converse(up=EF, down=AF41) for _ in range(3)] == [(0, 0)] * 3


@pytest.mark.parametrize(("listener", "kind"), BOTH_WAYS)
def test_a_number(rig: Rig, listener: str, kind: SessionType) -> None:
    network = "127.0.0.0/8" if kind is SessionType.BROADCAST else None
    scene = Scene(rig, listener, dscp=EF, kind=kind, network=network)
    assert [scene.converse(up=CS1, down=AF41) for _ in range(3)] == [(EF, EF)] * 3
    rig.engine.kill(1)
    rig.until(lambda: rig.host.reasons)
    rig.stop()
    rig.expect_clean_pool()
    rig.restart()


@pytest.mark.parametrize(("listener", "kind"), BOTH_WAYS)
def test_keep(rig: Rig, listener: str, kind: SessionType) -> None:
    network = "127.0.0.0/8" if kind is SessionType.BROADCAST else None
    scene = Scene(rig, listener, dscp=None, kind=kind, network=network)
    for pair in [(EF, AF41), (EF, AF41), (0, CS1), (AF41, 0), (0, 0), (63, 63), (1, 1)]:
        assert scene.converse(up=pair[0], down=pair[1]) == pair
    rig.engine.kill(1)
    rig.until(lambda: rig.host.reasons)
    rig.stop()
    rig.expect_clean_pool()
    rig.restart()


def test_ecn_is_left_out(rig: Rig) -> None:
    scene = Scene(rig, dscp=None)
    scene.client.send(b"up", scene.to, EF, ecn=3)
    _, mark, source = scene.server.take()
    assert mark == EF
    scene.server.send(b"down", source, AF41, ecn=1)
    assert scene.client.take()[:2] == (b"down", AF41)


@pytest.mark.parametrize("listener", ADDRESSES)
@pytest.mark.parametrize("mark", [None, EF])
def test_many_at_a_time(rig: Rig, listener: str, mark: int | None) -> None:
    """Those that leave in one piece have one DSCP, and the order stays."""
    scene = Scene(rig, listener, dscp=mark)
    marks = [CS1, CS1, CS1, EF, EF, CS1, AF41, AF41, AF41, AF41, 0, 0, EF] * 4
    numbered = [(b"%03d" % number + bytes(500), mark) for number, mark in enumerate(marks)]
    wanted = [(data, one if mark is None else mark) for data, one in numbered]
    scene.converse()
    for _ in range(3):
        for data, one in numbered:
            scene.client.send(data, scene.to, one)
        came = [scene.server.take() for _ in numbered]
        assert [(data, one) for data, one, _ in came] == wanted
        for data, one in numbered:
            scene.server.send(data, came[0][2], one)
        assert [scene.client.take()[:2] for _ in numbered] == wanted


def test_several_clients_at_a_time(rig: Rig) -> None:
    """Whose replies leave by one socket."""
    scene = Scene(rig, dscp=None)
    others = [Party(rig, "127.0.0.1") for _ in range(4)]
    for mark, one in enumerate(others, 10):
        one.send(b"from %d" % mark, scene.to, mark)
    came = [scene.server.take() for _ in others]
    assert sorted((data, mark) for data, mark, _ in came) == [
        (b"from %d" % mark, mark) for mark in range(10, 14)
    ]
    for data, mark, source in came:
        for _ in range(3):
            scene.server.send(data, source, mark)
    for mark, one in enumerate(others, 10):
        assert [one.take()[:2] for _ in range(3)] == [(b"from %d" % mark, mark)] * 3


def test_with_limits_and_headers(rig: Rig) -> None:
    """The long way."""
    scene = Scene(rig, "0.0.0.0", dscp=None, header="spp", limits=Limits(upload_datagrams=9))
    scene.client.send(b"question", scene.to, EF)
    data, mark, source = scene.server.take()
    assert (data[38:], mark) == (b"question", EF)
    scene.server.send(data, source, CS1)
    assert scene.client.take()[:2] == (b"question", CS1)


@pytest.mark.parametrize("listener", ["127.0.0.1", "0.0.0.0"])
def test_behind_headers(rig: Rig, listener: str) -> None:
    number = rig.listen(listener, header_from=["127.0.0.0/8"], tells_dscp=True)
    balancer, server = Party(rig, "127.0.0.1"), Party(rig, "127.0.0.1")
    made = verdict(server.end, dscp=None)
    rig.host.policy = lambda _: made
    local = bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")
    for mark in (EF, CS1):
        balancer.send(local + b"question", ("127.0.0.1", rig.where(number)[1]), mark)
        data, seen, source = server.take()
        assert (data, seen) == (b"question", mark)
        server.send(b"answer", source, AF41)
        assert balancer.take()[:2] == (b"answer", AF41)


def test_an_extension(rig: Rig) -> None:
    scene = Scene(rig, dscp=None, handed=True)
    assert scene.converse(up=EF, down=CS1) == (EF, CS1)
    assert scene.converse(up=CS1, down=EF) == (CS1, EF)


def test_what_waited_for_a_name(rig: Rig) -> None:
    scene = Scene(rig, dscp=None)
    policy, rig.host.policy = rig.host.policy, lambda _: _WAIT
    scene.client.send(b"question", scene.to, EF)
    rig.until(lambda: rig.host.kept)
    rig.host.policy = policy
    [(number, client, arrival, data)] = rig.host.kept
    rig.engine.inject(number, client, arrival, [data])
    assert scene.server.take()[:2] == (b"question", EF)


_WAIT = PendingName(
    kind="server",
    name="ns.example.org",
    rule_number=0,
    generation=1,
    rule="rule",
    type=SessionType.NORMAL,
    port=53,
)


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK])
@pytest.mark.parametrize("mark", [None, EF])
def test_another_way_to_the_server(rig: Rig, mark: int | None, kind: SessionType) -> None:
    scene = Scene(rig, dscp=mark, kind=kind)
    seen = (CS1, AF41) if mark is None else (EF, EF)
    assert scene.converse(up=CS1, down=AF41) == seen
    [(slot, _)] = rig.table.records()
    assert rig.engine.reconnect(slot, 1)
    assert scene.converse(up=CS1, down=AF41) == seen


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("mark", [None, EF])
def test_another_server(rig: Rig, mark: int | None, host: str, kind: SessionType) -> None:
    """Also of the other family, whose socket is another."""
    scene = Scene(rig, dscp=mark, kind=kind)
    seen = (CS1, AF41) if mark is None else (EF, EF)
    assert scene.converse(up=CS1, down=AF41) == seen
    scene.server = Party(rig, host)
    assert rig.engine.redirect(1, scene.server.end)
    assert scene.converse(up=CS1, down=AF41) == seen
    rig.engine.kill(1)
    rig.until(lambda: rig.host.reasons)
    rig.stop()
    rig.expect_clean_pool()
    rig.restart()


@pytest.mark.parametrize("listener", ADDRESSES)
def test_rules_that_change(rig: Rig, listener: str) -> None:
    """At once, for the sessions that there are."""
    scene = Scene(rig, listener)
    marks: Sequence[int | None] = [0, EF, None, CS1, 0, None, 0, EF, 0]
    for mark in marks:
        scene.rule(dscp=mark)
        rig.engine.tell_dscp(1, on=mark is None)
        assert rig.engine.reconsider() == 0
        expected = (AF41, 1) if mark is None else (mark, mark)
        for _ in range(2):
            assert scene.converse(up=AF41, down=1) == expected
    assert rig.engine.sessions == 1
    rig.engine.kill(1)
    rig.until(lambda: rig.host.reasons)
    rig.stop()
    rig.expect_clean_pool()
    rig.restart()


@pytest.mark.parametrize("leave", [Rig.stop, Rig.crash])
@pytest.mark.parametrize("after", [None, 0, EF, CS1])
@pytest.mark.parametrize("before", [None, 0, EF])
def test_the_next_engine(
    rig: Rig, before: int | None, after: int | None, leave: Callable[[Rig], None]
) -> None:
    """Does as the rule says by then, whatever the last one has left."""
    scene = Scene(rig, dscp=before)
    scene.converse(up=AF41, down=1)
    leave(rig)
    kept = rig.listeners[1]
    rig.listeners[1] = replace(kept, tells_dscp=after is None)
    scene.rule(dscp=after)
    assert rig.restart() == 1
    expected = (AF41, 1) if after is None else (after, after)
    for _ in range(2):
        assert scene.converse(up=AF41, down=1) == expected


def test_a_session_that_cannot_go_on(rig: Rig) -> None:
    """The slot's next one has nothing of it."""
    scene = Scene(rig, dscp=EF)
    scene.converse()
    rig.crash()
    rig.host.later = lambda record: None
    assert rig.restart() == 0
    rig.host.later = None
    scene.rule()
    for _ in rig.lent_sockets():
        assert scene.converse(up=CS1, down=CS1) == (0, 0)
        rig.engine.kill(rig.host.opened_ids[-1])
    rig.stop()
    rig.expect_clean_pool()
    rig.restart()


def test_copies_have_it_too(rig: Rig) -> None:
    receiver = Party(rig, "127.0.0.1")
    rig.mirror("127.0.0.1")
    scene = Scene(rig, dscp=None, mirrors=[receiver.end])
    for mark in (EF, 0, CS1):
        scene.client.send(b"datagram", scene.to, mark)
        assert scene.server.take()[1] == receiver.take()[1] == mark
    scene.rule(dscp=AF41, mirrors=[receiver.end])
    rig.engine.reconsider()
    scene.client.send(b"datagram", scene.to, EF)
    assert scene.server.take()[1] == receiver.take()[1] == AF41
