"""What is done when a process ends: registered by whoever holds something, done once, last first.

An error in one is logged and keeps no other from its turn. All of them together have a limit: the
one that is at work when it is over is broken off, and each of those after it gets a moment.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from udpproxy.process import messages
from udpproxy.process.logs import Logs

LIMIT = 5.0
_MOMENT = 0.1


class Late(BaseException):
    """Out of whatever waits; no `except Exception` on the way may stop it."""


class CleanUps:
    """Of one process; its main thread runs them."""

    def __init__(self, logs: Logs, limit: float = LIMIT) -> None:
        """`limit` in seconds; it may be changed until run()."""
        self.limit = limit
        self._logs = logs
        self._waiting: list[tuple[str, Callable[[], object]]] = []
        self._breakable = False

    def add(self, what: str, clean_up: Callable[[], object]) -> None:
        """To be done before all that was added so far; `what` is for the log."""
        self._waiting.append((what, clean_up))

    def run(self) -> None:
        """Each of them; a second call finds nothing to do."""
        if not self._waiting:
            return
        with self._alarm():
            _set_alarm(self.limit)
            while self._waiting:
                what, clean_up = self._waiting.pop()
                try:
                    why = self._perform(clean_up)
                except Late:
                    why = f"not done within {self.limit:g} s"
                    _set_alarm(_MOMENT)
                if why:
                    self._logs.say(messages.CLEAN_UP_FAILED, what, why)

    def _perform(self, clean_up: Callable[[], object]) -> str:
        """What went wrong with it."""
        try:
            self._breakable = True
            clean_up()
        except Exception as problem:
            return repr(problem)
        finally:
            self._breakable = False
        return ""

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._breakable:
            raise Late
        _set_alarm(_MOMENT)

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        # Within another end's clean-ups: the time of those goes on afterwards.
        outer = signal.setitimer(signal.ITIMER_REAL, 0)[0]
        before = signal.signal(signal.SIGALRM, self._ring)
        try:
            yield
        finally:
            _set_alarm(0)
            signal.signal(signal.SIGALRM, before)
            _set_alarm(outer)


def _set_alarm(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)
