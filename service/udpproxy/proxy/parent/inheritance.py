"""What each REG takes over from the one before: names, session table, listeners.

One end says nothing of them. Where one REG after the other ends before it has relayed for a
while, they are given up, the cheapest first, and over again: state is lost rather than the service.
All that is left goes before the end that would be one too many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from udpproxy.instance.connection import ChildConnection
from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.proxy.parent.names import NameRegistry
from udpproxy.proxy.parent.records import Records
from udpproxy.proxy.parent.resources import Resources
from udpproxy.proxy.parent.sessions import Sessions
from udpproxy.proxy.session.reasons import Reason

SETTLED = 2.0
"""Seconds of relaying after which an end says nothing of what was taken over."""
_ENOUGH = 2
"""Ends in a row from which on something is given up; the first may be that of a REG that had
settled or that was killed, and is why there was something to take over."""


class Inheritance:
    """Told of each step in the life of one REG after the other."""

    def __init__(
        self,
        logs: Logs,
        resources: Resources,
        naming: NameRegistry,
        sessions: Sessions,
        records: Records,
        peers: Callable[[], Mapping[str, ChildConnection]],
    ) -> None:
        self._logs = logs
        self._resources = resources
        self._naming = naming
        self._sessions = sessions
        self._records = records
        self._peers = peers
        self._handed = False
        self._handed_at = 0.0
        self._told = ""
        """Its last word."""
        self._ready_at: float | None = None
        self._row = 0
        self._given_up = 0
        self._parts = (
            ("the names that are known", self._give_up_names),
            ("the session table", self._give_up_table),
            ("the listeners", self._give_up_listeners),
        )

    def handed_over(self) -> None:
        """A REG gets all of it."""
        self._handed, self._told, self._ready_at = True, "", None
        self._handed_at = time.monotonic()

    def relays(self) -> None:
        """It has taken it over."""
        if self._ready_at is None:
            self._ready_at = time.monotonic()

    def told(self, what: str) -> None:
        """`leaving`: somebody has told it to go; `failing`: it ends by a mistake."""
        self._told = what

    def ended(self, left: int, *, killed: bool | None) -> None:
        """It has, unasked, or whoever came to replace it before it was given anything; after `left`
        more ends the proxy itself ends. `killed`: by somebody else, whatever it was doing; None:
        nobody knows."""
        handed, self._handed = self._handed, False
        if not handed or left <= 0:
            return
        if not self._is_to_blame(killed):
            self._row, self._given_up = 1, 0
            return
        self._row += 1
        if self._row < _ENOUGH and left > 1:
            return
        # They who spoiled it may have done so again since: after the last comes the first.
        rest = self._parts[self._given_up :] or self._parts
        self._given_up %= len(self._parts)
        for what, give_up in rest if left == 1 else rest[:1]:
            self._given_up += 1
            try:
                how = give_up()
            except OSError as problem:
                # What there is of it is handed on as it is.
                how = f"not all could be made anew: {problem}"
            self._logs.say(messages.GIVEN_UP, self._row, what, how)

    def _is_to_blame(self, killed: bool | None) -> bool:  # noqa: FBT001
        """What it had taken over, for its end."""
        if self._ready_at is not None and time.monotonic() - self._ready_at >= SETTLED:
            return False
        if self._told:
            return self._told == "failing"
        if killed is None:
            # One that relayed was killed, as far as anybody can tell. Its word that it is ready
            # comes later than its first datagram.
            since, now = (int(moment * 1e9) for moment in (self._handed_at, time.monotonic()))
            return not self._resources.table.has_carried(since, now)
        return not killed

    def _give_up_names(self) -> str:
        self._naming.forget(self._peers())
        return "they are looked up again"

    def _give_up_table(self) -> str:
        before = self._records.written
        self._records.write(self._sessions.last_records(Reason.ERROR))
        ended = self._records.written - before
        lost = self._resources.renew_table()
        return f"{ended} sessions end, and {lost} that nobody can read"

    def _give_up_listeners(self) -> str:
        return f"{self._resources.listeners.renew()} are bound anew"
