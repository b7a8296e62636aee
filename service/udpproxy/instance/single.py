"""The supervisor of single mode: REG in our own process, behind the same link."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from udpproxy import __version__
from udpproxy.instance.control_server import Door
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.proxy.reg.naming import Blocking
from udpproxy.proxy.reg.process import Reg
from udpproxy.supervisor.lifecycle import Life


class Inner:
    """REG as part of us; it has our process number."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.pid = os.getpid()


class SingleSupervisor:
    """The same four calls as ForkSupervisor."""

    def __init__(
        self,
        logs: Logs,
        door: Door,
        *,
        given_up: Callable[[str], None],
        blocking: Blocking,
    ) -> None:
        """`logs` is for REG alone: it has a level of its own, as in the other modes."""
        self._logs = logs
        self._door = door
        self._given_up = given_up
        self._blocking = blocking
        self._loop = asyncio.get_running_loop()
        self._inner: dict[str, Inner] = {}
        self._reg: Reg | None = None

    def start(self, role: str, life: Life) -> None:
        """REG, here."""
        life.start()
        self._inner[role] = Inner(life)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.take(ours, role)
        self._reg = Reg(
            self._loop,
            self._logs,
            its,
            notifier=_Told(life),
            version=__version__,
            left=lambda reason: self._left(role),
            blocking=self._blocking,
        )

    def vouch(self, pid: int, uid: int) -> str:
        """Nobody comes from outside."""
        return ""

    def knows(self, role: str, pid: int) -> bool:
        """It is ourselves."""
        return role in self._inner and pid == os.getpid()

    def children(self) -> dict[str, Inner]:
        """By role."""
        return self._inner

    def entered(self, role: str, pid: int) -> None:
        """Its link: we know it by its process already."""

    def ready(self, role: str) -> None:
        """It has told us so already."""

    def left(self, role: str) -> None:
        """Its process tells us more."""

    def discard(self, role: str) -> None:
        """It leaves with its link."""

    async def stop(self, limit: float) -> bool:
        """At once: there is no process to wait for."""
        for inner in self._inner.values():
            inner.life.stop()
        if self._reg:
            self._reg.leave("the proxy ends")
        return True

    def close(self) -> None:
        """Nothing is left."""
        self._inner.clear()

    def _left(self, role: str) -> None:
        life = self._inner[role].life
        life.exited(self._loop.time())
        if life.ends_counted:
            self._given_up(role)


class _Told(Notifier):
    """REG's readiness reaches us without a socket."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.watchdog_interval = None

    def ready(self, status: str) -> None:
        """The work can begin."""
        self._life.ready()

    def starting(self, seconds: float) -> None:
        """Nobody waits for it but we."""

    def status(self, text: str) -> None:
        """Nobody reads it."""

    def alive(self) -> None:
        """We are alive if it is."""

    def stopping(self) -> None:
        """We know."""
