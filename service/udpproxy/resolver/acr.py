"""ACR: every name in the configuration, looked up at start and whenever its time is over, and every
server that is to be probed.

names.Names says what is due; here it is done, and what changed goes to REG, and to the parent for
whoever comes after us. probes.Probes does all of its part; outcomes go to REG alone.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from itertools import islice
from random import SystemRandom

from udpproxy.config.model import Address
from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.process import messages, wire
from udpproxy.process.child import Start
from udpproxy.process.link import Link
from udpproxy.resolver import resolved
from udpproxy.resolver.assignment import Assignment, Read
from udpproxy.resolver.helper import Helper
from udpproxy.resolver.names import Names
from udpproxy.resolver.outcomes import Outcome
from udpproxy.resolver.probes import MOST_UNDER_WAY, Probes
from udpproxy.resolver.resolved import Resolved
from udpproxy.resolver.result import DEFINITE, Failure, Family, Result

PARALLEL = 32
_SHOWN = 20
"""Failing names in info."""


class Acr(Helper):
    """See Helper."""

    in_flight = PARALLEL

    def __init__(self, start: Start, read: Read, version: str, left: Callable[[str], None]) -> None:
        self._names: Names | None = None
        self._failed: dict[str, str] = {}
        self._pending: set[str] = set()
        self._slowest: tuple[float, str] = (0.0, "")
        self._timer: asyncio.TimerHandle | None = None
        # Look-ups need descriptors, too.
        most = min(MOST_UNDER_WAY, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        loop, addresses, told = asyncio.get_running_loop(), self._addresses, self._probed
        self._probes = Probes(loop, SystemRandom(), addresses, told, most=most)
        self._outcomes_dropped = 0
        super().__init__(start, read, version, left)

    @staticmethod
    def has_work(assignment: Assignment) -> bool:
        """Names to look up ahead, or servers to probe."""
        return bool(assignment.names or assignment.probes)

    def configured(self, known: dict[str, Resolved]) -> None:
        """Names that stay keep their addresses; new ones are due."""
        assert self.assignment
        wanted, resolver = self.assignment.names, self.assignment.resolver
        now = self._loop.time()
        if self._names is None:
            self._names = Names(wanted, resolver, SystemRandom(), now, parallel=PARALLEL)
            self._resume(self._names, known)
        else:
            self._names.replace(now, wanted, resolver)
        self._failed = {name: why for name, why in self._failed.items() if name in wanted}
        self._go()
        self._probes.configure(self.assignment.probes)

    def connected(self, link: Link) -> None:
        """This REG may know nothing yet."""
        if self._names:
            self._tell(self._names.everything(), parent=False)

    def questioned(self, link: Link, ask: wire.Ask) -> None:
        """Nothing: REG is told."""
        raise LinkError("ACR is not asked")

    def forget(self) -> None:
        """All names are looked up as at first."""
        if self.assignment:
            self._names = None
            self.configured({})

    def name_servers_changed(self) -> None:
        """All names are asked for again."""
        if self._names:
            self._names.refresh(self._loop.time())
            self._go()

    def resolve_now(self) -> wire.Plain:
        """All names at once; how many."""
        if not self._names or not self._wanted():
            raise InvalidArgument("the configuration has no names to resolve")
        self._names.refresh(self._loop.time())
        self._go()
        return {"names": len(self._wanted())}

    def progress(self) -> dict[str, wire.Plain]:
        """How names and probes are doing."""
        assert self._names
        assert self.assignment
        wanted = self._wanted()
        return {
            "names": len(wanted),
            "known": sum(bool(self._names.addresses(name)) for name in wanted),
            "pending": len(self._pending),
            "failed": len(self._failed),
            "failing": self._failing(),
            "slowest": f"{self._slowest[1] or '-'} {self._slowest[0]:.3f}",
            **(self._probing() if self.assignment.probes else {}),
        }

    def _probing(self) -> dict[str, wire.Plain]:
        return {**self._probes.figures(), "probe-results-dropped": self._outcomes_dropped}

    async def close(self) -> None:
        """See Helper."""
        self._probes.close()
        await super().close()

    @property
    def work(self) -> str:
        """See Helper."""
        return "resolving" if self._wanted() else "probing"

    def _failing(self) -> str:
        first = islice(self._failed.items(), _SHOWN)
        rest = len(self._failed) - _SHOWN
        words = [f"{name}:{why}" for name, why in first] + [f"and {rest} more"] * (rest > 0)
        return " ".join(words)

    def _wanted(self) -> tuple[str, ...]:
        assert self.assignment
        return self.assignment.names

    def _resume(self, book: Names, known: dict[str, Resolved]) -> None:
        """What an earlier process found goes on to hold, and is asked for anew."""
        now = self._loop.time()
        for name, word in known.items():
            if word.addresses:
                result = Result(name=name, addresses=word.addresses, ttl=1.0)
                book.resolved(now, name, result)
        book.refresh(now)

    def _go(self) -> None:
        """Whatever is due; then a look at the clock."""
        assert self._names
        now = self._loop.time()
        expired = self._names.expired(now)
        for word in expired:
            assert self.assignment
            stale = self.assignment.resolver.stale
            self._logs.say(messages.NAME_GONE_STALE, word.name, stale)
        self._tell(expired)
        for name in self._names.due(now):
            self._pending.add(name)
            self.start(self._look_up(name))
        if self._timer:
            self._timer.cancel()
        deadline = self._names.deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._go)

    async def _look_up(self, name: str) -> None:
        assert self.assignment
        assert self._names
        transport = self.transport()
        if transport is None:
            result = Result(name=name, failure=Failure.UNREACHABLE)
        else:
            limit = self.assignment.resolver.conf_timeout
            result = await transport.look_up(name, Family.BOTH, limit)
        self._pending.discard(name)
        change = self._names.resolved(self._loop.time(), name, result)
        wanted = name in self._wanted()
        if wanted:
            self._note(name, result)
        if change:
            self._tell([change])
        elif wanted and result.failure in DEFINITE:
            # An ACR before us may have died before it could say so.
            self._tell([Resolved(name)])
        self._go()

    def _note(self, name: str, result: Result) -> None:
        """Said once when it begins and once when it is over."""
        assert self._names
        self._slowest = max(self._slowest, (result.duration, name))
        found = resolved.text(result.addresses)
        if result.failure is None:
            took = result.duration
            self._logs.say(messages.LOOKED_UP, name, found, result.ttl, took, NAME=name)
            if self._failed.pop(name, None):
                self._logs.say(messages.NAME_BACK, name, found, NAME=name)
            return
        why = result.failure.value
        if self._failed.get(name) != why:
            self._failed[name] = why
            addresses = self._names.addresses(name)
            kept = resolved.text(addresses) if addresses else ""
            assert self.assignment
            stale = self.assignment.resolver.stale
            rest = f"it keeps {kept} for at most {stale:g} s" if kept else "it has no address"
            self._logs.say(messages.NAME_FAILED, name, why, rest, NAME=name)

    def _addresses(self, name: str) -> tuple[Address, ...] | None:
        """See probes.Addresses."""
        known = self._names
        return known.addresses(name) if known and known.tried(name) else None

    def _probed(self, outcomes: list[Outcome]) -> None:
        """Where REG does not read, those that come later say as much."""
        if self.reg_reads:
            self.tell_reg([wire.Tell("probed", {"results": [each.plain() for each in outcomes]})])
        else:
            self._outcomes_dropped += len(outcomes)

    def _tell(self, words: list[Resolved], *, parent: bool = True) -> None:
        news = [wire.Tell("names", {"found": part}) for part in resolved.parts(words)]
        self.tell_reg(news)
        if parent:
            self.tell_parent(news)
