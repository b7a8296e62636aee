"""Waiting for what will come: never a bare sleep, never without end.

The limit is for a machine that is slow and does other things besides; who waits for less waits no
shorter for it. What has to come soon is measured by its test.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass in {limit:g} s"
        time.sleep(0.02)
