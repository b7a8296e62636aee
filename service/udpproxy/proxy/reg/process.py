"""REG's life: born with nothing, lent everything over one link, relaying until the link ends."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator

from udpproxy.errors import InvalidArgument, LinkError, UnitError
from udpproxy.process import messages, wire
from udpproxy.process.clean_up import CleanUps
from udpproxy.process.commands import Figures, ProcessCommands
from udpproxy.process.costly import Costly
from udpproxy.process.faults import said_by
from udpproxy.process.link import Link
from udpproxy.process.logs import MOST, SOON, Logs
from udpproxy.process.loop import Reactor
from udpproxy.process.notify import Notifier
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.engine.interface import Engine
from udpproxy.proxy.engine.pool import Pool, check_limit
from udpproxy.proxy.reg import engines
from udpproxy.proxy.reg.changes import NamedSessions
from udpproxy.proxy.reg.extensions import Extensions
from udpproxy.proxy.reg.growth import Growth
from udpproxy.proxy.reg.health import Health
from udpproxy.proxy.reg.host import RelayHost
from udpproxy.proxy.reg.members import Key, MemberNumbers
from udpproxy.proxy.reg.moves import Moves
from udpproxy.proxy.reg.name_waits import Blocking, NameWaits
from udpproxy.proxy.reg.received import ReceivedDescriptors
from udpproxy.proxy.reg.rerouting import reconnect
from udpproxy.proxy.reg.verdicts import Verdicts
from udpproxy.proxy.session.limits import pace
from udpproxy.proxy.session.table import STARTS

_BUSY_TICK, _IDLE_TICK = 0.1, 1.0
"""Seconds between two looks at what is due, with and without sessions."""
_RETRY = 1.0
"""Seconds until the relay is tried again where the system lacked something."""
_PART = 128
"""Sessions that follow in one go."""


def _keys(servers: list[wire.Plain]) -> Iterator[tuple[Key, str]]:
    """Servers of groups, and what there is to say of each."""
    for one in servers:
        match one:
            case [str(group), str(server), str(why)]:
                yield (group, server), why


def room() -> int:
    """How many descriptors more we may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - thousands, at times
    return max(0, limit - used)


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
        blocking: Blocking | None = None,
    ) -> None:
        """`blocking` looks clients' names up at once, where there is no APR (single mode)."""
        self._reactor = reactor
        self._logs = logs
        self._notifier = notifier
        self._left = left
        self._born = time.monotonic()
        self._lent = ReceivedDescriptors()
        self._engine: Engine | None = None
        self._host: RelayHost | None = None
        self._pool = Pool([])
        self._waits_for = ""
        self._relayed: Costly[dict[str, int]] | None = None
        """The engine's figures: with many sessions datagrams wait for them."""
        self._naming = NameWaits(reactor, logs, blocking, lost=self._channel_lost)
        self._alive_at = 0.0
        self._numbers = MemberNumbers()
        self._moves: Moves | None = None
        self._health = Health(logs, self._server_changed, self._move)
        self._naming.probed = self._health.probed
        self._followed = 0
        """The log level that the engine knows of."""
        self._lines_lost = 0
        self._clean_ups = CleanUps(logs)
        self._clean_ups.add("table", self._lent.close)
        self._clean_ups.add("names", self._naming.close)
        self.control = ProcessCommands(logs, figures=self.figures, leave=self.leave)
        self._link = Link(
            reactor,
            sock,
            received=self._received,
            closed=self._lost,
            failed=said_by(logs, "the parent"),
        )
        self._growth = Growth(reactor, logs, self._lent, self._link.send)
        self._needed = 0
        """Descriptors for all sessions that there can be."""
        self._link.send(wire.Hello("reg", version))
        self._wait()

    def _wait(self) -> None:
        """The parent may lack for now what it lends to us."""
        if self._host is None:
            self._notifier.starting(10 * _RETRY)
            self._reactor.call_later(_RETRY, self._wait)

    def figures(self) -> Figures:
        """The state of this process and of its sessions."""
        figures: Figures = {
            "role": "reg",
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._born, 1),
            "state": "relaying" if self._engine else "starting",
        }
        table = self._lent.table
        if self._engine and table:
            figures["engine"] = self._engine.name
            figures["max-sessions"] = table.capacity
            figures["slots"] = table.grown
            figures["starts"] = table.words[STARTS]
            if self._relayed is None:
                self._relayed = Costly(self._engine.figures)
            figures.update(self._relayed.get())
            figures.update(self._naming.figures())
            if self._host:
                figures.update(self._host.extensions.figures())
                figures.update(self._host.servers.figures())
                figures.update(self._health.figures())
        return figures

    def leave(self, why: str) -> None:
        """Go; the sessions stay in the table, for the next one or for the last records."""
        self._notifier.stopping()
        self._link.send(wire.Tell("leaving"))
        self.close()
        self._link.close(why)

    def fail(self) -> None:
        """A mistake ends us: the parent is to know that nobody else did."""
        self._link.send(wire.Tell("failing"))

    def _channel_lost(self, role: str) -> None:
        """The parent makes another, should its end have been no child's end."""
        self._link.send(wire.Tell("channel", {"role": role}))

    def _server_changed(self, key: Key, down: bool, why: str) -> None:  # noqa: FBT001
        """The parent tells others, and the next REG."""
        group, server = key
        words: dict[str, wire.Plain] = {"group": group, "server": server, "down": down, "why": why}
        self._link.send(wire.Tell("server", words))

    def _move(self, member: int, how: str) -> None:
        if self._moves:
            self._moves.begin(member, how)

    def _lost(self, link: Link, reason: str) -> None:
        self.close()
        self._left(reason)

    def close(self) -> None:
        """Whatever ends us: carry nothing any more, tell all that is left to tell."""
        self._clean_ups.run()

    def _stop(self, engine: Engine, host: RelayHost) -> None:
        self._engine = self._growth.engine = None
        if self._moves:
            self._moves.close()
        engine.close()
        host.finish()

    def _close_extensions(self, extensions: Extensions) -> None:
        """Each by itself, so that one that hangs costs no other its turn."""
        for what, close in extensions.closings():
            self._clean_ups.add(what, close)

    def _received(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        match message:
            case wire.Lend("channel", [{"role": str(role)}]) if len(descriptors) == 1:
                self._naming.connect(role, descriptors[0])
            case wire.Lend("absent", items) if not descriptors:
                self._lent.take("absent", items, [])
            case wire.Lend("fresh", items) if len(items) == len(descriptors):
                self._growth.fresh(items, descriptors)
            case wire.Lend(what, items) if len(items) == len(descriptors):
                self._lent.take(what, items, descriptors)
            case wire.Tell("known", {"found": found}):
                self._naming.resume(found)
            case wire.Tell("links", {"links": dict(links)}):
                self._linked(links)
            case wire.Tell("slots", {"count": int(slots)}):
                self._growth.came(slots)
            case wire.Tell("servers", {"down": list(down), "drained": list(drained)}):
                self._health.resume(dict(_keys(down)), {key for key, _ in _keys(drained)})
            case wire.Tell("drained", {"servers": list(servers)}):
                self._health.drain({key for key, _ in _keys(servers)})
            case wire.Tell("lack", {"errno": int(problem)}):
                self._growth.lack(problem)
            case wire.Tell(
                "relay",
                {"level": int(level), "segmentation": str(mode), "descriptors": int(needed)},
            ):
                self._logs.level = level
                self._needed = needed
                self._relay(mode)
            case wire.Tell("reconnect", {"source": str(source), "sessions": list(places)}):
                if self._engine and self._lent.table:
                    reconnect(self._engine, self._lent.table, source, places)
            case wire.Ask(number, verb, args):
                try:
                    value = self._perform(verb, args)
                except (InvalidArgument, UnitError) as problem:
                    link.send(wire.Answer(number, error=str(problem)))
                except Exception as problem:
                    # Whatever it is, it is a refusal: the sessions have nothing to do with it.
                    self._logs.failure(problem)
                    link.send(wire.Answer(number, error="internal error, see the log"))
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
            case "end", {"sessions": list(places)}:
                return self._end(places)
            case "room", _:
                return room()
            case "servers", _:
                return [dict(row) for row in self._health.rows()]
            case "segmentation", {"mode": str(mode)}:
                if not self._engine or not self._engine.segment(on=mode == "auto"):
                    raise InvalidArgument("the Python engine sends every datagram singly")
                return None
            case "resolve-now", _:
                self._naming.known.forget_clients()
                return None
            case _:
                value = self.control.perform(verb, args)
                self._follow_level()
                return value

    def _end(self, places: list[wire.Plain]) -> int:
        """The sessions of these slots and numbers; how many were still there."""
        ended = 0
        for place in places:
            match place:
                case [int(slot), int(number)] if self._engine:
                    ended += self._engine.end(slot, number)
        return ended

    def signalled(self, number: int) -> None:
        """A signal came."""
        self.control.signalled(number)
        self._follow_level()

    def _follow_level(self) -> None:
        """What is only logged at some levels is only told at these."""
        if self._engine and self._logs.level != self._followed:
            self._followed = self._logs.level
            self._engine.watch(on=self._followed >= MOST)
            self._engine.announce(openings=self._logs.seen(messages.OPENED))
            self._engine.forget_decisions()

    def _relay(self, segmentation: str) -> None:
        """Everything is here."""
        if self._lent.config is None or self._lent.table is None or self._engine:
            raise LinkError("told to relay without what it takes")
        config, _ = self._lent.config
        self._logs.follow(config.log)
        self._naming.configure(config)
        self._begin(segmentation)

    def _judging(self, config: Config, generation: int, before: Verdicts | None = None) -> Verdicts:
        lent = self._lent
        self._numbers.configure(config)
        self._health.configure(config, self._numbers)
        return Verdicts(
            config,
            generation,
            self._naming.known,
            lent.versions,
            lent.links,
            lent.own,
            self._numbers,
            before,
        )

    def _begin(self, segmentation: str) -> None:
        """At once, or as soon as the system has what it takes: our end would not bring it."""
        table = self._lent.table
        if self._lent.config is None or table is None:
            return  # told to leave meanwhile
        config, generation = self._lent.config
        if self._host is None:
            verdicts = self._judging(config, generation)
            keep = self._naming.wait
            self._host = RelayHost(self._reactor, self._logs, table, verdicts, keep)
        host = self._host
        try:
            check_limit(table.capacity, self._needed, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            self._pool.extend(self._lent.carriers)
            table.grown = self._lent.slots
            engine = engines.make(self._reactor, table, self._pool, host, config)
        except (UnitError, OSError, MemoryError) as problem:
            if self._waits_for != str(problem):
                self._waits_for = str(problem)
                self._logs.say(messages.NOT_RELAYING, problem)
            self._notifier.starting(10 * _RETRY)
            self._reactor.call_later(_RETRY, lambda: self._begin(segmentation))
            return
        table.words[STARTS] = (table.words[STARTS] + 1) % (1 << 63)
        self._engine = self._growth.engine = engine
        host.more, host.spend = self._growth.scarce, self._growth.spent
        host.choose = engine.choose
        self._moves = Moves(self._reactor, table, engine, host)
        self._health.begin(engine)
        host.servers.await_answers = lambda on: engine.await_answers(on=on)
        engine.segment(on=segmentation == "auto")
        engine.limit_ports(config.ports, config.ports_each)
        engine.limit_openings(pace(config.new_sessions))
        self._clean_ups.limit = config.stop_timeout / 2
        # The sessions that end as the relay stops are still the extensions' business.
        self._clean_ups.add("extensions", lambda: self._close_extensions(host.extensions))
        self._clean_ups.add("relay", lambda: self._stop(engine, host))
        sessions = self._naming.sessions = NamedSessions(
            self._reactor, self._logs, table, engine, host, self._naming.known
        )
        self._take_listeners()
        engine.take_mirrors(self._lent.mirrors)
        adopted = engine.adopt()
        self._follow()
        if adopted:
            self._logs.say(messages.ADOPTED, adopted)
            sessions.look()
        self._follow_level()
        self._notifier.ready(f"relaying, {adopted} sessions")
        self._link.send(wire.Tell("ready", {"engine": engine.name}))
        self._logs.say(messages.CHILD_READY)
        self._tick()

    def _take_listeners(self) -> None:
        assert self._engine
        assert self._host
        assert self._lent.config
        for listener in self._lent.listeners:
            self._engine.add_listener(self._host.senders.enter(listener, self._lent.config[0]))
        self._lent.listeners.clear()

    def _linked(self, links: wire.Plain) -> None:
        """Interfaces have come or gone; their listeners were lent anew."""
        self._lent.know(links)
        if self._engine and self._host:
            self._host.verdicts.forget()
            self._engine.forget_decisions()
            self._take_listeners()

    def _reconsider(self, removed: list[int]) -> wire.Plain:
        """The new configuration was lent: it holds from now on. How many sessions it ended, and
        how many of rules that lead elsewhere follow and stay."""
        if not self._engine or not self._host or not self._lent.config:
            raise InvalidArgument("still starting: try again")
        config, generation = self._lent.config
        if self._lent.carriers and not self._growth.short:  # first, for this alone can fail
            self._engine.extend(self._lent.carriers, self._lent.slots)
        self._logs.follow(config.log)
        self._clean_ups.limit = config.stop_timeout / 2
        self._naming.configure(config)
        self._host.extensions.configure(config)
        self._engine.limit_ports(config.ports, config.ports_each)
        self._engine.limit_openings(pace(config.new_sessions))
        self._host.servers.keep({rule.name for rule in config.rules})
        before = self._host.verdicts
        self._host.verdicts = self._judging(config, generation, before)
        # Counted one by one: others come and go of themselves meanwhile.
        self._host.led = dict.fromkeys(self._host.led, 0)
        ended = sum(self._engine.remove_listener(number) for number in removed)
        for number in removed:
            self._host.senders.remove(number)
        for listener in self._host.senders.configure(config):
            self._engine.expect_headers(listener.number, listener.header_from)
            self._engine.tell_dscp(listener.number, on=listener.tells_dscp)
        self._take_listeners()
        self._engine.take_mirrors(self._lent.mirrors)
        ended += self._engine.reconsider()
        unused = self._lent.unused_mirrors()
        self._engine.take_mirrors(self._lent.mirrors)
        for sock in unused:
            sock.close()
        self._host.extensions.retire()
        self._naming.reconsider()
        if before.config.segmentation != config.segmentation:  # else a command's word holds
            self._engine.segment(on=config.segmentation == "auto")
        self._follow()
        led = self._host.led
        return {"ended": ended, "follow": led["follow"], "stay": led["keep"]}

    def _follow(self) -> None:
        """To the servers that their rules name now; some of them, the others when the loop has
        turned."""
        assert self._engine
        assert self._host
        for number, server in self._host.take_followers(_PART):
            self._engine.redirect(number, *server)
        if self._host.has_followers:
            self._reactor.call_later(0, self._follow)

    def _tick(self) -> None:
        if self._engine is None:
            return
        now = time.monotonic_ns()
        due = self._engine.work(now)
        self._health.look()
        if self._host:
            self._host.load(self._engine.sessions)
        patience = _IDLE_TICK if due is None else max(0.0, (due - now) / 1e9)
        most = _BUSY_TICK if self._engine.sessions else _IDLE_TICK
        if self._logs.flush():
            most = SOON
        self._reactor.call_later(min(patience, most), self._tick)
        interval = self._notifier.watchdog_interval
        if interval and now / 1e9 - self._alive_at >= interval:
            self._alive_at = now / 1e9
            self._notifier.alive()
        self._naming.look()
        self._count_lost_lines()

    def _count_lost_lines(self) -> None:
        table = self._lent.table
        if table and (lost := self._logs.dropped - self._lines_lost):
            table.count("records-dropped", lost)
            self._lines_lost += lost
