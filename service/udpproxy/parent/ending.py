"""How the proxy ends: the first reason holds, and what was opened is closed in reverse order."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import Awaitable, Callable, Coroutine

from udpproxy.errors import LinkError
from udpproxy.parent.setting import INTERNAL, OK, Mode
from udpproxy.process import messages
from udpproxy.process.logs import Logs

CLEAN_UP_LIMIT = 10.0
"""Seconds that all clean-ups together may wait for others."""
HANG_LIMIT = 60.0
"""Seconds after which clean-ups that hang altogether end with the process, by SIGALRM."""


class Ending:
    """`kept`: systemd starts us again, and the sessions stay in its store. `restarts_us` asks it;
    None: it cannot be asked. `leaves` is called before: children that go then go with us."""

    def __init__(
        self,
        logs: Logs,
        mode: Mode,
        restarts_us: Callable[[], Awaitable[bool | None]],
        leaves: Callable[[], None],
    ) -> None:
        self._logs = logs
        self._mode = mode
        self._restarts_us = restarts_us
        self._leaves = leaves
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self.broken)
        self._decided: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self.kept = False

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
        """Work that nobody waits for; a mistake of ours in it ends us."""
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

    def watch(self, task: asyncio.Future[None]) -> None:
        """Of a task that is to last as long as we do: nobody else would see why it ended."""
        if not task.cancelled() and (problem := task.exception()):
            self.broken(self._loop, {"exception": problem})

    async def _careful(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except LinkError as problem:
            self._logs.say(messages.SIGNAL_UNANSWERED, problem)
        except Exception as problem:
            self.broken(self._loop, {"exception": problem})

    async def _leave_or_restart(self, why: str) -> None:
        """A restart keeps table and sockets in systemd's store; a stop ends every session."""
        self._leaves()
        restarts = await self._restarts_us()
        if restarts is None:
            # On a real stop systemd throws its store away itself: what is kept harms nobody.
            self._logs.say(messages.RESTART_UNKNOWN)
        self.kept = restarts is not False
        self.finish(OK, why)


class CleanUps:
    """What is to be done at the end, whatever brings it about: once, the last added first."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._works: list[tuple[str, Callable[[], object]]] = []

    def add(self, name: str, work: Callable[[], object]) -> None:
        """`work` may return something to wait for; `name` says in the log what failed."""
        self._works.append((name, work))

    async def run(self, limit: float = CLEAN_UP_LIMIT, hang: float = HANG_LIMIT) -> None:
        """One that fails, or still waits after `limit` seconds, does not keep the next from its
        turn. Nothing else can be done against one that does not even wait."""
        deadline = asyncio.get_running_loop().time() + limit
        signal.setitimer(signal.ITIMER_REAL, hang)
        while self._works:
            name, work = self._works.pop()
            try:
                await self._run(work, deadline)
            except TimeoutError:
                self._logs.say(messages.CLEAN_UP_FAILED, name, f"not done within {limit:g} s")
            except Exception as problem:
                self._logs.say(messages.CLEAN_UP_FAILED, name, repr(problem))
        signal.setitimer(signal.ITIMER_REAL, 0)

    async def _run(self, work: Callable[[], object], deadline: float) -> None:
        result = work()
        if inspect.isawaitable(result):
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait_for(result, max(0.0, left))
