"""ACR's probes: every server of the configuration that is to be asked whether it lives, again and
again.

- The first probes are spread over a second, the others over their intervals, give or take a little.
- A few begin in a turn, then the loop has its turn: look-ups wait for milliseconds at most, however
  many servers there are. Who cannot be asked in time is asked later, and less often.
- A probe that fails while this process was stopped or had no processor says nothing of the server:
  it is sent anew, and only a second one in a row counts.
- What this host lacks (descriptors, ports, memory) says nothing either.
- Outcomes are told in batches, and not kept: whoever listens counts them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random

from udpproxy.config.model import Address, Name
from udpproxy.process.wire import Plain
from udpproxy.resolver import outcomes
from udpproxy.resolver.assignment import Probed
from udpproxy.resolver.flight import OURS, Flight, said
from udpproxy.resolver.outcomes import Outcome
from udpproxy.resolver.probing import Attempt, maker

MOST_UNDER_WAY = 1024
"""At once, each with a descriptor and a port: enough for 4,000 servers that are all silent, at an
interval of 5 and a timeout of 1 second."""
MOST_BEGUN = 32
"""In a turn, some milliseconds of work."""
TURN = 0.01
"""Seconds from one such turn to the next: 3,200 probes a second, a third of a core."""
BATCH = 0.05
"""Seconds for which outcomes are gathered before they are told."""

_SPREAD = 1.0
_JITTER = 0.05
_LATE = 0.5
"""Of the timeout: who is later than that was not there while he should have read."""
_LEAST_LATE = 0.1
"""Seconds that are no sign of anything, with short timeouts."""
_SHOWN = 8
"""Failing servers in info."""

Addresses = Callable[[str], tuple[Address, ...] | None]
"""Of a name; None: it was not looked up yet."""


@dataclass(slots=True, eq=False)
class _Server:
    probe: Probed
    make: Callable[[], Attempt] | None = None
    began: float = 0.0
    flight: Flight | None = None
    excused: bool = False
    """Did its last probe not count?"""
    why: str = ""
    """As the last one that counted ended."""


class Probes:
    """`told` gets the outcomes, at most outcomes.MOST at once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        addresses: Addresses,
        told: Callable[[list[Outcome]], None],
        *,
        most: int = MOST_UNDER_WAY,
    ) -> None:
        """`most`: under way at once."""
        self._loop = loop
        self._rng = rng
        self._addresses = addresses
        self._told = told
        self._most = most
        self._servers: dict[tuple[str, str], _Server] = {}
        self._due: list[tuple[float, int, _Server]] = []
        self._order = itertools.count()
        self._under_way = 0
        self._turn_over = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._news: list[Outcome] = []
        self._batch: asyncio.TimerHandle | None = None
        self._sent = self._late = 0

    def configure(self, wanted: Iterable[Probed]) -> None:
        """Those that stay as they are keep their rhythm; the others end or begin."""
        before, self._servers = self._servers, {}
        added: list[_Server] = []
        for probe in wanted:
            key = probe.group, probe.server
            server = before.get(key)
            if server is None or server.probe != probe:
                server = _Server(probe)
                added.append(server)
            else:
                del before[key]
            self._servers[key] = server
        for gone in before.values():
            self._end(gone)
        self._due = [each for each in self._due if self._has(each[2])]
        heapq.heapify(self._due)
        now = self._loop.time()
        for server in added:
            spread = min(_SPREAD, server.probe.interval)
            self._put(now + self._rng.uniform(0.0, spread), server)
        self._arm()

    def close(self) -> None:
        """None is under way any more."""
        self.configure(())
        for timer in (self._timer, self._batch):
            if timer:
                timer.cancel()

    def figures(self) -> dict[str, Plain]:
        """For info."""
        failing = [each for each in self._servers.values() if each.why]
        first = [f"{each.probe.group} {each.probe.server}: {each.why}" for each in failing[:_SHOWN]]
        rest = len(failing) - _SHOWN
        return {
            "probes": len(self._servers),
            "probes-sent": self._sent,
            "probes-late": self._late,
            "probes-failing": len(failing),
            "servers-failing": ", ".join(first + [f"and {rest} more"] * (rest > 0)),
        }

    def _has(self, server: _Server) -> bool:
        return self._servers.get((server.probe.group, server.probe.server)) is server

    def _put(self, due: float, server: _Server) -> None:
        heapq.heappush(self._due, (due, next(self._order), server))

    def _arm(self) -> None:
        """Wake up for the next one, should there be room for it."""
        if not self._due or self._under_way >= self._most:
            return
        at = max(self._due[0][0], self._turn_over)
        if self._timer:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._go)

    def _go(self) -> None:
        self._timer = None
        now = self._loop.time()
        for _ in range(MOST_BEGUN):
            if self._under_way >= self._most or not self._due or self._due[0][0] > now:
                break
            self._begin(heapq.heappop(self._due)[2])
        self._turn_over = self._loop.time() + TURN
        self._arm()

    def _begin(self, server: _Server) -> None:
        probe, server.began = server.probe, self._loop.time()
        address = self._address(probe)
        if address is None:  # soon
            self._put(server.began + min(_SPREAD, probe.interval), server)
            return
        if not address:
            self._count(server, "not resolved")
            return
        server.make = server.make or maker(probe, self._rng)
        where, over = (address[0], probe.port), partial(self._over, server)
        try:
            server.flight = Flight(self._loop, where, server.make(), probe.timeout, over)
        except OSError as problem:
            if problem.errno in OURS:
                self._put(server.began + probe.interval, server)
            else:
                self._count(server, said(problem))
            return
        self._sent += 1
        self._under_way += 1

    def _address(self, probe: Probed) -> tuple[Address, ...] | None:
        if isinstance(probe.host, Name):
            return self._addresses(probe.host.text)
        return (probe.host,)

    def _over(self, server: _Server, why: str, late: float) -> None:
        server.flight = None
        self._under_way -= 1
        away = late > max(_LATE * server.probe.timeout, _LEAST_LATE)
        if why and away and not server.excused:
            server.excused = True
            self._late += 1
            self._put(self._loop.time(), server)
        else:
            server.excused = False
            self._count(server, why)
        self._arm()

    def _count(self, server: _Server, why: str) -> None:
        """And the next one is due."""
        probe, server.why = server.probe, why
        apart = probe.interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        self._put(max(self._loop.time(), server.began + apart), server)
        self._news.append(Outcome(probe.group, probe.server, why))
        if len(self._news) >= outcomes.MOST:
            self._tell()
        elif not self._batch:
            self._batch = self._loop.call_later(BATCH, self._tell)

    def _tell(self) -> None:
        if self._batch:
            self._batch.cancel()
            self._batch = None
        news, self._news = self._news, []
        self._told(news)

    def _end(self, server: _Server) -> None:
        if server.flight:
            server.flight.close()
            server.flight = None
            self._under_way -= 1
