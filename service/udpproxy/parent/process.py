"""The parent's life: make everything, have the children, pass commands on, end in order."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path

from udpproxy import __version__
from udpproxy.bus import PROXY, Bus
from udpproxy.config import load
from udpproxy.config.model import Config
from udpproxy.config.names import names, needed
from udpproxy.errors import ConfigError, InvalidArgument, LinkError, UnitError
from udpproxy.parent import reload
from udpproxy.parent.commands import Commands
from udpproxy.parent.door import Door
from udpproxy.parent.names import HELPERS, Naming, check_name_servers, client_look_up
from udpproxy.parent.peer import Peer
from udpproxy.parent.resources import Resources
from udpproxy.parent.service import OBJECTS, OPEN_METHODS, ROOT, BusService
from udpproxy.parent.sessions import Sessions
from udpproxy.parent.single import SingleSupervisor
from udpproxy.parent.store import Store
from udpproxy.parent.systemd import Systemd
from udpproxy.process import messages, wire
from udpproxy.process.control import Control, Figures
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import Account, group_number
from udpproxy.process.signals import Signals
from udpproxy.session import record as session_record
from udpproxy.supervisor.fork import ForkSupervisor
from udpproxy.supervisor.lifecycle import Life
from udpproxy.supervisor.units import UnitSupervisor

OK, GAVE_UP, INTERNAL = 0, 69, 70


class Mode(enum.Enum):
    """Who starts the children (SPEC 1)."""

    FORK = "fork"
    UNITS = "units"
    SINGLE = "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how an instance runs."""

    instance: str
    path: Path
    directory: Path
    mode: Mode
    session_bus: bool
    account: Account


