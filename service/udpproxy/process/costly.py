"""Answers that cost much, for callers who may ask as often as they like."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_SHARE = 20
"""An answer holds for so many times what it cost to make: 5 % of the time at most goes there."""
_LONGEST = 1.0


class Costly(Generic[T]):
    """get() gives the last answer while that is fresh: for at most a second."""

    def __init__(self, make: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._kept: tuple[T, float] | None = None

    def get(self) -> T:
        """Made now, or a moment ago."""
        before = self._clock()
        if self._kept and before < self._kept[1]:
            return self._kept[0]
        value = self._make()
        after = self._clock()
        self._kept = value, after + min(_LONGEST, _SHARE * (after - before))
        return value
