"""Records of sessions that ended before any reply, for a reason that strangers can bring about as
often as they like: in full while they are few, else as a number. A datagram of 40 bytes would
otherwise make a line of 400."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.proxy.session.reasons import Reason

MOST_TOLD = 20
"""In full, of a rule: enough to see who it is."""
TOLD_A_SECOND = 1
"""So many more may be later: a minute of a flood makes less than 100 kB."""

_CHEAP = frozenset((Reason.EVICTED, Reason.UNREACHABLE, Reason.UNRESOLVED, Reason.UPLOAD_DATAGRAMS))
"""These free a slot at once, so that another forged datagram can have it."""
_WAITED = frozenset((Reason.IDLE, Reason.SILENT))
"""These free one after a while, all of a flood's at once."""
_PRESSURE_LASTS = 10.0
"""Seconds after which a table that was nearly full is so no longer: a flood's sessions are idle all
at once, and then it is empty."""
_SECOND = 1.0


@dataclass(slots=True)
class _Count:
    since: float
    left: int = MOST_TOLD
    held: int = 0


class Unanswered:
    """One count for each rule."""

    def __init__(self, logs: Logs, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._clock = clock
        self._counts: dict[str, _Count] = {}
        self._pressed_at = -1e9

    def pressed(self) -> None:
        """The table is nearly full: those who fill it without a reply are a flood."""
        self._pressed_at = self._clock()

    def tells(self, rule: str, reason: Reason, *, answered: bool) -> bool:
        """Does that session have a record of its own? Else it is counted."""
        now = self._clock()
        filled = reason in _WAITED and now - self._pressed_at < _PRESSURE_LASTS
        if answered or not (filled or reason in _CHEAP):
            return True
        count = self._counts.get(rule)
        if count is None:
            count = self._counts[rule] = _Count(now)
        elif seconds := int((now - count.since) / _SECOND):
            self._say(rule, count)
            count.left = min(MOST_TOLD, count.left + seconds * TOLD_A_SECOND)
            count.since += seconds * _SECOND
        if count.left:
            count.left -= 1
            return True
        count.held += 1
        return False

    def look(self) -> None:
        """Now and then: the numbers of seconds that are over."""
        now = self._clock()
        for rule, count in self._counts.items():
            if now - count.since >= _SECOND:
                self._say(rule, count)

    def finish(self) -> None:
        """The last numbers."""
        for rule, count in self._counts.items():
            self._say(rule, count)

    def _say(self, rule: str, count: _Count) -> None:
        held, count.held = count.held, 0
        if held:
            self._logs.say(messages.UNANSWERED, held, rule, RULE=rule)
