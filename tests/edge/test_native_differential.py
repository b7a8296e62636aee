"""The native engine beside the Python engine: the same script, the same traffic, the same records.

And each of them goes on with the sessions that the other one left in the table.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from built import of_native
from rig import ENGINES, Rig, verdict
from udpproxy.config.model import NO_RATE, Rate
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import ExtensionResult
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import TOTALS

pytestmark = of_native

CLIENTS = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
DROPS = {"drops-listeners", "drops-sessions"}  # a matter of luck
TYPES = list(SessionType)

ONE = Rate(1, "h")  # and no more while a script runs

sizes = st.sampled_from([0, 1, 40, 40, 40, 1200, 1200, 9000, 65_507])
a_client = st.integers(0, len(CLIENTS) - 1)
steps = st.one_of(
    st.tuples(st.just("up"), a_client, st.lists(sizes, min_size=1, max_size=12)),
    st.tuples(st.just("down"), a_client, st.lists(sizes, min_size=1, max_size=12)),
    st.tuples(st.just("foreign"), a_client, st.lists(sizes, min_size=1, max_size=3)),
    st.tuples(st.just("time"), st.integers(1, 70), st.just([])),
    st.tuples(st.just("kill"), st.integers(1, 6), st.just([])),
    st.tuples(st.just("restart"), st.booleans(), st.just([])),
    st.tuples(st.just("refuse"), a_client, st.just([])),
    st.tuples(st.just("accept"), a_client, st.just([])),
)
limits = st.builds(
    Limits,
    idle=st.sampled_from([0, 30]),
    lifetime=st.sampled_from([0, 50]),
    upload_datagrams=st.sampled_from([0, 0, 1, 5]),
    download_datagrams=st.sampled_from([0, 0, 1, 5]),
    upload_bytes=st.sampled_from([0, 0, 2000]),
    download_bytes=st.sampled_from([0, 0, 2000]),
    new_sessions_per_client=st.sampled_from([NO_RATE, NO_RATE, ONE]),
    datagrams_per_client=st.sampled_from([NO_RATE, NO_RATE, NO_RATE, ONE]),
    amplification=st.sampled_from([0, 0, 1]),
)


@dataclass(frozen=True)
class Script:
    """What is done; the rules are those of each client."""

    listener: str
    capacity: int
    per_client: int
    evict: bool
    rules: list[tuple[SessionType, Limits, bool, bool]]
    steps: list[tuple[str, int, list[int]]]


scripts = st.builds(
    Script,
    listener=st.sampled_from(["127.0.0.1", "0.0.0.0"]),
    capacity=st.integers(1, 4),
    per_client=st.sampled_from([0, 0, 1]),
    evict=st.booleans(),
    rules=st.lists(
        # A rate is about what comes, and what is handed over meanwhile may be the session's last.
        st.tuples(st.sampled_from(TYPES), limits, st.booleans(), st.booleans()).map(
            lambda rule: (*rule[:3], rule[3] and rule[1].datagrams_per_client == NO_RATE)
        ),
        min_size=3,
        max_size=3,
    ),
    steps=st.lists(steps, max_size=14),
)


def treated(direction: str, data: bytes) -> ExtensionResult:
    """Of all kinds, by the number in the datagram."""
    match int(data.split()[1]) % 7:
        case 0:
            return None
        case 1:
            return direction, data[: len(data) // 2 + 6]
        case 2 if direction == "upload":
            return "download", data
        case 3 if len(data) > 5000:
            return Reason.EXTENSION
        case _:
            return direction, data


class Run:
    """One engine's way through a script."""

    def __init__(self, name: str, script: Script) -> None:
        self.seen: list[object] = []
        self._script = script
        self._rig = Rig(
            ENGINES[name],
            sessions=script.capacity,
            per_client=script.per_client,
            evict=script.evict,
        )
        with contextlib.closing(self._rig):
            self._prepare()
            for step in script.steps:
                self._do(*step)
                self._look()
            self._sum_up()

    def _prepare(self) -> None:
        rig, self._number, self._refused = self._rig, 0, set[str]()
        rig.listen(self._script.listener)
        self._to = "127.0.0.1", rig.where()[1]
        self._server, self._foreign = rig.udp(), rig.udp("127.0.0.2")
        self._clients = [rig.udp(address) for address in CLIENTS]
        self._sources: dict[int, tuple[str, int]] = {}
        rules = dict(zip(CLIENTS, self._script.rules, strict=True))

        def policy(client: str) -> object:
            if client in self._refused:
                return None
            kind, of_client, closing, handed = rules[client]
            # What the host treats may still be there when more of it comes: a datagram that is too
            # much is then one of the session, or the first of another.
            if handed:
                of_client = replace(of_client, datagrams_per_client=NO_RATE)
            return verdict(
                self._server.getsockname(),
                kind,
                limits=of_client,
                network="127.0.0.0/30",
                close_on_unreachable=closing,
                handed=handed,
            )

        rig.host.policy = policy  # type: ignore[assignment]
        rig.host.treat = treated

    def _do(self, what: str, which: int, volumes: list[int]) -> None:
        rig = self._rig
        match what:
            case "up":
                self._send(self._clients[which], self._to, which, volumes)
            case "down" | "foreign" if which in self._sources:
                sender = self._server if what == "down" else self._foreign
                self._send(sender, self._sources[which], which, volumes)
            case "time":
                rig.pass_time(which)
            case "kill":
                self.seen.append(rig.engine.kill(which))
            case "restart":
                rig.crash() if which else rig.stop()
                self.seen.append(rig.restart())
            case "refuse" | "accept":
                change = self._refused.add if what == "refuse" else self._refused.discard
                change(CLIENTS[which])
                self.seen.append(rig.engine.reconsider())

    def _send(
        self, sock: socket.socket, to: tuple[str, int], which: int, volumes: list[int]
    ) -> None:
        for volume in volumes:
            self._number += 1
            head = b"%d %d " % (which, self._number)
            sock.sendto((head + bytes(volume))[: max(volume, len(head))][:65_507], to)

    def _look(self) -> None:
        """Everything has come to rest; who got what."""
        for _ in range(4):
            self._rig.turn(0.001)
        for name, sock in (("server", self._server), ("foreign", self._foreign)):
            for data, source in _all_of(sock):
                self._sources[int(data.split()[0])] = source
                self.seen.append((name, data))
        for address, sock in zip(CLIENTS, self._clients, strict=True):
            self.seen.append((address, [data for data, _ in _all_of(sock)]))

    def _sum_up(self) -> None:
        host, figures = self._rig.host, self._rig.engine.figures()
        self.seen.append({name: figures[name] for name in TOTALS if name not in DROPS})
        self.seen.append(host.handed_over)
        self.seen.append((figures["sessions"], host.reasons, host.opened_ids, host.refusals))
        for number, record in sorted(host.records.items()):
            counters = (record.uploads, record.upload_bytes, record.downloads)
            others = record.download_bytes, record.stray, record.dropped
            self.seen.append((number, counters, others))


