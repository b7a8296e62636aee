"""REG's life: born with nothing, lent everything over one link, relaying until the link ends."""

from __future__ import annotations

import mmap
import os
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

from udpproxy.config.load import parse
from udpproxy.config.model import Config
from udpproxy.engine.interface import Engine, ListenerSocket
from udpproxy.engine.pool import Pool
from udpproxy.engine.python import PythonEngine
from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.process import messages, wire
from udpproxy.process.control import Control, Figures
from udpproxy.process.link import Link
from udpproxy.process.logs import MOST, Logs
from udpproxy.process.loop import Reactor
from udpproxy.process.notify import Notifier
from udpproxy.reg.host import RelayHost
from udpproxy.reg.verdicts import Verdicts
from udpproxy.session.table import STARTS, Table

_BUSY_TICK, _IDLE_TICK = 0.1, 1.0
"""Seconds between two looks at what is due, with and without sessions."""


class Reg:
    """One relay; `left` is called with the reason when it has nothing more to do."""

    def __init__(
        self,
        reactor: Reactor,
        logs: Logs,
        sock: socket.socket,
        *,
        notifier: Notifier,
        version: str,
        left: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._logs = logs
        self._notifier = notifier
        self._left = left
        self._born = time.monotonic()
        self._config: tuple[Config, int] | None = None
        self._table: Table | None = None
        self._carriers: list[socket.socket] = []
        """Lent and not yet in the pool, which takes them all."""
        self._lent: list[ListenerSocket] = []
        self._engine: Engine | None = None
        self._host: RelayHost | None = None
        self._alive_at = 0.0
        self.control = Control(logs, figures=self.figures, leave=self.leave)
        self._link = Link(reactor, sock, received=self._received, closed=self._lost)
        self._link.send(wire.Hello("reg", version))

    def figures(self) -> Figures:
        """The state of this process and of its sessions."""
        figures: Figures = {
            "role": "reg",
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._born, 1),
            "state": "relaying" if self._engine else "starting",
            "log-lines-dropped": self._logs.dropped,
        }
        if self._engine and self._table:
            figures["engine"] = self._engine.name
            figures["max-sessions"] = self._table.capacity
            figures["starts"] = self._table.words[STARTS]
            figures.update(self._engine.figures())
        return figures

    def leave(self, why: str) -> None:
        """Go; the sessions stay in the table, for the next one or for the last records."""
        self._notifier.stopping()
        if self._engine:
            self._engine.close()
            self._engine = None
        self._link.close(why)

    def _lost(self, link: Link, reason: str) -> None:
        if self._engine:
            self._engine.close()
            self._engine = None
        self._left(reason)

    def _received(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        match message:
            case wire.Lend(what, items) if len(items) == len(descriptors):
                self._borrow(what, items, descriptors)
            case wire.Tell("relay", {"level": int(level)}):
                self._logs.level = level
                self._relay()
            case wire.Ask(number, verb, args):
                try:
                    value = self._perform(verb, args)
                except InvalidArgument as problem:
                    link.send(wire.Answer(number, error=str(problem)))
                else:
                    link.send(wire.Answer(number, value))
            case _:
                raise LinkError(f"not for REG: {type(message).__name__}")

    def _perform(self, verb: str, args: dict[str, wire.Plain]) -> wire.Plain:
        match verb, args:
            case "reconsider", {"removed": list(removed)}:
                return self._reconsider([int(str(number)) for number in removed])
            case "kill", {"session": int(number)}:
                if not self._engine or not self._engine.kill(number):
                    raise InvalidArgument(f"there is no session {number}")
                return None
            case _:
                value = self.control.perform(verb, args)
                self._watch_payloads()
                return value

    def signalled(self, number: int) -> None:
        """A signal came."""
        self.control.signalled(number)
        self._watch_payloads()

    def _watch_payloads(self) -> None:
        if self._engine:
            self._engine.watch(on=self._logs.level >= MOST)

    def _borrow(self, what: str, items: list[wire.Plain], descriptors: list[int]) -> None:
        match what, items:
            case "config", [{"origin": str(origin), "generation": int(generation)}]:
                with os.fdopen(descriptors[0], "rb") as file:
                    file.seek(0)
                    self._config = parse(file.read().decode(), origin), generation
            case "table", [{"capacity": int(capacity)}]:
                memory = mmap.mmap(descriptors[0], 0)
                os.close(descriptors[0])
                self._table = Table(memoryview(memory), capacity, fresh=False)
            case "carriers", _:
                self._carriers += [socket.socket(fileno=fd) for fd in descriptors]
            case "listeners", _:
                self._lent += map(_listener, items, descriptors)
            case _:
                raise LinkError(f"lent {what} of an unknown form")

    def _relay(self) -> None:
        """Everything is here."""
        if self._config is None or self._table is None or self._engine:
            raise LinkError("told to relay without what it takes")
        config, generation = self._config
        self._logs.configure(config.log, keep_level=True)
        self._table.words[STARTS] += 1
        host = self._host = RelayHost(self._logs, self._table, Verdicts(config, generation))
        engine = self._engine = PythonEngine(
            self._reactor,
            self._table,
            Pool(self._carriers),
            host,
            per_client=config.max_sessions_per_client,
            evict=config.evict_idlest,
        )
        self._take_listeners()
        adopted = engine.adopt()
        host.resumed(adopted)
        if adopted:
            self._logs.say(messages.ADOPTED, adopted)
        self._watch_payloads()
        self._notifier.ready(f"relaying, {adopted} sessions")
        self._link.send(wire.Tell("ready", {"engine": engine.name}))
        self._logs.say(messages.CHILD_READY)
        self._tick()

    def _take_listeners(self) -> None:
        assert self._engine
        assert self._host
        for listener in self._lent:
            self._host.listening(listener)
            self._engine.add_listener(listener)
        self._lent.clear()

    def _reconsider(self, removed: list[int]) -> int:
        """The new configuration was lent: it holds from now on. How many sessions it ended."""
        if not self._engine or not self._host or not self._config:
            raise InvalidArgument("still starting: try again")
        config, generation = self._config
        self._logs.configure(config.log, keep_level=True)
        self._host.verdicts = Verdicts(config, generation)
        if self._carriers:
            self._engine.extend(self._carriers)
        before = self._engine.sessions
        for number in removed:
            self._engine.remove_listener(number)
        self._take_listeners()
        self._engine.reconsider()
        return before - self._engine.sessions

    def _tick(self) -> None:
        if self._engine is None:
            return
        now = time.monotonic_ns()
        due = self._engine.work(now)
        patience = _IDLE_TICK if due is None else max(0.0, (due - now) / 1e9)
        most = _BUSY_TICK if self._engine.sessions else _IDLE_TICK
        self._reactor.call_later(min(patience, most), self._tick)
        interval = self._notifier.watchdog_interval
        if interval and now / 1e9 - self._alive_at >= interval:
            self._alive_at = now / 1e9
            self._notifier.alive()
        self._logs.flush()


def _listener(item: wire.Plain, descriptor: int) -> ListenerSocket:
    match item:
        case {"number": int(number), "address": str(address), "port": int(port)}:
            sock = socket.socket(fileno=descriptor)
            return ListenerSocket(number, sock, ip_address(address), port)
    raise LinkError("lent a listener of an unknown form")
