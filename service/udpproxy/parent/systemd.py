"""What only systemd knows of us: is this stop a restart, and how often did a child's unit die?"""

from __future__ import annotations

import os

from udpproxy.bus import Bus, Failure

_NAME, _PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT, _SERVICE = "org.freedesktop.systemd1.Unit", "org.freedesktop.systemd1.Service"
_JOB = "org.freedesktop.systemd1.Job"
_GET = "org.freedesktop.DBus.Properties"


class Systemd:
    """The service manager, as far as it can be asked."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus = bus
        self._instance = instance

    async def restarts_us(self) -> bool:
        """Has our unit a job of the type `restart`? A bare signal has none."""
        try:
            unit = await self._ask(_PATH, _MANAGER, "GetUnitByPID", "u", [os.getpid()])
            job = await self._get(str(unit), _UNIT, "Job")
            assert isinstance(job, list)
            number, path = job
            return bool(number) and await self._get(path, _JOB, "JobType") == "restart"
        except Failure:
            return False

    async def restarts(self, role: str) -> int | None:
        """NRestarts of a child's unit; None where nobody can say."""
        name = f"udp-proxy-{role}@{self._instance}.service"
        try:
            unit = await self._ask(_PATH, _MANAGER, "GetUnit", "s", [name])
            return int(str(await self._get(str(unit), _SERVICE, "NRestarts")))
        except Failure:
            return None

    async def _get(self, path: str, interface: str, name: str) -> object:
        variant = await self._ask(path, _GET, "Get", "ss", [interface, name])
        return getattr(variant, "value", variant)

    async def _ask(
        self, path: str, interface: str, member: str, signature: str, body: list[object]
    ) -> object:
        return (await self._bus.ask(_NAME, path, interface, member, signature, body))[0]
