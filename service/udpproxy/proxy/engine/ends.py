"""Our own ends of the Python engine's sessions: whose they are, and who may share one."""

from __future__ import annotations

from collections import Counter

from udpproxy.proxy.engine import sockets
from udpproxy.proxy.session.peers import Endpoint

Packed = tuple[bytes, int]


class OwnEnds:
    """Our own ends of the sessions, and how many each address of ours has.

    The system lets any number of sockets whose rule names the port have the same address and port.
    Two that lead to the same server would take each other's datagrams, and one that leads to none
    those of all: who wants such an end claims it.
    """

    def __init__(self) -> None:
        self._ends: set[Endpoint] = set()
        self._counts: dict[str, int] = {}
        self.each = 0
        """How many an address may have where it is asked for; 0: no limit."""
        self._claimed: Counter[Packed] = Counter()
        """How many sessions share that end."""
        self._ours: Counter[Packed] = Counter()
        """The same without those whose end is their client's: what comes from there is his."""
        self._claims: set[tuple[Packed, Endpoint | None]] = set()

    def __contains__(self, end: Endpoint) -> bool:
        return end in self._ends or (bool(self._ours) and _packed(end) in self._ours)

    def add(self, end: Endpoint) -> None:
        """A session has it now."""
        if end not in self._ends:
            self._ends.add(end)
            self._counts[end[0]] = self._counts.get(end[0], 0) + 1

    def discard(self, end: Endpoint) -> None:
        """None has it any more."""
        if end in self._ends:
            self._ends.remove(end)
            left = self._counts[end[0]] - 1
            if left:
                self._counts[end[0]] = left
            else:
                del self._counts[end[0]]

    def is_full(self, address: str) -> bool:
        """Has that address as many as it may?"""
        return bool(self.each) and self._counts.get(address, 0) >= self.each

    def claim(self, end: Packed, server: Endpoint | None, client: Packed) -> bool:
        """A session has that end towards that server, None: towards anybody. False: another one has
        it that cannot share it."""
        taken = {(end, None), (end, server)} & self._claims
        if end in self._claimed and (server is None or taken):
            return False
        self._claims.add((end, server))
        self._claimed[end] += 1
        if end != client:
            self._ours[end] += 1
        return True

    def give_back(self, end: Packed, server: Endpoint | None, client: Packed) -> None:
        """Not any more."""
        self._claims.remove((end, server))
        for counts in (self._claimed, *([self._ours] if end != client else [])):
            counts[end] -= 1
            if not counts[end]:
                del counts[end]


class Claim:
    """One session's, on whatever end it has at the moment."""

    def __init__(self, ends: OwnEnds, server: Endpoint, client: Packed, *, alone: bool) -> None:
        """`alone`: others than the server can write to it."""
        self._ends = ends
        self._client = client
        self._server = None if alone else server
        self.alone = alone
        self._end: Packed | None = None

    def take(self, end: Endpoint) -> bool:
        """This one, instead of what it had."""
        self.give_back()
        packed = _packed(end)
        if not self._ends.claim(packed, self._server, self._client):
            return False
        self._end = packed
        return True

    def give_back(self) -> None:
        """None at the moment."""
        if self._end is not None:
            self._ends.give_back(self._end, self._server, self._client)
            self._end = None


def _packed(end: Endpoint) -> Packed:
    return sockets.pack(end[0]), end[1]
