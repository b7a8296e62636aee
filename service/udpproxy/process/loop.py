"""A small epoll loop with the names of asyncio's, for processes whose datagrams cannot afford
the big one. Callbacks run one after another; an exception in one ends the loop."""

from __future__ import annotations

import contextlib
import heapq
import select
import time
from collections.abc import Callable
from typing import Protocol

Callback = Callable[[], object]

_EVENTS = 256
_WRITABLE = select.EPOLLOUT


class Timer(Protocol):
    """What call_later returns."""

    def cancel(self) -> None:
        """It does not fire."""


class Reactor(Protocol):
    """The part of a loop that our processes use; asyncio's event loop has it too."""

    def add_reader(self, fd: int, callback: Callback, /) -> object:
        """Call back while `fd` is readable."""

    def remove_reader(self, fd: int, /) -> object:
        """No more."""

    def add_writer(self, fd: int, callback: Callback, /) -> object:
        """Call back while `fd` is writable."""

    def remove_writer(self, fd: int, /) -> object:
        """No more."""

    def call_later(self, delay: float, callback: Callback, /) -> Timer:
        """Call back once, in `delay` seconds."""


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class EpollLoop:
    """See Reactor; run() until stop()."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, _Timer]] = []
        self._order = 0
        self._running = False

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is readable or has an error."""
        self._set(self._readers, fd, callback)

    def remove_reader(self, fd: int) -> bool:
        """False: nobody was reading it."""
        return self._unset(self._readers, fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is writable."""
        self._set(self._writers, fd, callback)

    def remove_writer(self, fd: int) -> bool:
        """False: nobody was writing it."""
        return self._unset(self._writers, fd)

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Call back once, in `delay` seconds."""
        timer = _Timer(callback)
        self._order += 1
        heapq.heappush(self._timers, (time.monotonic() + delay, self._order, timer))
        return timer

    def stop(self) -> None:
        """Leave run() after the callbacks of this turn."""
        self._running = False

    def run(self) -> None:
        """Until stop()."""
        self._running = True
        poll, readers, writers = self._epoll.poll, self._readers, self._writers
        while self._running:
            for fd, event in poll(self._patience(), _EVENTS):
                callback = readers.get(fd)
                if callback is not None and event != _WRITABLE:
                    callback()
                if event & _WRITABLE and (callback := writers.get(fd)):
                    callback()
            self._fire()

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()

    def _patience(self) -> float:
        if not self._timers:
            return -1
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()

    def _set(self, callbacks: dict[int, Callback], fd: int, callback: Callback) -> None:
        known = fd in self._readers or fd in self._writers
        callbacks[fd] = callback
        if known:
            self._epoll.modify(fd, self._mask(fd))
        else:
            self._epoll.register(fd, self._mask(fd))

    def _unset(self, callbacks: dict[int, Callback], fd: int) -> bool:
        if callbacks.pop(fd, None) is None:
            return False
        mask = self._mask(fd)
        # A descriptor that was closed first has left the epoll set by itself.
        with contextlib.suppress(OSError, ValueError):
            if mask:
                self._epoll.modify(fd, mask)
            else:
                self._epoll.unregister(fd)
        return True

    def _mask(self, fd: int) -> int:
        return (select.EPOLLIN if fd in self._readers else 0) | (
            select.EPOLLOUT if fd in self._writers else 0
        )
