"""How an instance comes to its end: the first reason holds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Protocol

from udpproxy.errors import LinkError
from udpproxy.instance.options import INTERNAL, OK, Mode
from udpproxy.process import messages
from udpproxy.process.logs import Logs

CLEAN_UP_LIMIT = 10.0
"""Seconds that all clean-ups together may wait for others."""


class Manager(Protocol):
    """Who has to do with the end of the instance beside us."""

    def expect_end(self) -> None:
        """Children that go from now on go with us."""

    async def restarts_us(self) -> bool | None:
        """Does systemd start us again? None: it cannot be asked."""


class Ending:
    """`kept`: systemd starts us again, and what is in its store stays there."""

    def __init__(self, logs: Logs, mode: Mode, manager: Manager) -> None:
        self._logs = logs
        self._mode = mode
        self._manager = manager
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self.broken)
        self._decided: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self.kept = False
        self.in_doubt = False
        """Kept, and nobody knows whether that helps."""

    async def decided(self) -> tuple[int, str]:
        """Status and reason, once there is one."""
        return await self._decided

    def finish(self, status: int, why: str) -> None:
        """End with that status; whoever comes later changes nothing."""
        if not self._decided.done():
            self._decided.set_result((status, why))

    def leave(self, why: str) -> None:
        """We are told to terminate."""
        if self._mode is Mode.UNITS and why.startswith("signal"):
            self.do(self._leave_or_restart(why))
        else:
            self.finish(OK, why)

    def do(self, work: Coroutine[object, object, None]) -> None:
        """Work that nobody waits for; a mistake of ours in it is said."""
        task = asyncio.ensure_future(self._careful(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """All such work is done."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A mistake of ours came up in the loop."""
        problem = context.get("exception")
        if isinstance(problem, BaseException):
            self._logs.failure(problem)
        else:
            self._logs.say(messages.INTERNAL, context.get("message"))
        if not self._decided.done():
            # systemd starts us again and hands everything back: our mistake ends no session.
            self.kept = self._mode is Mode.UNITS
            self.finish(INTERNAL, "internal error")

    async def _careful(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except LinkError as problem:
            self._logs.say(messages.SIGNAL_UNANSWERED, problem)
        except Exception as problem:
            self._logs.failure(problem)

    async def _leave_or_restart(self, why: str) -> None:
        """A restart keeps table and sockets in systemd's store; a stop ends every session."""
        self._manager.expect_end()
        try:
            restarts = await self._manager.restarts_us()
        except Exception as problem:
            # Whatever it is: we are to leave.
            self._logs.failure(problem)
            restarts = None
        if restarts is None:
            # On a real stop systemd throws its store away itself: what is kept harms nobody.
            self.in_doubt = True
            self._logs.say(messages.RESTART_UNKNOWN)
        self.kept = restarts is not False
        self.finish(OK, why)
