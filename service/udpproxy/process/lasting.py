"""Tasks that are to last as long as their process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from udpproxy.process.logs import Logs

SHORTEST, LONGEST = 1.0, 60.0
"""Seconds until it begins again; they double where it fails again soon."""


async def lasting(logs: Logs, work: Callable[[], Awaitable[None]]) -> None:
    """Work that must not end its process by a mistake: that is said, and it begins again."""
    loop = asyncio.get_running_loop()
    pause = SHORTEST
    while True:
        begun = loop.time()
        try:
            await work()
        except Exception as problem:
            logs.failure(problem)
        else:
            return
        if loop.time() - begun > LONGEST:
            pause = SHORTEST
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST)
