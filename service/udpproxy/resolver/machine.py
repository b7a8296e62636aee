"""One look-up, whole: candidate names, record types, servers, and one limit over all of them.

No I/O and no clock: what happens comes in with `now`, what is to be done goes out as a list of
actions, and `deadline` says when to call timer() if nothing else happens. Rules:
- The next candidate is tried only when the zone's own servers deny the one before. Trouble ends
  the look-up: a name must not turn into another one because a server is silent.
- A and AAAA are asked for the same candidate, one after the other, the second beginning with the
  server that answered the first. One that fails beside one that succeeds makes a partial result.
- Past the limit nothing is accepted any more. Once Done is out, every input is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from udpproxy.config.model import Address, NameServer, Resolver
from udpproxy.resolver.ask import Action, Ask, CloseSockets, ConnectTcp, Done, SendUdp
from udpproxy.resolver.codec import Answer
from udpproxy.resolver.question import Wanted
from udpproxy.resolver.result import DEFINITE, Failure, Result

__all__ = ["Action", "CloseSockets", "ConnectTcp", "Done", "LookUp", "SendUdp"]


class LookUp:
    """Servers are told apart by their index in resolver.servers, in actions and inputs alike."""

    def __init__(self, wanted: Wanted, resolver: Resolver, total: float, rng: Random) -> None:
        self.result: Result | None = None
        self._wanted = wanted
        self._resolver = resolver
        self._total = total
        self._rng = rng
        self._began = 0.0
        self._ends = 0.0
        self._candidate = 0
        self._kind = 0
        self._server = 0
        self._ignored = 0
        self._addresses: list[Address] = []
        self._names: list[str] = []
        self._ttls: list[float] = []
        self._denials: list[Answer] = []
        self._trouble: Failure | None = None
        self._answerer: NameServer | None = None
        self._ask: Ask | None = None

    @property
    def deadline(self) -> float | None:
        """None: it is over, or has not begun."""
        return None if self._ask is None else min(self._ask.deadline, self._ends)

    def started(self, now: float) -> list[Action]:
        self._began = now
        self._ends = now + self._total
        if self._wanted.known:
            self._addresses += self._wanted.known
            self._ttls.append(self._resolver.max_ttl)
            return [self._done(now)]
        if not self._wanted.candidates:
            self._trouble = Failure.BAD_NAME
            return [self._done(now)]
        return self._taken(now, self._next_question(now))

    def datagram(self, now: float, server: int, data: bytes) -> list[Action]:
        return self._step(now, lambda ask: ask.datagram(now, server, data))

    def unreachable(self, now: float, server: int) -> list[Action]:
        """The datagram could not be sent, or came back as an ICMP error."""
        return self._step(now, lambda ask: ask.unreachable(now, server))

    def tcp_connected(self, now: float, server: int) -> list[Action]:
        return self._step(now, lambda ask: ask.tcp_connected(now, server))

    def tcp_answer(self, now: float, server: int, data: bytes) -> list[Action]:
        return self._step(now, lambda ask: ask.tcp_answer(now, server, data))

    def tcp_failed(self, now: float, server: int) -> list[Action]:
        return self._step(now, lambda ask: ask.tcp_failed(now, server))

    def timer(self, now: float) -> list[Action]:
        return self._step(now, lambda ask: ask.timer(now))

    def _step(self, now: float, event: Callable[[Ask], list[Action]]) -> list[Action]:
        if self._ask is None:
            return []
        if now >= self._ends:
            self._trouble = self._ask.failure
            self._leave(self._ask)
            return [CloseSockets(), self._done(now)]
        return self._taken(now, event(self._ask))

    def _taken(self, now: float, actions: list[Action]) -> list[Action]:
        """Take every answer there is, until a question is open or all is done."""
        while self._ask is not None and self._ask.answer is not None:
            actions += self._take(now, self._ask, self._ask.answer)
        return actions

    def _take(self, now: float, ask: Ask, answer: Answer) -> list[Action]:
        self._leave(ask)
        if answer.failure is None:
            self._addresses += answer.addresses
            self._names += answer.names
            self._ttls.append(float(answer.ttl))
        elif answer.failure in DEFINITE:
            self._denials.append(answer)
        else:
            self._trouble = answer.failure
        self._kind += 1
        if self._kind < len(self._wanted.kinds) and answer.failure is not Failure.NXDOMAIN:
            return self._next_question(now)
        if self._ttls or self._trouble or self._candidate + 1 == len(self._wanted.candidates):
            return [self._done(now)]
        self._candidate += 1
        self._kind = 0
        return self._next_question(now)

    def _next_question(self, now: float) -> list[Action]:
        name = self._wanted.candidates[self._candidate]
        kind = self._wanted.kinds[self._kind]
        self._ask = Ask(name, kind, self._resolver, self._rng, self._server)
        return self._ask.begin(now)

    def _leave(self, ask: Ask) -> None:
        self._ask = None
        self._ignored += ask.ignored
        self._server = ask.server
        if self._resolver.servers:
            self._answerer = self._resolver.servers[ask.server]

    def _done(self, now: float) -> Done:
        found = bool(self._ttls)
        self.result = Result(
            name=self._wanted.text,
            found=self._found_name() if found else "",
            addresses=tuple(self._addresses),
            names=tuple(self._names),
            ttl=self._ttl(),
            failure=None if found else self._trouble or self._denial(),
            partial=self._trouble if found else None,
            server=self._answerer,
            duration=now - self._began,
            ignored=self._ignored,
        )
        return Done(self.result)

    def _found_name(self) -> str:
        if not self._wanted.candidates:
            return self._wanted.text
        return self._wanted.candidates[self._candidate].to_text(omit_final_dot=True).lower()

    def _denial(self) -> Failure:
        """A name with other records than ours exists, whatever the other candidates are."""
        failures = {denial.failure for denial in self._denials}
        return Failure.NODATA if Failure.NODATA in failures else Failure.NXDOMAIN

    def _ttl(self) -> float:
        limits = self._resolver
        if self._ttls:
            return min(max(min(self._ttls), limits.min_ttl), limits.max_ttl)
        told = min([denial.ttl for denial in self._denials], default=0)
        if self._trouble is not None or told == 0:
            return 0.0
        return min(max(float(told), limits.min_ttl), limits.negative_ttl)
