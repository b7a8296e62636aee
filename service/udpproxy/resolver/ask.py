"""One question to the servers in turn. No I/O, no clock: `now` comes in, actions go out.

- A try is one UDP query with a timeout. What is not the answer is counted, and waiting goes on.
- Truncated: the same server over TCP, with a limit for the connect and one for the answer. The
  same when a server folds the letter case of the question, for over TCP nobody guesses; there
  the UDP side stays open, so that a forger can only add work.
- Trouble (SERVFAIL, REFUSED, silence, no route): the next server; after the last, the next round.
- EDNS only in the first round and until a server does not understand it: some boxes drop it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import dns.name

from udpproxy.config.model import Resolver
from udpproxy.resolver import codec, guard
from udpproxy.resolver.codec import Answer, Echo
from udpproxy.resolver.result import DEFINITE, Failure, Kind, Result


@dataclass(frozen=True, slots=True)
class SendUdp:
    """From a fresh socket, connected to that server."""

    server: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ConnectTcp:
    """Connect to that server, then send data (the length before it is the transport's)."""

    server: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """All that are open; nothing that comes from them later may be handed in."""


@dataclass(frozen=True, slots=True)
class Done:
    result: Result


Action = SendUdp | ConnectTcp | CloseSockets | Done


@dataclass(frozen=True, slots=True)
class _Leg:
    """One side of a try that is still awaited: what was sent, and until when."""

    query: codec.Query
    deadline: float


class Ask:
    """`answer` is None until it is over; `server` is the one asked now, or last."""

    def __init__(
        self, name: dns.name.Name, kind: Kind, resolver: Resolver, rng: Random, first: int
    ) -> None:
        self.name = name
        self.kind = kind
        self.answer: Answer | None = None
        self.server = first
        self.failure = Failure.TIMEOUT
        self.ignored = 0
        self._resolver = resolver
        self._rng = rng
        self._first = first
        self._tries = 0
        self._plain: set[int] = set()
        self._udp: _Leg | None = None
        self._tcp: _Leg | None = None
        self._open = False
        self._tcp_used = False
        self._unreadable = False

    @property
    def deadline(self) -> float:
        return min([leg.deadline for leg in (self._udp, self._tcp) if leg], default=math.inf)

    def begin(self, now: float) -> list[Action]:
        if not self._resolver.servers:
            self.failure = Failure.UNREACHABLE
        return self._next_try(now)

    def datagram(self, now: float, server: int, data: bytes) -> list[Action]:
        if self._udp is None or server != self.server:
            return []
        echo = codec.echo(self._udp.query, data)
        if echo is Echo.EXACT:
            if codec.is_truncated(data):
                return self._truncated(now)
            answer = codec.read(self._udp.query, data, guard.UDP_LIMIT)
            if answer is not None:
                return self._answered(now, answer)
            self._unreadable = True
        self.ignored += 1
        return self._connect(now) if echo is Echo.FOLDED and not self._tcp_used else []

    def unreachable(self, now: float, server: int) -> list[Action]:
        if self._udp is None or server != self.server:
            return []
        return self._udp_over(now, Failure.UNREACHABLE)

    def tcp_connected(self, now: float, server: int) -> list[Action]:
        if self._tcp is not None and server == self.server:
            self._tcp = _Leg(self._tcp.query, now + self._resolver.timeout)
        return []

    def tcp_answer(self, now: float, server: int, data: bytes) -> list[Action]:
        if self._tcp is None or server != self.server:
            return []
        asked = self._tcp.query
        stranger = codec.echo(asked, data) is Echo.STRANGER
        answer = None if stranger else codec.read(asked, data, guard.TCP_LIMIT)
        if answer is None:
            return self._tcp_over(now, Failure.MALFORMED)
        return self._answered(now, answer)

    def tcp_failed(self, now: float, server: int) -> list[Action]:
        if self._tcp is None or server != self.server:
            return []
        return self._tcp_over(now, Failure.UNREACHABLE)

    def timer(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._tcp is not None and now >= self._tcp.deadline:
            actions += self._tcp_over(now, Failure.TIMEOUT)
        if self._udp is not None and now >= self._udp.deadline:
            silent = Failure.MALFORMED if self._unreadable else Failure.TIMEOUT
            actions += self._udp_over(now, silent)
        return actions

    def _answered(self, now: float, answer: Answer) -> list[Action]:
        if answer.failure is None or answer.failure in DEFINITE:
            return self._finish(answer)
        self.failure = answer.failure
        if answer.failure is Failure.FORMERR and self.server not in self._plain:
            self._plain.add(self.server)
            return self._send(now)
        return self._next_try(now)

    def _next_try(self, now: float) -> list[Action]:
        servers = len(self._resolver.servers)
        if self._tries == servers * self._resolver.attempts:
            return self._finish(Answer(self.failure))
        if self._tries == servers:
            self._plain.update(range(servers))
        self.server = (self._first + self._tries) % servers
        self._tries += 1
        return self._send(now)

    def _send(self, now: float) -> list[Action]:
        actions = self._close()
        self._udp = _Leg(self._query(), now + self._resolver.timeout)
        self._tcp_used = self._unreadable = False
        self._open = True
        return [*actions, SendUdp(self.server, self._udp.query.wire)]

    def _truncated(self, now: float) -> list[Action]:
        if self._tcp_used:
            return self._udp_over(now, self.failure)
        return [*self._close(), *self._connect(now)]

    def _connect(self, now: float) -> list[Action]:
        self._tcp_used = self._open = True
        self._tcp = _Leg(self._query(), now + self._resolver.tcp_connect_timeout)
        return [ConnectTcp(self.server, self._tcp.query.wire)]

    def _query(self) -> codec.Query:
        edns = self.server not in self._plain
        return codec.query(self.name, self.kind, self._rng, edns=edns)

    def _tcp_over(self, now: float, failure: Failure) -> list[Action]:
        self._tcp = None
        return self._leg_over(now, failure)

    def _udp_over(self, now: float, failure: Failure) -> list[Action]:
        self._udp = None
        return self._leg_over(now, failure)

    def _leg_over(self, now: float, failure: Failure) -> list[Action]:
        # Silence tells less than anything said before it.
        if failure is not Failure.TIMEOUT:
            self.failure = failure
        return self._next_try(now) if self._udp is None and self._tcp is None else []

    def _finish(self, answer: Answer) -> list[Action]:
        self.answer = answer
        return self._close()

    def _close(self) -> list[Action]:
        actions: list[Action] = [CloseSockets()] if self._open else []
        self._udp = self._tcp = None
        self._open = False
        return actions
