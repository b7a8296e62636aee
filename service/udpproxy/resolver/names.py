"""ACR's book of the configuration's names: which to look up when, and what changed.

No I/O, no clock. Rules:
- A name is due again when its TTL ends, after trouble when `retry` ends, each give or take a
  tenth, so that names which began together drift apart. At most `parallel` are out at once.
- Trouble keeps the last addresses for `stale` seconds from the first failed refresh. A denial
  (no such name, no such records) is an answer: what it denies is gone at once.
- Each family stands for itself: what one of them answered holds while the other has trouble.
- A change is a change of the set; another order of the same addresses is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from udpproxy.config.model import Address, Resolver
from udpproxy.resolver.resolved import Resolved
from udpproxy.resolver.result import DEFINITE, Result

_JITTER = 0.1
_VERSIONS = (4, 6)


@dataclass(slots=True)
class _OfFamily:
    """The addresses of one family, and when to drop them should trouble last."""

    addresses: tuple[Address, ...] = ()
    stale_until: float = math.inf


@dataclass(slots=True)
class _Entry:
    due: float
    out: bool = False
    answered: bool = False
    ttl: float = 0.0
    known: dict[int, _OfFamily] = field(
        default_factory=lambda: {version: _OfFamily() for version in _VERSIONS}
    )

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(address for known in self.known.values() for address in known.addresses)

    @property
    def stale_until(self) -> float:
        return min(known.stale_until for known in self.known.values())

    def word(self, name: str) -> Resolved:
        """What others are told: a ttl of 0 while the addresses are stale."""
        return Resolved(name, self.addresses, self.ttl)


class Names:
    """All names are due at `now`, those of a later replace() at its `now`."""

    def __init__(
        self, names: Iterable[str], resolver: Resolver, rng: Random, now: float, *, parallel: int
    ) -> None:
        self._resolver = resolver
        self._rng = rng
        self._parallel = parallel
        self._entries = {name: _Entry(now) for name in names}

    @property
    def deadline(self) -> float | None:
        """When to call due() and expired() next; None: only after the next resolved()."""
        times = [entry.stale_until for entry in self._entries.values()]
        if self._free() > 0:
            times += [entry.due for entry in self._entries.values() if not entry.out]
        first = min(times, default=math.inf)
        return None if first == math.inf else first

    @property
    def settled(self) -> bool:
        """Every name was looked up at least once, with whatever result."""
        return all(entry.answered for entry in self._entries.values())

    def addresses(self, name: str) -> tuple[Address, ...]:
        """Empty also for a name that is not in the book."""
        entry = self._entries.get(name)
        return entry.addresses if entry is not None else ()

    def tried(self, name: str) -> bool:
        """Was it looked up at least once, with whatever result?"""
        entry = self._entries.get(name)
        return entry is not None and entry.answered

    def everything(self) -> list[Resolved]:
        """For who knows nothing yet: each name that has addresses."""
        words = [entry.word(name) for name, entry in self._entries.items()]
        return [word for word in words if word.addresses]

    def due(self, now: float) -> list[str]:
        """The names to look up now, longest overdue first; each wants its resolved()."""
        waiting = [name for name, entry in self._entries.items() if not entry.out]
        ready = [name for name in waiting if self._entries[name].due <= now]
        ready.sort(key=lambda name: self._entries[name].due)
        chosen = ready[: max(self._free(), 0)]
        for name in chosen:
            self._entries[name].out = True
        return chosen

    def resolved(self, now: float, name: str, result: Result) -> Resolved | None:
        """None: nothing changed, or the name has left the configuration meanwhile."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        old = entry.addresses
        entry.out, entry.answered = False, True
        self._take(now, entry, result)
        return _changed(name, old, entry)

    def expired(self, now: float) -> list[Resolved]:
        """Drop what has been stale for too long."""
        changes = []
        for name, entry in self._entries.items():
            old = entry.addresses
            for version, known in entry.known.items():
                if known.stale_until <= now:
                    entry.known[version] = _OfFamily()
            change = _changed(name, old, entry)
            if change is not None:
                changes.append(change)
        return changes

    def refresh(self, now: float) -> None:
        """Everything is due (ResolveNow); what is out already is not asked twice."""
        for entry in self._entries.values():
            entry.due = min(entry.due, now)

    def replace(self, now: float, names: Iterable[str], resolver: Resolver) -> None:
        """Another configuration: names in both keep their addresses and their turn."""
        self._resolver = resolver
        self._entries = {name: self._entries.get(name) or _Entry(now) for name in names}

    def _free(self) -> int:
        return self._parallel - sum(entry.out for entry in self._entries.values())

    def _take(self, now: float, entry: _Entry, result: Result) -> None:
        told = self._told(result)
        for version, known in entry.known.items():
            if version in told:
                entry.known[version] = _renewed(known, result, version)
            elif known.addresses:
                known.stale_until = min(known.stale_until, now + self._resolver.stale)
        entry.ttl = result.ttl if told else 0.0
        wait = result.ttl if told and result.ttl else self._resolver.retry
        if result.partial is not None:
            wait = min(wait, self._resolver.retry)
        entry.due = now + wait * self._rng.uniform(1 - _JITTER, 1 + _JITTER)

    @staticmethod
    def _told(result: Result) -> set[int]:
        """The families about which the result says something, be it that there is nothing."""
        if result.partial is not None:
            return {address.version for address in result.addresses}
        if result.failure is None or result.failure in DEFINITE:
            return set(_VERSIONS)
        return set()


def _renewed(known: _OfFamily, result: Result, version: int) -> _OfFamily:
    new = tuple(address for address in result.addresses if address.version == version)
    return _OfFamily(known.addresses if set(new) == set(known.addresses) else new)


def _changed(name: str, old: tuple[Address, ...], entry: _Entry) -> Resolved | None:
    return None if set(entry.addresses) == set(old) else entry.word(name)
