"""Children of a daemon that was killed. The kernel kills them with it; that may take a moment, in
which they still hold its ports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

LIMIT = 3.0
"""Seconds to wait for them."""


def wait(session: int, limit: float = LIMIT) -> bool:
    """Until no child of the daemon with that number is left; False: they are there after `limit`
    seconds. A session's number is given to nobody else while it has a process."""
    if not session:
        return True
    deadline = time.monotonic() + limit
    while any(_children(session)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _children(session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # proc(5): pid (name) state ppid pgrp session ...
                state, _, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if int(number) == session and state != "Z" and b"udpproxy.child" in words:
                    yield int(entry.name)
