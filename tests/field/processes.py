"""What happens to processes: killed, stopped for a while, short of descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """It does nothing meanwhile (SIGSTOP), as on a host that is frozen or far too busy."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def stop_for(pid: int, seconds: float) -> None:
    """The same for so long."""
    with stopped(pid):
        time.sleep(seconds)


@contextlib.contextmanager
def few_descriptors(pid: int, more: int) -> Iterator[None]:
    """It can open so many more, and no others."""
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = sorted(int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir())
    limit = next(
        each for each in range(used[-1] + more + 2) if each - sum(fd < each for fd in used) >= more
    )
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, usual[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
