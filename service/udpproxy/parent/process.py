"""The parent's life: make everything, have the children, pass commands on, end in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine
from pathlib import Path

from udpproxy import __version__
from udpproxy.config import load
from udpproxy.config.model import Config
from udpproxy.errors import ConfigError, InvalidArgument, LinkError
from udpproxy.parent import reload
from udpproxy.parent.commands import Commands
from udpproxy.parent.door import Door
from udpproxy.parent.peer import Peer
from udpproxy.parent.resources import Resources
from udpproxy.parent.sessions import Sessions
from udpproxy.parent.single import SingleSupervisor
from udpproxy.process import messages, wire
from udpproxy.process.control import Control, Figures
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import Account
from udpproxy.process.signals import Signals
from udpproxy.session import record as session_record
from udpproxy.supervisor.fork import ForkSupervisor
from udpproxy.supervisor.lifecycle import Life

OK, GAVE_UP, INTERNAL = 0, 69, 70


class Parent:
    """One instance, from ready-made configuration to the end; run() returns the status."""

    def __init__(
        self, path: Path, text: str, config: Config, *, instance: str, logs: Logs, signals: Signals
    ) -> None:
        self._path = path
        self._text = text
        self._config = config
        self._instance = instance
        self._logs = logs
        self._signals = signals
        self._born = time.monotonic()
        self._peers: dict[str, Peer] = {}
        self._state = "starting"
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions_ended = 0

    async def run(self, directory: Path, account: Account, *, single: bool) -> int:
        """Until somebody says terminate or something gives up."""
        self._loop = asyncio.get_running_loop()
        self._running = asyncio.Event()
        self._end: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._loop.set_exception_handler(self._broken)
        self._notifier = Notifier()
        async with contextlib.AsyncExitStack() as clean_up:
            self._resources = Resources(self._logs, self._config, self._text, str(self._path))
            clean_up.callback(self._resources.close)
            account.become()
            self._sessions = Sessions(self._resources, lambda: self._config)
            clean_up.callback(self._last_records)
            self._open_door(directory)
            clean_up.push_async_callback(self._door.close)
            self._start_children(directory, single=single)
            clean_up.push_async_callback(self._stop_children)
            status, why = await self._end
            self._state = "stopping"
            self._notifier.stopping()
            self._logs.say(messages.STOPPING, why)
        self._logs.say(messages.STOPPED, self._sessions_ended)
        return status

    def figures(self) -> Figures:
        """The parent's state; sessions are REG's business, but their number is in the table."""
        figures: Figures = {
            "version": __version__,
            "instance": self._instance,
            "role": "parent",
            "state": self._state,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._born, 1),
            "listening": len(self._resources.listeners),
            "rules": len(self._config.acls),
            "sessions": self._resources.table.count_live(),
            "max-sessions": self._config.max_sessions,
        }
        if self._config.tag:
            figures["tag"] = self._config.tag
        for role, child in self._supervisor.children().items():
            figures[f"{role}-pid"] = child.pid
            figures[f"{role}-state"] = child.life.state.value
            figures[f"{role}-ends"] = child.life.ends_counted
        figures.update(self._resources.table.figures())
        return figures

    def _open_door(self, directory: Path) -> None:
        self._control = Control(self._logs, figures=self.figures, leave=self._leave)
        self._commands = Commands(
            self._control,
            self._sessions,
            children=lambda: list(self._peers.values()),
            running=self._running,
            reload=self._reload,
        )
        self._door = Door(
            self._logs,
            directory / "control.sock",
            admit=lambda role, pid: self._supervisor.knows(role, pid),
            entered=self._entered,
            told=self._told,
            left=self._left,
            perform=self._commands.perform,
        )
        self._loop.add_reader(self._signals.fileno(), self._deliver)

    def _start_children(self, directory: Path, *, single: bool) -> None:
        self._supervisor: ForkSupervisor | SingleSupervisor
        if single:
            self._logs.say(messages.SINGLE)
            logs = Logs(f"udp-proxy/{self._instance}/reg", self._logs.level)
            self._supervisor = SingleSupervisor(logs, self._door, given_up=self._give_up)
        else:
            self._supervisor = ForkSupervisor(
                self._logs, self._instance, directory, given_up=self._give_up
            )
        life = Life(
            limit=self._config.crash_limit,
            window=self._config.crash_window,
            stop_on_death=self._config.stop_on_child_death,
        )
        self._supervisor.start("reg", life)

    async def _stop_children(self) -> None:
        await self._supervisor.stop(self._config.stop_timeout)
        self._supervisor.close()

    def _last_records(self) -> None:
        for fields in self._sessions.last_records():
            self._logs.record(session_record.text(fields), fields)
            self._sessions_ended += 1

    def _deliver(self) -> None:
        for number in self._signals.read():
            self._do(self._commands.signalled(number))

    def _do(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(self._careful(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _careful(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except LinkError as problem:
            self._logs.say(messages.SIGNAL_UNANSWERED, problem)
        except Exception as problem:
            self._broken(self._loop, {"exception": problem})

    def _leave(self, why: str) -> None:
        self._finish(OK, why)

    def _give_up(self, role: str) -> None:
        life = self._supervisor.children()[role].life
        self._logs.say(messages.TOO_MANY_ENDS, role, life.recent, life.window, PROCESS=role)
        self._finish(GAVE_UP, f"{role} cannot be kept alive")

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        problem = context.get("exception")
        if isinstance(problem, BaseException):
            self._logs.failure(problem)
        else:
            self._logs.say(messages.INTERNAL, context.get("message"))
        self._finish(INTERNAL, "internal error")

    def _finish(self, status: int, why: str) -> None:
        if not self._end.done():
            self._end.set_result((status, why))

    def _entered(self, peer: Peer) -> None:
        """A child has come: it gets everything it needs, and then the word to begin."""
        self._peers[peer.role] = peer
        self._resources.lend_all(peer.link)
        peer.link.send(wire.Tell("relay", {"level": self._logs.level}))

    def _told(self, peer: Peer, news: wire.Tell) -> None:
        if news.what != "ready":
            return
        self._running.set()
        if self._state == "starting":
            self._state = "running"
            listening, most = len(self._resources.listeners), self._config.max_sessions
            self._notifier.ready(f"listening {listening}, at most {most} sessions")
            self._logs.say(messages.READY, listening, most, news.args.get("engine"))

    def _left(self, peer: Peer) -> None:
        if self._peers.get(peer.role) is peer:
            del self._peers[peer.role]
            self._running.clear()

    async def _reload(self) -> wire.Plain:
        try:
            text = load.read_text(self._path)
            new = load.parse(text, str(self._path), ephemeral=load.ephemeral_ports())
            reload.refuse_restart_keys(self._config, new)
            change = reload.Change(self._resources, new)
        except (ConfigError, InvalidArgument) as problem:
            self._logs.say(messages.RELOAD_FAILED, problem)
            raise InvalidArgument(str(problem)) from None
        old, self._config, self._text = self._config, new, text
        self._resources.set_text(text, str(self._path))
        self._logs.configure(new.log, keep_level=old.log.level == new.log.level)
        for warning in new.warnings:
            self._logs.say(messages.CONFIG_WARNING, warning)
        ended = 0
        with contextlib.suppress(LinkError, KeyError):
            ended = await change.apply(self._peers["reg"])
            if old.log.level != new.log.level:
                await self._peers["reg"].ask("loglevel", {"level": str(new.log.level)})
        self._logs.say(messages.RELOADED, len(self._resources.listeners), len(new.acls))
        if ended:
            self._logs.say(messages.SESSIONS_WITHDRAWN, ended)
        return {"sessions-ended": ended}
