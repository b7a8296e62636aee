"""What is done when a process ends: registered by whoever holds something, done once, last first.

An error in one is logged and keeps no other from its turn. All of them together have a limit: the
one that is at work when it is over is broken off, and each of those after it gets a moment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from types import FrameType

from udpproxy.process import messages
from udpproxy.process.logs import Logs

LIMIT = 5.0
HANG_LIMIT = 60.0
"""Seconds after which one that cannot even be broken off ends with the process, by SIGALRM."""
_MOMENT = 0.1
_PATIENCE = 10
"""Moments that a loop may be late before whatever keeps it is broken off."""


class Late(BaseException):
    """Out of whatever waits; no `except Exception` on the way may stop it."""


class CleanUps:
    """Of one process; its main thread runs them."""

    def __init__(self, logs: Logs, limit: float = LIMIT, hang: float = HANG_LIMIT) -> None:
        """Both in seconds; `limit` may be changed until they are run."""
        self.limit = limit
        self._hang = hang
        self._logs = logs
        self._stack = AsyncExitStack()
        self._waiting = 0
        self._breakable = False
        self._rings: int | None = None
        """Since one began to wait for the loop; None: none does."""
        self._end = 0.0

    def add(self, what: str, clean_up: Callable[[], object]) -> None:
        """To be done before all that was added so far; `what` is for the log. What it returns is
        waited for where that makes sense."""
        self._waiting += 1
        self._stack.push_async_callback(self._do, what, clean_up)

    async def finish(self) -> None:
        """Each of them; a second call finds nothing to do."""
        if not self._waiting:
            return
        with self._alarm():
            self._end = time.monotonic() + self._hang
            self._deadline = time.monotonic() + self.limit
            _set_alarm(min(self.limit, self._hang))
            await self._stack.aclose()

    def run(self) -> None:
        """The same without a loop of asyncio: there is nothing to wait for."""
        try:
            self.finish().send(None)
        except StopIteration:
            return
        raise RuntimeError("a clean-up waits, and there is nobody to wait for it")

    async def _do(self, what: str, clean_up: Callable[[], object]) -> None:
        self._waiting -= 1
        why = ""
        try:
            result = self._call(clean_up)
            if isinstance(result, Awaitable):
                await self._wait(result)
        except (Late, TimeoutError):
            why = f"not done within {self.limit:g} s"
            _set_alarm(_MOMENT)
        except Exception as problem:
            why = repr(problem)
        if why:
            self._logs.say(messages.CLEAN_UP_FAILED, what, why)

    def _call(self, clean_up: Callable[[], object]) -> object:
        try:
            self._breakable = True
            return clean_up()
        finally:
            self._breakable = False

    async def _wait(self, result: Awaitable[object]) -> None:
        import asyncio  # REG has no loop of it, and stays small without it

        self._rings = 0
        try:
            await asyncio.wait_for(result, max(_MOMENT, self._deadline - time.monotonic()))
        finally:
            self._rings = None

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() >= self._end:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGALRM)
        _set_alarm(_MOMENT)
        if self._breakable:
            raise Late
        if self._rings is not None:
            # Where the loop turns it ends the wait itself. Rings are counted, not seconds: we may
            # have been stopped meanwhile.
            self._rings += 1
            if self._rings > _PATIENCE:
                raise Late

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
