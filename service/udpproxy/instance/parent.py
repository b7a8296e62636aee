"""The parent's life: make everything, have the children, pass commands on, end in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

from udpproxy.bus import Bus
from udpproxy.config.model import InstanceConfig
from udpproxy.instance.bus_service import BusService, methods, objects
from udpproxy.instance.children import Children
from udpproxy.instance.commands import Commands
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.control_server import ControlServer
from udpproxy.instance.ending import CLEAN_UP_LIMIT, Ending
from udpproxy.instance.options import GAVE_UP, OK, UNCLEAN, Mode, RunOptions
from udpproxy.instance.reload import reload
from udpproxy.instance.service import Product
from udpproxy.instance.state import State
from udpproxy.instance.systemd import Systemd
from udpproxy.process import messages, wire
from udpproxy.process.clean_up import CleanUps
from udpproxy.process.commands import Figures, ProcessCommands
from udpproxy.process.lasting import lasting
from udpproxy.process.logs import SOON, Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import group_number, user_number
from udpproxy.process.signals import Signals
from udpproxy.process.verbs import Arguments

_STORE_LOOK = 2.0
"""Seconds that systemd has to act on what it was told."""


class Parent:
    """One instance, from ready-made configuration to the end; run() returns the status."""

    def __init__(
        self,
        product: Product[Any],
        options: RunOptions,
        *,
        logs: Logs,
        signals: Signals,
        notifier: Notifier,
    ) -> None:
        self.options = options
        self.logs = logs
        self.notifier = notifier
        self._product = product
        self._signals = signals
        self._told: tuple[object, ...] = ()
        self._alive_at = 0.0
        self._lacking = (0, 0)

    async def run(self, text: str, config: InstanceConfig) -> int:
        """Until somebody says terminate or something gives up. `config` is what `text` says."""
        self._loop = asyncio.get_running_loop()
        self._ending = Ending(self.logs, self.options.mode, self)
        clean_ups = CleanUps(self.logs, CLEAN_UP_LIMIT)
        clean_ups.add("signals", self._last_signals)
        try:
            self._make(clean_ups, text, config)
            status = await self._live()
        finally:
            await clean_ups.finish()
        if not self._ending.kept:
            self.logs.say(messages.STOPPED, self._service.farewell())
        return status

    def _make(self, clean_ups: CleanUps, text: str, config: InstanceConfig) -> None:
        """All but the processes of the children. Each knows what was made before it."""
        options, product = self.options, self._product
        self._service = product.serve(self, config, text, options.path)
        clean_ups.add("sockets", self._service.close)
        options.account.become(options.keep)
        self._children = Children(self.logs, product.identity, options, self._service, self)
        clean_ups.add("children", self._children.close)
        self._state = State(options, self._children, self._service)
        own = ProcessCommands(self.logs, figures=self._figures, leave=self._ending.leave)
        self._commands = Commands(product, own, self._children, self._service, self)
        self._make_bus()
        clean_ups.add("last records", self._last_records)
        self._server = ControlServer(
            self.logs,
            options.directory,
            shared=options.mode is Mode.UNITS,
            family=self._children,
            performer=self._commands,
        )
        clean_ups.add("control socket", self._server.close)
        self._loop.add_reader(self._signals.fileno(), self._deliver)
        self._join_bus(clean_ups)

    async def _live(self) -> int:
        self._children.follow()
        self._pulse()
        orderly = False
        try:
            status, why = await self._ending.decided()
            self._state.word = "stopping"
            self.notifier.stopping()
            self.logs.say(messages.STOPPING, why)
            if not self._ending.kept:
                self._service.stop_serving()
        finally:
            orderly = await self._children.stop()
            self._timer.cancel()
        return UNCLEAN if status == OK and not orderly else status

    # What the service sees of us.

    @property
    def peers(self) -> Mapping[str, ChildConnection]:
        """See Instance."""
        return self._children.peers

    def stored_more(self) -> None:
        """See Instance."""
        self._look_at_store()

    def discard(self, child: ChildConnection, why: str) -> None:
        """See Instance."""
        self._children.discard(child, why)

    async def ask(self, role: str, verb: str, arguments: Arguments) -> wire.Plain:
        """See Instance."""
        return await self._children.ask(role, verb, arguments)

    # What the children do to us.

    def working(self) -> None:
        """See Watcher."""
        if self._state.word == "starting":
            self._state.word = "running"
            self.notifier.ready(self._state.line())
            self.logs.say(messages.READY, self._service.readiness())
            self._look_at_store()

    def child_ended(self, role: str, count: int) -> None:
        """See Watcher."""
        self.announce("ProcessRestarted", "su", [role, count])

    def cannot_go_on(self, why: str) -> None:
        """See Watcher."""
        self._ending.finish(GAVE_UP, why)

    def take_link(self, link: socket.socket, role: str) -> None:
        """See Watcher."""
        self._server.take(link, role)

    async def restarts(self, unit: str) -> int | None:
        """See Watcher."""
        return await self._systemd.restarts(unit)

    # Our end, and who has to do with it.

    def expect_end(self) -> None:
        """See Manager."""
        self._children.expect_end()

    async def restarts_us(self) -> bool | None:
        """See Manager."""
        return await self._systemd.restarts_us()

    def _last_records(self) -> None:
        kept = self._ending.kept
        if kept:
            self.logs.say(messages.KEPT, self._service.keeps())
        self._service.finish(kept=kept, in_doubt=self._ending.in_doubt)

    def _deliver(self) -> None:
        for number in self._signals.read():
            self._ending.do(self._commands.signalled(number))

    async def _last_signals(self) -> None:
        """Finish the commands of signals that were read; ignore later ones."""
        self._loop.remove_reader(self._signals.fileno())
        await self._ending.settled()

    # What we show.

    @property
    def word(self) -> str:
        """See Lifecycle."""
        return self._state.word

    def _figures(self) -> Figures:
        return self._state.figures(self._server.refused)

    def _pulse(self) -> None:
        """Once a second: a sign of life, the status line, changed properties."""
        self._timer = self._loop.call_later(SOON if self.logs.flush() else 1.0, self._pulse)
        interval = self.notifier.watchdog_interval
        now = self._loop.time()
        if interval and now - self._alive_at >= min(interval, 1.0):
            self._alive_at = now
            self.notifier.alive()
        changing = self._service.changing
        values = self._service.properties(changing)
        told = (self._state.text, *(values[name] for name in sorted(changing)))
        if told != self._told:
            self._told = told
            self.notifier.status(self._state.line())
            identity = self._product.identity
            self._bus.changed(identity.root, identity.interface, {"State", *changing})

    # systemd and the bus.

    def _make_bus(self) -> None:
        identity = self._product.identity
        service = BusService(self.logs, self._product, self._service, self._state, self._commands)
        self._bus = Bus(
            identity,
            self.options.instance,
            objects(identity, self._service.every_role()),
            service,
            session=self.options.session_bus,
            open_methods=frozenset(
                name for name, verb in methods(self._product.verbs).items() if verb.open
            ),
            allowed_group=group_number(identity.name),
            children=user_number(identity.children),
        )
        self._systemd = Systemd(self._bus)

    def _join_bus(self, clean_ups: CleanUps) -> None:
        connection = asyncio.ensure_future(
            lasting(self.logs, lambda: self._bus.run(joined=self._joined, lost=self._bus_lost))
        )
        clean_ups.add("connection to D-Bus", connection.cancel)
        clean_ups.add("D-Bus name", self._bus.close)

    def _joined(self) -> None:
        self.logs.say(messages.BUS_READY, self._bus.name)
        self._look_at_store()

    def _bus_lost(self, why: str) -> None:
        # Where nobody promised a bus, its absence is no news.
        expected = self.options.mode is Mode.UNITS or self.options.session_bus
        self.logs.say(messages.BUS_LOST if expected else messages.BUS_ABSENT, why)

    def announce(self, member: str, signature: str, body: list[object]) -> None:
        """See service.Instance."""
        identity = self._product.identity
        self._bus.emit(identity.root, identity.interface, member, signature, body)

    def _look_at_store(self) -> None:
        """Soon: systemd takes no more than its limit, and tells nobody but its own journal."""
        if self.options.mode is Mode.UNITS:
            self._loop.call_later(_STORE_LOOK, lambda: self._ending.do(self._check_store()))

    async def _check_store(self) -> None:
        if self.word == "stopping" or not self._bus.connected:
            return
        wanted, has = self._service.stored, await self._systemd.stored()
        if has is not None and has < wanted and self._lacking != (has, wanted):
            self._lacking = has, wanted
            self.logs.say(messages.STORE_FULL, has, wanted)

    async def reload(self) -> wire.Plain:
        """See Lifecycle."""
        self.notifier.reloading()
        try:
            answer = await reload(
                self.logs, self._product, self.options, self._service, self._children, self
            )
        finally:
            # After a mistake, too: systemd would wait for it until the reload times out.
            if self.word != "stopping":
                self.notifier.ready(self._state.line())
        self._bus.publish(objects(self._product.identity, self._service.every_role()))
        self._look_at_store()
        self.announce("Reloaded", "", [])
        return answer
