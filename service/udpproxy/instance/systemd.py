"""What only systemd knows of us: is this stop a restart, and how often did a child's unit die?"""

from __future__ import annotations

import asyncio
import os

from udpproxy.bus import Bus, Failure

_NAME, _PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT, _SERVICE = "org.freedesktop.systemd1.Unit", "org.freedesktop.systemd1.Service"
_JOB = "org.freedesktop.systemd1.Job"
_GET = "org.freedesktop.DBus.Properties"

PATIENCE = 3.0
"""Seconds that the bus may take to come back; systemd waits longer for our end (TimeoutStopSec)."""
_PAUSE = 0.1


class Systemd:
    """The service manager, as far as it can be asked."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def restarts_us(self, patience: float = PATIENCE) -> bool | None:
        """Has our unit a job of the type `restart`? A bare signal has none. None: nobody can say,
        even after a wait for the bus to come back."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while (left := deadline - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    return await self._has_restart_job()
            except (Failure, TimeoutError):
                await asyncio.sleep(min(_PAUSE, max(0.0, deadline - loop.time())))
        return None

    async def _has_restart_job(self) -> bool:
        unit = await self._ask(_PATH, _MANAGER, "GetUnitByPID", "u", [os.getpid()])
        match await self._get(str(unit), _UNIT, "Job"):
            case [0, _]:
                return False
            case [int(), str(path)]:
                return await self._get(path, _JOB, "JobType") == "restart"
        raise Failure("systemd gave a job of an unknown form")

    async def stored(self) -> int | None:
        """How many descriptors the store has for our unit; None where nobody can say."""
        try:
            unit = await self._ask(_PATH, _MANAGER, "GetUnitByPID", "u", [os.getpid()])
            count = await self._get(str(unit), _SERVICE, "NFileDescriptorStore")
        except Failure:
            return None
        return count if isinstance(count, int) else None

    async def restarts(self, name: str) -> int | None:
        """NRestarts of that unit; None where nobody can say."""
        try:
            unit = await self._ask(_PATH, _MANAGER, "GetUnit", "s", [name])
            count = await self._get(str(unit), _SERVICE, "NRestarts")
        except Failure:
            return None
        return count if isinstance(count, int) else None

    async def _get(self, path: str, interface: str, name: str) -> object:
        variant = await self._ask(path, _GET, "Get", "ss", [interface, name])
        return getattr(variant, "value", variant)

    async def _ask(
        self, path: str, interface: str, member: str, signature: str, body: list[object]
    ) -> object:
        answer = await self._bus.ask(_NAME, path, interface, member, signature, body)
        if not answer:
            raise Failure(f"systemd gave no answer to {member}")
        return answer[0]
