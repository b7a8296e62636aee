"""Sessions of a server of a group that is down, where `down-sessions` says that they do not stay.

They are gone through in parts, so that datagrams get their turn in between.
"""

from __future__ import annotations

from collections import deque

from udpproxy.process.loop import Reactor
from udpproxy.proxy.engine.interface import Engine
from udpproxy.proxy.reg.host import RelayHost
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import Table

_PART = 128
"""Sessions in one go."""


class Moves:
    """Of one engine."""

    def __init__(self, reactor: Reactor, table: Table, engine: Engine, host: RelayHost) -> None:
        self._reactor = reactor
        self._table = table
        self._engine = engine
        self._host = host
        self._waiting: deque[tuple[int, int, str]] = deque()
        """Slot, member, and what is to be done."""
        self._wanted: dict[int, str] = {}
        """Members whose sessions are still to be found: in one go, should many go down at once."""
        self._closed = False

    def begin(self, member: int, how: str) -> None:
        """`how`: "move" or "close"."""
        if not self._wanted and not self._waiting:
            self._reactor.call_later(0, self._work)
        self._wanted[member] = how

    def close(self) -> None:
        """The engine is gone."""
        self._closed = True

    def _work(self) -> None:
        if self._closed:
            return
        wanted, self._wanted = self._wanted, {}
        if wanted:
            found = self._table.of_members(wanted)
            self._waiting.extend((slot, member, wanted[member]) for slot, member in found)
        for _ in range(min(_PART, len(self._waiting))):
            slot, member, how = self._waiting.popleft()
            record = self._table.read(slot)
            if record is not None and record.member == member:
                self._treat(record, how)
        if self._waiting:
            self._reactor.call_later(0, self._work)

    def _treat(self, record: Record, how: str) -> None:
        if how == "close":
            self._engine.kill(record.id, Reason.UNREACHABLE)
            return
        target = self._host.target(record)
        if target and target[1] != record.member:
            self._engine.redirect(record.id, *target)
