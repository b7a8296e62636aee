"""Lines of level debug about new sessions: each of them while REG keeps up, few of them in a flood.

A client that asks 5000 times a second, each time from a new port, has a line for each; strangers
who send faster than REG can look, or fill the table, do not. A fixed rate cannot tell these two
apart: how many come in one turn of the loop can, for a turn is short until there is too much to
do."""

from __future__ import annotations

import time
from collections.abc import Callable

from udpproxy.process.logs import RateLimit
from udpproxy.process.loop import Reactor

MOST_OF_TURN = 7
"""More in one turn of the loop are a crowd. The Python engine lets the loop turn after eight
strangers that it refused, the native one after 64 that it asks about."""
BURST = 150
"""Lines of a crowd: as many clients may begin at once, after a restart of theirs."""
_CALM = 1.0
"""Seconds without a crowd until all is as before."""


class Chatter:
    """Which of these lines are written."""

    def __init__(self, reactor: Reactor, clock: Callable[[], float] = time.monotonic) -> None:
        self._reactor = reactor
        self._clock = clock
        self._rate_limit = RateLimit()
        self._in_turn = 0
        self._crowded_until = -1e9
        self._left = BURST

    def allow(self, key: object, *, pressed: bool) -> str | None:
        """None: hold the line back. Else what to append: "" or " (N more held back)". `pressed`:
        the table is nearly full, so that newcomers are all that it is about."""
        if not self._in_turn:
            self._reactor.call_later(0.0, self._turned)
        self._in_turn += 1
        now = self._clock()
        if pressed or self._in_turn > MOST_OF_TURN:
            self._crowded_until = now + _CALM
        always = True
        if now >= self._crowded_until:
            self._left = BURST
        elif self._left:
            self._left -= 1
        else:
            always = False
        return self._rate_limit.allow(key, always=always)

    @property
    def crowded(self) -> bool:
        """Are lines held back just now?"""
        return not self._left and self._clock() < self._crowded_until

    def _turned(self) -> None:
        self._in_turn = 0
