"""The parent's life: make everything, have the children, pass commands on, end in order."""

from __future__ import annotations

import asyncio

from udpproxy.bus import PROXY, Bus
from udpproxy.errors import LinkError
from udpproxy.instance.bus_service import OBJECTS, OPEN_METHODS, ROOT, BusService
from udpproxy.instance.children import Children
from udpproxy.instance.commands import Commands
from udpproxy.instance.control_server import Door
from udpproxy.instance.ending import CLEAN_UP_LIMIT, Ending
from udpproxy.instance.options import GAVE_UP, OK, UNCLEAN, Mode, Setting
from udpproxy.instance.reload import Current
from udpproxy.instance.state import State
from udpproxy.instance.store import Store
from udpproxy.instance.systemd import Systemd
from udpproxy.process import messages, wire
from udpproxy.process.clean_up import CleanUps
from udpproxy.process.commands import Control
from udpproxy.process.lasting import lasting
from udpproxy.process.logs import SOON, Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import group_number, user_number
from udpproxy.process.signals import Signals
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.parent.inheritance import Inheritance
from udpproxy.proxy.parent.names import Naming
from udpproxy.proxy.parent.records import Records
from udpproxy.proxy.parent.resources import Resources
from udpproxy.proxy.parent.sessions import Sessions
from udpproxy.proxy.session.reasons import Reason

_STORE_LOOK = 2.0
"""Seconds that systemd has to act on what it was told."""


