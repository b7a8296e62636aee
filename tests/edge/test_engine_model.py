"""The engine against a small model of what clients and servers get, whatever is done and when.

Every datagram bears a number, so that one too many, one too few or one that went astray is seen
at the latest when the next one is taken.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from socket import socket
from unittest import TestCase

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rig import ENGINES, Endpoint, Rig, has_nothing, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.reasons import Reason

CAPACITY = 3
RULES: dict[str, tuple[SessionType, Limits]] = {
    "127.0.0.11": (SessionType.NORMAL, Limits()),
    "127.0.0.12": (SessionType.NORMAL, Limits(upload_datagrams=2, download_datagrams=3)),
    "127.0.0.13": (SessionType.ANY_PORT, Limits()),
    "127.0.0.14": (SessionType.ANY_SOCK, Limits(download_bytes=40)),
    "127.0.0.15": (SessionType.ONE_WAY, Limits(upload_bytes=40)),
}
WRITTEN_TO = ["127.0.0.1", "127.0.0.2"]


@dataclass
class Expected:
    """A session as the model sees it; `source` is its address as the server sees it."""

    number: int
    client: str
    addressed: str
    kind: SessionType
    limits: Limits
    source: Endpoint = ("", 0)
    peer: str = ""
    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    stray: int = 0
    takes_uploads: bool = True


class Relay(RuleBasedStateMachine):
    """Three places for five clients, a server, its second port and a stranger."""

    engine = "python"

    @initialize(evict=st.booleans())
    def begin(self, *, evict: bool) -> None:
        gc.freeze()  # a crash of the engine collects garbage: only its own
        self.evict = evict
        self.rig = Rig(ENGINES[self.engine], sessions=CAPACITY, evict=evict)
        self.rig.listen("0.0.0.0")
        self.port = self.rig.where()[1]
        self.clients = {address: self.rig.udp(address) for address in RULES}
        self.servers: dict[str, socket] = {
            "server": self.rig.udp("127.0.0.21"),
            "port": self.rig.udp("127.0.0.21"),
            "stranger": self.rig.udp("127.0.0.22"),
        }
        self.rig.host.policy = lambda client: verdict(
            self.servers["server"].getsockname(), RULES[client][0], limits=RULES[client][1]
        )
        self.live: list[Expected] = []
        self.reasons: dict[int, Reason] = {}
        self.refused = 0
        self.born = 0
        self.serial = 0

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            try:
                self.nothing_is_left()
            finally:
                self.rig.close()
                gc.unfreeze()

    def nothing_is_left(self) -> None:
        for expected in list(self.live):
            assert self.rig.engine.kill(expected.number)
            self.end(expected, Reason.KILLED)
        self.both_agree()
        self.rig.expect_clean_pool()
        for sock in (*self.clients.values(), *self.servers.values()):
            assert has_nothing(sock)

    def payload(self, size: int) -> bytes:
        self.serial += 1
        return b"%d " % self.serial + bytes(size)

    def end(self, expected: Expected, reason: Reason) -> None:
        self.live.remove(expected)
        self.reasons[expected.number] = reason

    def settle(self) -> None:
        """Wait until the engine has noticed what the model already knows."""
        host, engine = self.rig.host, self.rig.engine
        self.rig.until(lambda: len(host.reasons) == len(self.reasons))
        self.rig.until(lambda: len(host.refusals) == self.refused)
        self.rig.until(lambda: engine.sessions == len(self.live))

    @rule(
        client=st.sampled_from(sorted(RULES)),
        addressed=st.sampled_from(WRITTEN_TO),
        size=st.sampled_from([0, 10, 30]),
    )
    def upload(self, client: str, addressed: str, size: int) -> None:
        data = self.payload(size)
        self.clients[client].sendto(data, (addressed, self.port))
        expected = self.known(client, addressed) or self.opened(client, addressed)
        if expected is None:
            self.settle()
            return
        most = expected.limits.upload_bytes
        if most and sum(expected.up) + len(data) > most:
            self.end(expected, Reason.UPLOAD_BYTES)
            self.settle()
            return
        to = self.servers[expected.peer or "server"]
        received, source = self.rig.take(to)
        assert received == data
        assert expected.source in (source, ("", 0)), "a session keeps its port"
        expected.source = source
        expected.up.append(len(data))
        most = expected.limits.upload_datagrams
        expected.takes_uploads = not most or len(expected.up) < most
        self.settle()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), size=st.sampled_from([0, 10]))
    def upload_again(self, data: st.DataObject, size: int) -> None:
        expected = data.draw(st.sampled_from(self.live))
        self.upload(expected.client, expected.addressed, size)

    @precondition(lambda self: any(one.up for one in self.live))
    @rule(data=st.data(), crash=st.booleans())
    def exchange(self, data: st.DataObject, *, crash: bool) -> None:
        """What sessions are for; and somebody may die in the middle of it."""
        self.reply(data, "server", 0)
        if crash:
            self.another_engine(crash=crash)
        if self.live:
            self.upload_again(data, 0)

    def known(self, client: str, addressed: str) -> Expected | None:
        for expected in self.live:
            key = expected.client, expected.addressed
            if expected.takes_uploads and key == (client, addressed):
                return expected
        return None

    def opened(self, client: str, addressed: str) -> Expected | None:
        if len(self.live) == CAPACITY:
            silent = [expected for expected in self.live if not expected.down]
            if not self.evict or not silent:
                self.refused += 1
                return None
            self.end(min(silent, key=lambda one: one.number), Reason.EVICTED)
        self.born += 1
        kind, limits = RULES[client]
        expected = Expected(self.born, client, addressed, kind, limits)
        self.live.append(expected)
        return expected

    @precondition(lambda self: any(one.up for one in self.live))
    @rule(
        data=st.data(),
        sender=st.sampled_from(["server", "server", "port", "stranger"]),
        size=st.sampled_from([0, 10, 30]),
    )
    def reply(self, data: st.DataObject, sender: str, size: int) -> None:
        expected = data.draw(st.sampled_from([one for one in self.live if one.up]))
        payload = self.payload(size)
        self.servers[sender].sendto(payload, expected.source)
        if not self.passes(expected, sender):
            return
        most = expected.limits.download_bytes
        if most and sum(expected.down) + len(payload) > most:
            self.end(expected, Reason.DOWNLOAD_BYTES)
            self.settle()
            return
        received, source = self.rig.take(self.clients[expected.client])
        assert (received, source) == (payload, (expected.addressed, self.port))
        expected.down.append(len(payload))
        most = expected.limits.download_datagrams
        if most and len(expected.down) >= most:
            self.end(expected, Reason.DOWNLOAD_DATAGRAMS)
        self.settle()

    def passes(self, expected: Expected, sender: str) -> bool:
        if expected.kind is SessionType.ONE_WAY and sender == "server":
            self.end(expected, Reason.UNEXPECTED_REPLY)
            self.settle()
            return False
        connected = expected.kind in (SessionType.NORMAL, SessionType.ONE_WAY)
        if connected or expected.peer:
            # The kernel refuses all others, and nobody hears of it.
            return sender == (expected.peer or "server")
        if expected.kind is SessionType.ANY_PORT and sender == "stranger":
            expected.stray += 1
            self.rig.until(lambda: self.record_of(expected).stray == expected.stray)
            return False
        expected.peer = sender
        return True

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        expected = data.draw(st.sampled_from(self.live))
        assert self.rig.engine.kill(expected.number)
        self.end(expected, Reason.KILLED)
        self.settle()

    @rule(seconds=st.sampled_from([0, 59, 59, 61]))
    def time_passes(self, seconds: int) -> None:
        self.rig.pass_time(seconds)
        if seconds > 60:
            for expected in list(self.live):
                self.end(expected, Reason.IDLE)
        self.settle()

    @rule(crash=st.booleans())
    def another_engine(self, *, crash: bool) -> None:
        if crash:
            self.rig.crash()
        else:
            self.rig.stop()
        assert self.rig.restart() == len(self.live)

    @rule()
    def reconsider(self) -> None:
        assert self.rig.engine.reconsider() == 0

    def record_of(self, expected: Expected) -> Record:
        return next(one for _, one in self.rig.table.records() if one.id == expected.number)

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "rig"):
            return
        found = {record.id: record for _, record in self.rig.table.records()}
        assert sorted(found) == sorted(one.number for one in self.live)
        for one in self.live:
            record = found[one.number]
            assert (record.uploads, record.upload_bytes) == (len(one.up), sum(one.up))
            assert (record.downloads, record.download_bytes) == (len(one.down), sum(one.down))
            assert record.stray == one.stray
        assert self.rig.host.reasons == {n: [reason] for n, reason in self.reasons.items()}
        assert set(self.rig.host.refusals) <= {"refused-table-full"}
        assert self.rig.host.failures == []


def case(name: str) -> type[TestCase]:
    machine: type[Relay] = type(f"{name.title()}Relay", (Relay,), {"engine": name})
    machine.TestCase.settings = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return machine.TestCase


globals().update({f"Test{name.title()}": case(name) for name in ENGINES})