class Parent:
    """One instance, from ready-made configuration to the end; run() returns the status."""

    def __init__(
        self, setting: Setting, text: str, config: Config, *, logs: Logs, signals: Signals
    ) -> None:
        self._setting = setting
        self._text = text
        self._config = config
        self._logs = logs
        self._signals = signals
        self._born = time.monotonic()
        self._peers: dict[str, Peer] = {}
        self._state = "starting"
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions_ended = 0
        self._kept = False
        self._told: tuple[str, int] = ("", -1)
        self._alive_at = 0.0

    async def run(self) -> int:
        """Until somebody says terminate or something gives up."""
        self._loop = asyncio.get_running_loop()
        self._running = asyncio.Event()
        self._end: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._loop.set_exception_handler(self._broken)
        self._notifier = Notifier()
        store = Store(self._notifier) if self._setting.mode is Mode.UNITS else None
        async with contextlib.AsyncExitStack() as clean_up:
            self._resources = Resources(
                self._logs, self._config, self._text, str(self._setting.path), store
            )
            clean_up.callback(self._resources.close)
            self._setting.account.become()
            self._naming = Naming(self._logs, self._resources)
            self._sessions = Sessions(self._resources, lambda: self._config)
            clean_up.callback(self._last_records)
            self._record_all(self._sessions.cut_off())
            self._open_door()
            clean_up.push_async_callback(self._door.close)
            self._join_bus(clean_up)
            self._start_children()
            self._pulse()
            clean_up.callback(lambda: self._timer.cancel())
            clean_up.push_async_callback(self._stop_children)
            status, why = await self._end
            self._state = "stopping"
            self._notifier.stopping()
            self._logs.say(messages.STOPPING, why)
        if not self._kept:
            self._logs.say(messages.STOPPED, self._sessions_ended)
        return status

    def figures(self) -> Figures:
        """The parent's state; sessions are REG's business, but their number is in the table."""
        return self._brief() | self._of_children() | {**self._resources.table.figures()}

    def _brief(self) -> Figures:
        figures: Figures = {
            "version": __version__,
            "instance": self._setting.instance,
            "role": "parent",
            "mode": self._setting.mode.value,
            "state": self._state,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._born, 1),
            "listening": len(self._resources.listeners),
            "rules": len(self._config.acls),
            "sessions": self._resources.table.count_live(),
            "max-sessions": self._config.max_sessions,
        }
        return figures | ({"tag": self._config.tag} if self._config.tag else {})

    def _of_children(self) -> Figures:
        figures: Figures = {}
        for role in self._supervisor.children():
            pid, state, ends = self._process(role)
            figures |= {f"{role}-pid": pid, f"{role}-state": state, f"{role}-ends": ends}
        return figures

    def _process(self, role: str) -> tuple[int, str, int]:
        if role == "parent":
            return os.getpid(), "ready" if self._state == "running" else self._state, 0
        child = self._supervisor.children().get(role)
        if child is None:
            return 0, "stopped", 0
        return child.pid, child.life.state.value, child.life.ends_counted

    def _open_door(self) -> None:
        self._control = Control(self._logs, figures=self.figures, leave=self._leave)
        self._commands = Commands(
            self._control,
            self._sessions,
            children=lambda: list(self._peers.values()),
            running=self._running,
            reload=self._reload,
            helpers=self._helpers,
            roles=lambda: self._supervisor.children(),
        )
        self._door = Door(
            self._logs,
            self._setting.directory / "control.sock",
            admit=lambda role, pid: self._supervisor.knows(role, pid),
            entered=self._entered,
            told=self._heard,
            left=self._left,
            perform=self._commands.perform,
        )
        self._loop.add_reader(self._signals.fileno(), self._deliver)

    def _join_bus(self, clean_up: contextlib.AsyncExitStack) -> None:
        service = BusService(
            self._logs,
            config=lambda: self._config,
            figures=self._brief,
            totals=self._resources.table.totals,
            process=self._process,
            perform=self._commands.perform,
            known=self._naming.found,
        )
        name = f"org.udpproxy1.{self._setting.instance}"
        self._bus = Bus(
            name,
            OBJECTS,
            service,
            session=self._setting.session_bus,
            open_methods=OPEN_METHODS,
            allowed_group=group_number("udp-proxy"),
        )
        self._systemd = Systemd(self._bus, self._setting.instance)
        connection = asyncio.ensure_future(
            self._bus.run(
                joined=lambda: self._logs.say(messages.BUS_READY, name),
                lost=self._bus_lost,
            )
        )
        clean_up.callback(connection.cancel)
        clean_up.push_async_callback(self._bus.close)

    def _bus_lost(self, why: str) -> None:
        # Where nobody promised a bus, its absence is no news.
        expected = self._setting.mode is Mode.UNITS or self._setting.session_bus
        self._logs.say(messages.BUS_LOST if expected else messages.BUS_ABSENT, why)

    def _start_children(self) -> None:
        setting = self._setting
        self._supervisor: ForkSupervisor | SingleSupervisor | UnitSupervisor
        match setting.mode:
            case Mode.SINGLE:
                self._logs.say(messages.SINGLE)
                logs = Logs(f"udp-proxy/{setting.instance}/reg", self._logs.level)
                self._naming.look_up_all(self._config)
                blocking = client_look_up(lambda: self._config.resolver)
                self._supervisor = SingleSupervisor(
                    logs, self._door, given_up=self._give_up, blocking=blocking
                )
            case Mode.UNITS:
                self._supervisor = UnitSupervisor(
                    self._logs,
                    restarts=self._systemd.restarts,
                    dismiss=self._dismiss,
                    given_up=self._give_up,
                    ended=self._child_ended,
                )
            case Mode.FORK:
                self._supervisor = ForkSupervisor(
                    self._logs,
                    setting.instance,
                    setting.directory,
                    given_up=self._give_up,
                    ended=self._child_ended,
                )
        self._start("reg")
        self._start_helpers()

    def _helpers(self) -> tuple[str, ...]:
        """Those that a command can be for."""
        if self._setting.mode is Mode.SINGLE:
            raise InvalidArgument("a single process looks names up once, at start and reload")
        return needed(self._config)

    def _start_helpers(self) -> None:
        """As units they wait idle; else those that the configuration needs, once it does."""
        roles = {Mode.UNITS: HELPERS, Mode.FORK: needed(self._config), Mode.SINGLE: ()}
        for role in roles[self._setting.mode]:
            if role not in self._supervisor.children():
                self._start(role)

    def _start(self, role: str) -> None:
        life = Life(
            limit=self._config.crash_limit,
            window=self._config.crash_window,
            stop_on_death=self._config.stop_on_child_death,
        )
        self._supervisor.start(role, life)

    def _dismiss(self, role: str) -> None:
        with contextlib.suppress(LinkError, OSError):
            self._peers[role].link.send(wire.Ask(0, "terminate", {}))

    async def _stop_children(self) -> None:
        await self._supervisor.stop(self._config.stop_timeout)
        self._supervisor.close()

    def _last_records(self) -> None:
        if self._kept:
            self._logs.say(messages.SESSIONS_KEPT, self._resources.table.count_live())
        else:
            self._record_all(self._sessions.last_records())

    def _record_all(self, records: Iterable[dict[str, str]]) -> None:
        patient = True
        for number, fields in enumerate(records, 1):
            self._logs.record(session_record.text(fields), fields)
            self._sessions_ended += 1
            # Thousands at once are more than a journal takes without a wait.
            if patient and number % 1000 == 0:
                patient = self._logs.drain(2.0)

    def _pulse(self) -> None:
        """Once a second: a sign of life, the status line, changed properties."""
        self._timer = self._loop.call_later(1.0, self._pulse)
        interval = self._notifier.watchdog_interval
        now = self._loop.time()
        if interval and now - self._alive_at >= min(interval, 1.0):
            self._alive_at = now
            self._notifier.alive()
        self._logs.flush()
        told = (self._state, self._resources.table.count_live())
        if told != self._told:
            self._told = told
            self._notifier.status(self._status())
            self._bus.changed(ROOT, PROXY, {"State", "Sessions"})

    def _status(self) -> str:
        live, most = self._resources.table.count_live(), self._config.max_sessions
        return f"{self._state}: listening {len(self._resources.listeners)}, sessions {live}/{most}"

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
        if self._setting.mode is Mode.UNITS and why.startswith("signal"):
            self._do(self._leave_or_restart(why))
        else:
            self._finish(OK, why)

    async def _leave_or_restart(self, why: str) -> None:
        """A restart keeps table and sockets in systemd's store; a stop ends every session."""
        self._kept = await self._systemd.restarts_us()
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
        # systemd starts us again and hands everything back: our mistake ends no session.
        self._kept = self._setting.mode is Mode.UNITS
        self._finish(INTERNAL, "internal error")

    def _finish(self, status: int, why: str) -> None:
        if not self._end.done():
            self._end.set_result((status, why))

    def _entered(self, peer: Peer) -> None:
        """A child has come: it gets everything it needs, and then the word to begin."""
        self._peers[peer.role] = peer
        self._supervisor.entered(peer.role, peer.link.peer[0])
        if peer.role == "reg":
            self._resources.lend_all(peer.link)
            self._naming.resume(peer.link)
            peer.link.send(wire.Tell("relay", {"level": self._logs.level}))
        self._naming.entered(peer, self._peers)

    def _heard(self, peer: Peer, news: wire.Tell) -> None:
        if news.what == "names" and peer.role == "acr":
            self._naming.found.heard(news.args.get("found"), names(self._config))
        if news.what != "ready":
            return
        self._supervisor.ready(peer.role)
        if peer.role != "reg":
            return
        self._running.set()
        if self._state == "starting":
            self._state = "running"
            self._notifier.ready(self._status())
            listening, most = len(self._resources.listeners), self._config.max_sessions
            self._logs.say(messages.READY, listening, most, news.args.get("engine"))

    def _left(self, peer: Peer) -> None:
        if self._peers.get(peer.role) is peer:
            del self._peers[peer.role]
            self._supervisor.left(peer.role)
            if peer.role == "reg":
                self._running.clear()

    def _child_ended(self, role: str, count: int) -> None:
        self._bus.emit(ROOT, PROXY, "ProcessRestarted", "su", [role, count])

    async def _reload(self) -> wire.Plain:
        try:
            path = self._setting.path
            text = load.read_text(path)
            new = load.parse(text, str(path), ephemeral=load.ephemeral_ports())
            reload.refuse_restart_keys(self._config, new)
            self._logs.check(new.log)
            check_name_servers(new)
            change = reload.Change(self._resources, new)
        except (ConfigError, InvalidArgument, UnitError) as problem:
            self._logs.say(messages.RELOAD_FAILED, problem)
            raise InvalidArgument(str(problem)) from None
        old, self._config, self._text = self._config, new, text
        self._resources.set_text(text, str(path))
        self._logs.configure(new.log, keep_level=old.log.level == new.log.level)
        for warning in new.warnings:
            self._logs.say(messages.CONFIG_WARNING, warning)
        if self._setting.mode is Mode.SINGLE:
            self._naming.look_up_all(new)
            self._naming.resume(self._peers["reg"].link)
        for child in self._supervisor.children().values():
            child.life.judge_by(new.crash_limit, new.crash_window, stop=new.stop_on_child_death)
        ended = 0
        with contextlib.suppress(LinkError, KeyError):
            ended = await change.apply(self._peers.get("reg"))
            if old.log.level != new.log.level:
                await self._peers["reg"].ask("loglevel", {"level": str(new.log.level)})
        self._naming.reloaded(new, self._peers)
        self._start_helpers()
        self._logs.say(messages.RELOADED, len(self._resources.listeners), len(new.acls))
        if ended:
            self._logs.say(messages.SESSIONS_WITHDRAWN, ended)
        self._bus.emit(ROOT, PROXY, "Reloaded", "", [])
        return {"sessions-ended": ended}
