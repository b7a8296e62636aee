"""Datagrams that wait for a name: 8 of a session, the oldest dropped; bounded in all. Pure.

A waiting session is a client's address and port on a listener, the address it wrote to, and behind
a PROXY header who sent it. Its deadline is that of its first datagram, whatever it waits for one
after the other.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from udpproxy.proxy.engine.interface import Arrival, ListenerSocket, PendingName

MOST_OF_SESSION = 8
MOST_SESSIONS = 4096
MOST_BYTES = 16 << 20

Key = tuple[int, tuple[str, int], bytes, int, tuple[str, int] | None]
Need = tuple[str, str]
"""What is waited for: PendingName.kind and .name."""


@dataclass(slots=True)
class PendingSession:
    """One session that is not there yet."""

    wait: PendingName
    listener: ListenerSocket
    client: tuple[str, int]
    arrival: Arrival
    since: float
    deadline: float
    datagrams: deque[bytes] = field(default_factory=lambda: deque(maxlen=MOST_OF_SESSION))
    came: int = 0
    volume: int = 0
    """Datagrams and bytes that came, dropped ones too."""

    @property
    def key(self) -> Key:
        """What makes it this session."""
        came = self.arrival
        return self.listener.number, self.client, came.addressed, came.port, came.via

    @property
    def need(self) -> Need:
        """What it waits for."""
        return self.wait.kind, self.wait.name


class PendingSessions:
    """All of them. `dropped` counts datagrams that there was no room for."""

    def __init__(self) -> None:
        self.dropped = 0
        self._by_key: dict[Key, PendingSession] = {}
        self._by_need: dict[Need, dict[Key, PendingSession]] = {}
        self._deadlines: list[tuple[float, int, PendingSession]] = []
        self._order = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, waiter: PendingSession, data: bytes) -> bool:
        """One more datagram; `waiter` is new, or stands for the one that is there. False: there
        is no room for it."""
        here = self._by_key.get(waiter.key)
        if here is None:
            if len(self._by_key) >= MOST_SESSIONS:
                self.dropped += 1
                return False
            here = waiter
            self._enter(here)
        here.came += 1
        here.volume += len(data)
        if len(here.datagrams) == MOST_OF_SESSION:
            self._bytes -= len(here.datagrams.popleft())
            self.dropped += 1
        if self._bytes + len(data) > MOST_BYTES:
            self.dropped += 1
            return False
        here.datagrams.append(data)
        self._bytes += len(data)
        return True

    def needing(self, need: Need) -> list[PendingSession]:
        """Who waits for that; they wait no longer."""
        found = list(self._by_need.get(need, {}).values())
        for waiter in found:
            self._leave(waiter)
        return found

    def everybody(self) -> list[PendingSession]:
        """They wait no longer."""
        found = list(self._by_key.values())
        for waiter in found:
            self._leave(waiter)
        return found

    def due(self, now: float, most: int = MOST_SESSIONS) -> list[PendingSession]:
        """Whose time is over, but not more than `most` of them; they wait no longer."""
        found: list[PendingSession] = []
        while len(found) < most and (moment := self.deadline) is not None and moment <= now:
            waiter = heapq.heappop(self._deadlines)[2]
            self._leave(waiter)
            found.append(waiter)
        return found

    @property
    def deadline(self) -> float | None:
        """When to call due()."""
        while (
            self._deadlines
            and self._by_key.get(self._deadlines[0][2].key) is not (self._deadlines[0][2])
        ):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _enter(self, waiter: PendingSession) -> None:
        self._by_key[waiter.key] = waiter
        self._by_need.setdefault(waiter.need, {})[waiter.key] = waiter
        self._order += 1
        heapq.heappush(self._deadlines, (waiter.deadline, self._order, waiter))
        if len(self._deadlines) > 2 * MOST_SESSIONS:
            live = [
                entry for entry in self._deadlines if self._by_key.get(entry[2].key) is entry[2]
            ]
            self._deadlines = live
            heapq.heapify(self._deadlines)

    def _leave(self, waiter: PendingSession) -> None:
        del self._by_key[waiter.key]
        others = self._by_need[waiter.need]
        del others[waiter.key]
        if not others:
            del self._by_need[waiter.need]
        self._bytes -= sum(map(len, waiter.datagrams))