class Parent:
    """One instance, from ready-made configuration to the end; run() returns the status."""

    def __init__(
        self,
        setting: Setting,
        text: str,
        config: Config,
        *,
        logs: Logs,
        signals: Signals,
        notifier: Notifier,
    ) -> None:
        self._setting = setting
        self._text = text
        self._current = Current(logs, setting.path, config)
        self._logs = logs
        self._signals = signals
        self._notifier = notifier
        self._told: tuple[str, int] = ("", -1)
        self._alive_at = 0.0
        self._lacking = (0, 0)

    async def run(self) -> int:
        """Until somebody says terminate or something gives up."""
        self._loop = asyncio.get_running_loop()
        self._records = Records(self._logs)
        self._ending = Ending(
            self._logs,
            self._setting.mode,
            restarts_us=lambda: self._systemd.restarts_us(),
            leaves=lambda: self._children.expect_end(),
        )
        clean_ups = CleanUps(self._logs, CLEAN_UP_LIMIT)
        clean_ups.add("signals", self._last_signals)
        try:
            self._make(clean_ups)
            status = await self._live()
        finally:
            await clean_ups.finish()
        if not self._ending.kept:
            self._logs.say(messages.STOPPED, self._records.written)
        return status

    def _make(self, clean_ups: CleanUps) -> None:
        """All but the children."""
        setting = self._setting
        store = Store(self._logs, self._notifier) if setting.mode is Mode.UNITS else None
        self._resources = Resources(
            self._logs, self._current.config, self._text, str(setting.path), store
        )
        clean_ups.add("sockets", self._resources.close)
        setting.account.become(setting.keep)
        self._naming = Naming(self._logs, self._resources)
        self._sessions = Sessions(self._resources, self._config)
        inheritance = Inheritance(
            self._logs,
            self._resources,
            self._naming,
            self._sessions,
            self._records,
            lambda: self._children.peers,
        )
        self._children = Children(
            setting,
            self._logs,
            self._resources,
            self._naming,
            inheritance,
            self._config,
            relays=self._relays,
            ended=self._child_ended,
            given_up=lambda role: self._ending.finish(GAVE_UP, f"{role} cannot be kept alive"),
        )
        self._state = State(
            setting, self._resources, self._children, self._config, lambda: self._door.refused
        )
        self._make_bus()
        clean_ups.add("session records", self._last_records)
        self._records.write(self._sessions.lost_over_a_restart())
        self._open_door()
        clean_ups.add("control socket", self._door.close)
        self._join_bus(clean_ups)

    async def _live(self) -> int:
        self._children.begin(self._door, self._systemd)
        self._pulse()
        orderly = False
        try:
            status, why = await self._ending.decided()
            self._state.word = "stopping"
            self._notifier.stopping()
            self._logs.say(messages.STOPPING, why)
            if not self._ending.kept:
                self._resources.listeners.refuse_all()
        finally:
            orderly = await self._children.stop()
            self._timer.cancel()
        return UNCLEAN if status == OK and not orderly else status

    def _config(self) -> Config:
        return self._current.config

    def _stopping(self) -> bool:
        return self._state.word == "stopping"

    def _open_door(self) -> None:
        children = self._children
        self._control = Control(self._logs, figures=self._state.figures, leave=self._ending.leave)
        self._commands = Commands(
            self._control,
            self._sessions,
            children=lambda: list(children.peers.values()),
            running=children.running,
            reload=self._reload,
            helpers=children.helpers,
            roles=children.all,
            segmented=children.segmented,
            starting=lambda: self._state.word == "starting",
            stopping=self._stopping,
        )
        self._door = Door(
            self._logs,
            self._setting.directory,
            shared=self._setting.mode is Mode.UNITS,
            vouch=children.vouch,
            admit=children.admit,
            entered=children.entered,
            told=children.heard,
            left=children.left,
            perform=self._commands.perform,
        )
        self._loop.add_reader(self._signals.fileno(), self._deliver)

    def _make_bus(self) -> None:
        self._bus_name = f"org.udpproxy1.{self._setting.instance}"
        service = BusService(
            self._logs,
            config=self._config,
            figures=self._state.brief,
            totals=self._state.totals,
            process=self._state.process,
            perform=lambda verb, args: self._commands.perform(verb, args),
            known=self._naming.found,
        )
        self._bus = Bus(
            self._bus_name,
            OBJECTS,
            service,
            session=self._setting.session_bus,
            open_methods=OPEN_METHODS,
            allowed_group=group_number("udp-proxy"),
            children=user_number("udp-proxy-child"),
        )
        self._systemd = Systemd(self._bus, self._setting.instance)

    def _join_bus(self, clean_ups: CleanUps) -> None:
        connection = asyncio.ensure_future(
            lasting(
                self._logs,
                lambda: self._bus.run(
                    joined=self._joined,
                    lost=self._bus_lost,
                ),
            )
        )
        clean_ups.add("connection to D-Bus", connection.cancel)
        clean_ups.add("D-Bus name", self._bus.close)

    def _joined(self) -> None:
        self._logs.say(messages.BUS_READY, self._bus_name)
        self._look_at_store()

    def _look_at_store(self) -> None:
        """Soon: systemd takes no more than its limit, and tells nobody but its own journal."""
        if self._setting.mode is Mode.UNITS:
            self._loop.call_later(_STORE_LOOK, lambda: self._ending.do(self._check_store()))

    async def _check_store(self) -> None:
        if self._stopping() or not self._bus.connected:
            return
        wanted, has = self._resources.stored, await self._systemd.stored()
        if has is not None and has < wanted and self._lacking != (has, wanted):
            self._lacking = has, wanted
            self._logs.say(messages.STORE_FULL, has, wanted)

    def _bus_lost(self, why: str) -> None:
        # Where nobody promised a bus, its absence is no news.
        expected = self._setting.mode is Mode.UNITS or self._setting.session_bus
        self._logs.say(messages.BUS_LOST if expected else messages.BUS_ABSENT, why)

    def _last_records(self) -> None:
        if self._ending.kept:
            self._logs.say(messages.SESSIONS_KEPT, self._state.sessions)
            if self._ending.in_doubt:
                self._records.note(self._sessions.as_they_are())
        else:
            self._records.write(self._sessions.last_records(Reason.TERMINATED))
            self._resources.give_back()

    def _pulse(self) -> None:
        """Once a second: a sign of life, the status line, changed properties."""
        self._timer = self._loop.call_later(SOON if self._logs.flush() else 1.0, self._pulse)
        interval = self._notifier.watchdog_interval
        now = self._loop.time()
        if interval and now - self._alive_at >= min(interval, 1.0):
            self._alive_at = now
            self._notifier.alive()
        told = (self._state.text, self._state.sessions)
        if told != self._told:
            self._told = told
            self._notifier.status(self._state.line())
            self._bus.changed(ROOT, PROXY, {"State", "Sessions"})

    def _deliver(self) -> None:
        for number in self._signals.read():
            self._ending.do(self._commands.signalled(number))

    async def _last_signals(self) -> None:
        """Those that were taken are acted on; what comes now is too late."""
        self._loop.remove_reader(self._signals.fileno())
        await self._ending.settled()

    def _relays(self, engine: str) -> None:
        if self._state.word == "starting":
            self._state.word = "running"
            self._notifier.ready(self._state.line())
            listening = len(self._resources.listeners.by_place)
            most = self._config().max_sessions
            self._logs.say(messages.READY, listening, most, engine)
            self._look_at_store()

    def _child_ended(self, role: str, count: int) -> None:
        self._bus.emit(ROOT, PROXY, "ProcessRestarted", "su", [role, count])

    async def _reload(self) -> wire.Plain:
        self._notifier.reloading()
        try:
            room = await self._children.room()
            if self._stopping():
                raise LinkError("the proxy is stopping")
            led = await self._current.reload(
                self._setting.mode, self._resources, self._naming, self._children, room
            )
        finally:
            # After a mistake, too: systemd would wait for it until the reload times out.
            if not self._stopping():
                self._notifier.ready(self._state.line())
        self._look_at_store()
        self._bus.emit(ROOT, PROXY, "Reloaded", "", [])
        return {
            "sessions-ended": led.ended,
            "sessions-following": led.follow,
            "sessions-staying": led.stay,
        }
