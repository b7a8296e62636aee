"""Children of a daemon that was killed. The kernel kills them with it; that may take a moment, in
which they still hold its ports. One that hung before it could ask the kernel for that is killed
here."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

LIMIT = 3.0
"""Seconds to wait for them."""
_KILL_LIMIT = 1.0
"""Seconds that the system may take to end those that were killed."""


def wait(module: str, session: int, owner: int = 0, limit: float = LIMIT) -> bool:
    """Until no child of the daemon with that number is left; those that are there after `limit`
    seconds are killed. False: even that was in vain. A session's number is given to nobody else
    while it has a process. `owner` is who told the number: but for root only his own processes are
    meant. `module` is what children run."""
    if not session or _gone(module, session, owner, limit):
        return True
    for pid in list(_children(module, session, owner)):
        _kill(module, session, owner, pid)
    return _gone(module, session, owner, _KILL_LIMIT)


def _gone(module: str, session: int, owner: int, limit: float) -> bool:
    deadline = time.monotonic() + limit
    while any(_children(module, session, owner)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _kill(module: str, session: int, owner: int, pid: int) -> None:
    """Only that very process: it is looked at again once nobody else can have its number."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid in _children(module, session, owner):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _children(module: str, session: int, owner: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if owner not in (0, entry.stat().st_uid):
                    continue
                # proc(5): pid (name) state ppid pgrp session ...
                state, _, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if int(number) == session and state != "Z" and module.encode() in words:
                    yield int(entry.name)
