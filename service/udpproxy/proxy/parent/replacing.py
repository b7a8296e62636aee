"""Other sockets for slots whose own keep a port (engine/fixed.py).

REG says which, many at a time. A carrier of them is made anew in a turn of the loop, with all its
other sockets as they were, then REG gets the new ones. Each costs us some hundred descriptors and
systemd a change of its store, so a REG that lies gets RATE of them in a second.
"""

from __future__ import annotations

import asyncio
import errno
import time

from udpproxy.errors import LinkError
from udpproxy.instance.service import Instance
from udpproxy.process import messages, wire
from udpproxy.process.link import Link
from udpproxy.proxy.engine import pool
from udpproxy.proxy.parent.resources import Resources
from udpproxy.proxy.parent.socket_pool import Family

CARRIERS_AT_ONCE = 50
RATE = 100
"""Carriers in a second after these."""
_RETRY = 1.0
"""Seconds until it is tried again where the system had no more."""
_PAUSE = 0.05
"""Seconds until REG has read what it was lent before, or systemd what it was told."""

Place = tuple[Family, int]


class Replacement:
    """`_wanted`: of each carrier, by family and place in its row, which sockets."""

    def __init__(self, instance: Instance, resources: Resources) -> None:
        self._instance = instance
        self._resources = resources
        self._wanted: dict[Place, set[int]] = {}
        self._next: asyncio.Handle | None = None
        self._budget, self._counted_at = float(CARRIERS_AT_ONCE), time.monotonic()
        self._problem: OSError | None = None
        """Why there are none for now."""
        self._busy_since = 0.0
        """The store did not listen from then on."""

    def ask(self, told: wire.Plain) -> None:
        """REG has used these up: a list of families and slots. LinkError for what cannot be."""
        slots: dict[int, set[int]] = {}
        for one in told if isinstance(told, list) else [None]:
            match one:
                case [int(family), int(slot)] if type(family) is type(slot) is int:
                    slots.setdefault(family, set()).add(slot)
                case _:
                    raise LinkError("told of spent sockets in an unknown form")
        found = self._resources.pool.places(slots)
        if found is None:
            raise LinkError("told of spent sockets that there are not")
        for place, some in found.items():
            self._wanted.setdefault(place, set()).update(some)
        if self._wanted and self._next is None:
            self._go_on()

    def forget(self) -> None:
        """Another REG comes, which looks itself."""
        self._wanted.clear()
        self._problem = None
        self.close()

    def close(self) -> None:
        """No more."""
        if self._next:
            self._next.cancel()
            self._next = None

    def _go_on(self, delay: float = 0.0) -> None:
        """The next one, as soon as the rate allows."""
        now = time.monotonic()
        earned = (now - self._counted_at) * RATE
        self._budget = min(CARRIERS_AT_ONCE, self._budget + earned)
        self._counted_at = now
        delay = max(delay, (1 - self._budget) / RATE)
        self._next = asyncio.get_running_loop().call_later(delay, self._step)

    def _step(self) -> None:
        self._next = None
        reg = self._instance.peers.get("reg")
        if reg is None or not self._wanted:
            return
        if reg.link.congested:
            self._go_on(_PAUSE)
            return
        self._budget -= 1
        place = next(iter(self._wanted))
        try:
            self._replace(reg.link, place, self._wanted[place])
        except BlockingIOError as problem:  # systemd has other things to do
            self._busy_since = self._busy_since or time.monotonic()
            if time.monotonic() - self._busy_since > _RETRY:
                self._lack(reg.link, OSError(errno.ENOBUFS, problem.strerror))
            self._go_on(_PAUSE)
            return
        except OSError as problem:
            self._lack(reg.link, problem)
            self._go_on(_RETRY)
            return
        del self._wanted[place]
        self._problem, self._busy_since = None, 0.0
        if self._wanted:
            self._go_on()

    def _replace(self, link: Link, place: Place, wanted: set[int]) -> None:
        fresh = self._resources.pool.replace(*place, wanted)
        if not fresh:
            return
        items: list[wire.Plain] = [[int(place[0]), slot] for slot, _ in fresh]
        link.send(wire.Lend("fresh", items), [sock.fileno() for _, sock in fresh])
        for _, sock in fresh:
            sock.close()

    def _lack(self, link: Link, problem: OSError) -> None:
        """Said once, and REG does without."""
        if self._problem is None:
            left = self._resources.table.grown - sum(map(len, self._wanted.values()))
            self._instance.logs.say(messages.SOCKETS_LACK, max(0, left), pool.why(problem))
        self._problem = problem
        link.send(wire.Tell("lack", {"errno": problem.errno or 0}))