def _all_of(sock: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recvfrom(sockets.LARGEST))
    return found


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(script=scripts)
def test_both_do_the_same(script: Script) -> None:
    assert Run("native", script).seen == Run("python", script).seen


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.value)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::"])
@pytest.mark.parametrize("first", ["python", "native"])
def test_one_goes_on_where_the_other_left(
    new_rig: Callable[..., Rig], first: str, kind: SessionType, address: str
) -> None:
    second = {"python": "native", "native": "python"}[first]
    rig = new_rig(sessions=4)
    rig.stop()
    rig.use(ENGINES[first])
    rig.restart()
    rig.listen(address)
    host = "::1" if ":" in address else "127.0.0.1"
    where = host, rig.where()[1]
    client, server = rig.udp(host), rig.udp(host)
    network = "::/0" if ":" in address else "127.0.0.0/8"
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind, network=network)
    client.sendto(b"question", where)
    _, source = rig.take(server)
    if kind is not SessionType.ONE_WAY:
        server.sendto(b"answer", source)
        rig.take(client)
    before = list(rig.table.records())
    rig.stop()
    rig.use(ENGINES[second])
    assert rig.restart() == 1
    assert list(rig.table.records()) == before
    client.sendto(b"question", where)
    assert rig.take(server)[1] == source
    assert rig.engine.kill(1)
    assert rig.host.records[1].uploads == 2
    assert rig.host.records[1].opened <= time.monotonic_ns()
    rig.expect_clean_pool()
