"""The supervisor of single mode: the child is a part of our own process, behind the same link."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Protocol

from udpproxy.process.notify import Notifier
from udpproxy.supervisor.lifecycle import RestartPolicy
from udpproxy.supervisor.roles import ChildEvents


class Part(Protocol):
    """What else would be a process."""

    def leave(self, why: str) -> None:
        """End, in order."""


Make = Callable[[str, socket.socket, Notifier, Callable[[str], None]], Part]
"""The part for a role, its end of the link, whom it tells how it does, and what it calls with the
reason when it has ended."""


class Inner:
    """A part of us; it has our process number."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self.pid = os.getpid()


class SingleSupervisor:
    """The same calls as ForkSupervisor has."""

    def __init__(
        self, take: Callable[[socket.socket, str], None], make: Make, events: ChildEvents
    ) -> None:
        """`take` is given our end of each link, and the role at the other."""
        self._take = take
        self._make = make
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._inner: dict[str, Inner] = {}
        self._parts: dict[str, Part] = {}

    def start(self, role: str, policy: RestartPolicy) -> None:
        """Here."""
        policy.start()
        self._inner[role] = Inner(policy)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._take(ours, role)
        self._parts[role] = self._make(role, its, _Told(policy), lambda reason: self._left(role))

    def drop(self, role: str, limit: float) -> None:
        """Have no such part any more."""
        del self._inner[role]
        self._parts.pop(role).leave("it is not needed any more")

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
        """We know."""

    def discard(self, role: str) -> None:
        """It leaves with its link."""

    def expect_end(self) -> None:
        """We end together."""

    async def stop(self, limit: float) -> bool:
        """At once: there is no process to wait for."""
        for inner in self._inner.values():
            inner.policy.stop()
        for part in self._parts.values():
            part.leave("the instance ends")
        return True

    def close(self) -> None:
        """Nothing is left."""
        self._inner.clear()

    def _left(self, role: str) -> None:
        if role not in self._inner:
            return  # it was dropped
        policy = self._inner[role].policy
        policy.exited(self._loop.time())
        if policy.ends_counted:
            self._events.given_up(role)


class _Told(Notifier):
    """Its readiness reaches us without a socket."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._life = policy
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
