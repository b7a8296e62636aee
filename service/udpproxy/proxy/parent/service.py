"""The UDP session proxy as its parent serves it: what it owns, lends, answers and keeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from udpproxy import __version__
from udpproxy.bus import Value
from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.options import Mode
from udpproxy.instance.service import Instance, Service
from udpproxy.process import messages, wire
from udpproxy.process.commands import Figures
from udpproxy.process.costly import Costly
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.verbs import Verb
from udpproxy.process.wire import Plain
from udpproxy.proxy.config import check
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.config.names import needed
from udpproxy.proxy.identity import IDENTITY
from udpproxy.proxy.parent.commands import ProxyCommands
from udpproxy.proxy.parent.growth import Growth
from udpproxy.proxy.parent.inheritance import Inheritance
from udpproxy.proxy.parent.names import HELPERS, NameRegistry, client_look_up
from udpproxy.proxy.parent.network import Change as NetworkChange
from udpproxy.proxy.parent.network import Network
from udpproxy.proxy.parent.records import Records
from udpproxy.proxy.parent.replacing import Replacement
from udpproxy.proxy.parent.resources import Resources, descriptors_needed
from udpproxy.proxy.parent.servers import Servers
from udpproxy.proxy.parent.sessions import Sessions
from udpproxy.proxy.parent.store import Store
from udpproxy.proxy.parent.taking_over import Change, Moved, hand_over
from udpproxy.proxy.parent.ways import Ways
from udpproxy.proxy.reg.process import Reg
from udpproxy.proxy.session.reasons import Reason
from udpproxy.supervisor.roles import Role

_LARGEST = (1 << 64) - 1
REG = Role(name="reg", vital=True, spoken="relay")
_TOTALS = {
    "SessionsOpened": ("sessions-opened",),
    "SessionsEnded": ("sessions-ended",),
    "SessionsRefused": (
        "refused-by-acl",
        "refused-table-full",
        "refused-per-client",
        "refused-no-port",
        "refused-ports-kept",
        "refused-own-socket",
        "refused-no-server",
        "refused-rate",
    ),
    "UploadDatagrams": ("upload-datagrams",),
    "UploadBytes": ("upload-bytes",),
    "DownloadDatagrams": ("download-datagrams",),
    "DownloadBytes": ("download-bytes",),
    "StrayReplies": ("stray-replies",),
    "Drops": ("drops-listeners", "drops-sessions"),
}


class ProxyService(Service[Config]):
    """See Service."""

    changing = frozenset({"Sessions"})

    def __init__(self, instance: Instance, config: Config, text: str, path: Path) -> None:
        """With all sockets bound; UnitError, and nothing stays open."""
        self.config = config
        self._instance = instance
        self._logs = instance.logs
        self._mode = instance.options.mode
        self._path = path
        store = Store(self._logs, instance.notifier) if self._mode is Mode.UNITS else None
        # First: what nobody takes of the store the resources give back.
        self._servers = Servers(instance, store, lambda: self.config, asyncio.get_running_loop())
        try:
            self._resources = Resources(self._logs, config, text, str(path), store)
        except BaseException:
            self._servers.close()
            raise
        try:
            self._make()
        except BaseException:
            self._servers.close()
            self._resources.close()
            raise

    def _make(self) -> None:
        self._growth = Growth(self._instance, self._resources)
        self._replacement = Replacement(self._instance, self._resources)
        self._naming = NameRegistry(self._logs, self._resources)
        self._sessions = Sessions(self._resources, lambda: self.config)
        self._records = Records(self._logs)
        self._inheritance = Inheritance(
            self._logs,
            self._resources,
            self._naming,
            self._sessions,
            self._records,
            lambda: self._instance.peers,
        )
        self._commands = self._make_commands()
        self._ways = Ways(
            asyncio.get_running_loop(),
            lambda: self._resources.table,
            self._link_of_reg,
            self._sessions.chose_source,
        )
        self._network = self._hear_of_the_network()
        self._totals = Costly(lambda: self._resources.table.figures())
        self._engine = ""
        self._started: set[str] = set()
        """Resolvers that the configuration has needed so far."""
        self._change: Change | None = None
        self._level: int | None = None
        self._moved = Moved()
        if self._mode is Mode.SINGLE:
            self._logs.say(messages.SINGLE)
            self._warn_of_probes()
            self._naming.look_up_all(self.config)
        self._records.write(self._sessions.lost_over_a_restart())
        self._resources.warn_of_routes(self.config)

    def _make_commands(self) -> ProxyCommands:
        return ProxyCommands(
            self._instance,
            self._sessions,
            self._servers,
            self._naming.found,
            lambda: self.config,
        )

    def _warn_of_probes(self) -> None:
        """Single mode; what the file says of it is warned of as other warnings are."""
        if not self.config.singleproc and (lacks := check.unprobed(self.config)):
            self._logs.say(messages.CONFIG_WARNING, lacks)

    def _hear_of_the_network(self) -> Network | None:
        try:
            network = Network(asyncio.get_running_loop(), self._network_changed)
            self._resources.follow_network(None)  # as it is now: no change gets lost
            return network
        except OSError as problem:
            self._logs.say(messages.NETWORK_UNSEEN, os.strerror(problem.errno or 0))
            return None

    def _network_changed(self, change: NetworkChange) -> None:
        if change.addresses or change.routes:
            self._ways.look()
        self._resources.follow_network(self._link_of_reg())

    def _link_of_reg(self) -> Link | None:
        reg = self._instance.peers.get(REG.name)
        return reg.link if reg else None

    # Its children.

    def roles(self) -> list[Role]:
        """REG, and the resolvers: as units they wait idle, else those that the names need."""
        wanted = {Mode.UNITS: HELPERS, Mode.FORK: needed(self.config), Mode.SINGLE: ()}[self._mode]
        # One that was needed stays, idle: it costs little, and the next reload may need it.
        there = [name for name in HELPERS if name in wanted or name in self._started]
        self._started.update(there)
        return [REG, *(Role(name=name) for name in there)]

    def every_role(self) -> tuple[str, ...]:
        """Also of those that the configuration does not need."""
        return (REG.name, *HELPERS)

    def hand_over(self, child: ChildConnection) -> None:
        """Table, sockets, configuration, names."""
        if child.role == REG.name:
            self._replacement.forget()
            self._resources.send_all(child.link)
            self._inheritance.handed_over()
            self._naming.resume(child.link)
            self._servers.resume(child.link)
            words: dict[str, Plain] = {
                "level": self._logs.level,
                "segmentation": self._commands.segmentation,
                "descriptors": descriptors_needed(self.config),
            }
            child.link.send(wire.Tell("relay", words))
        self._naming.entered(child, self._instance.peers)

    def ready(self, child: ChildConnection, news: Mapping[str, Plain]) -> None:
        """A resolver, or REG with its engine."""
        if child.role == REG.name:
            self._inheritance.relays()
            self._ways.look()  # nobody did while there was none
            self._engine = wire.cut(str(news.get("engine")))

    def heard(self, child: ChildConnection, news: wire.Tell) -> None:
        """Names from ACR; from REG that it goes, misses a resolver or wants sockets."""
        if news.what == "names" and child.role == "acr":
            self._naming.heard(news.args.get("found"), self.config)
        elif news.what == "channel" and child.role == REG.name:
            self._naming.channel_lost(str(news.args.get("role")), self._instance.peers)
        elif news.what == "server" and child.role == REG.name:
            self._servers.heard(news)
        elif news.what == "scarce" and child.role == REG.name:
            self._growth.ask()
        elif news.what == "spent" and child.role == REG.name:
            self._replacement.ask(news.args.get("sockets"))
        elif news.what in ("leaving", "failing") and child.role == REG.name:
            self._inheritance.told(news.what)

    def ended(self, role: str, left: int, *, killed: bool | None) -> None:
        """What it had taken over may be to blame."""
        if role == REG.name:
            self._inheritance.ended(left, killed=killed)

    def within(
        self, role: str, link: socket.socket, notifier: Notifier, left: Callable[[str], None]
    ) -> Reg:
        """REG, which looks clients' names up itself; its log has a level of its own, as in the
        other modes."""
        return Reg(
            asyncio.get_running_loop(),
            Logs(IDENTITY.speaker(self._instance.options.instance, role), self._logs.level),
            link,
            notifier=notifier,
            version=__version__,
            left=left,
            blocking=client_look_up(lambda: self.config.resolver),
        )

    async def perform(self, verb: Verb, arguments: dict[str, Plain]) -> Plain:
        """See ProxyCommands."""
        return await self._commands.perform(verb, arguments)

    # A reload.

    async def prepare(self, config: Config, text: str) -> None:
        """See Change."""
        room = await self._room()
        self._change = Change(self._mode, self._resources, self._naming, config, text)
        self._change.prepare(room)

    def rollback(self) -> None:
        """See Change."""
        if self._change:
            self._change.rollback()
            self._change = None

    def commit(self) -> None:
        """See Change."""
        assert self._change
        old, self.config = self.config, self._change.config
        self._change.commit(self._path)
        self._change = None
        self._servers.keep()
        self._resources.warn_of_routes(self.config)
        if self._mode is Mode.SINGLE:
            self._warn_of_probes()
        if old.segmentation != self.config.segmentation:
            self._commands = self._make_commands()
        level = self.config.log.level
        self._level = level if level != old.log.level else None

    async def take_over(self) -> Plain:
        """REG, then the resolvers."""
        self._moved = Moved()
        if reg := self._instance.peers.get(REG.name):
            if self._mode is Mode.SINGLE:
                self._naming.resume(reg.link)
            self._moved = await hand_over(self._instance, reg, self._resources, self._level)
        self._naming.reloaded(self.config, self._instance.peers)
        return {
            "sessions-ended": self._moved.ended,
            "sessions-following": self._moved.follow,
            "sessions-staying": self._moved.stay,
        }

    def reloaded(self) -> None:
        """With what became of sessions."""
        moved = self._moved
        self._ways.look()  # other rules may leave the choice to the system
        self._logs.say(messages.RELOADED, self._listening, len(self.config.rules))
        if moved.ended:
            self._logs.say(messages.SESSIONS_WITHDRAWN, moved.ended)
        if moved.follow or moved.stay:
            self._logs.say(messages.SESSIONS_LED, moved.follow, moved.stay)

    async def _room(self) -> int | None:
        """How many descriptors more REG can open; None: there is none that says so."""
        if reg := self._instance.peers.get(REG.name):
            with contextlib.suppress(InvalidArgument, LinkError):
                room = await reg.ask("room", {})
                return room if type(room) is int and room >= 0 else None
        return None

    # What it tells of itself.

    @property
    def _listening(self) -> int:
        return len(self._resources.listeners.by_place)

    @property
    def _live(self) -> int:
        return self._resources.table.count_live()

    def brief(self) -> Figures:
        """Sessions are REG's business, but their number is in the table."""
        return {
            "listening": self._listening,
            "rules": len(self.config.rules),
            "sessions": self._live,
            "max-sessions": self.config.max_sessions,
        }

    def details(self) -> Figures:
        """Words on names that made no sense."""
        figures: Figures = {"names-ignored": self._naming.refused}
        if self.config.groups:
            figures["servers-down"] = len(self._servers.down)
            figures["servers-drained"] = len(self._servers.drained)
        return figures

    def totals(self) -> dict[str, int]:
        """What all sessions have carried, those that live too."""
        return self._totals.get()

    def status(self) -> str:
        """Sessions, of how many."""
        return f"listening {self._listening}, sessions {self._live}/{self.config.max_sessions}"

    def readiness(self) -> str:
        """With the engine that REG has chosen."""
        most = self.config.max_sessions
        return f"{self._listening} listening, at most {most} sessions, {self._engine} engine"

    def properties(self, names: Collection[str] | None) -> dict[str, Value]:
        """Sessions and counters."""
        values: dict[str, Value] = {
            "Sessions": self._live,
            "MaxSessions": self.config.max_sessions,
        }
        if names is None or not _TOTALS.keys().isdisjoint(names):
            totals = self.totals()
            # A counter starts again at its end, as those do that it is made of.
            values |= {
                name: sum(totals[part] for part in parts) & _LARGEST
                for name, parts in _TOTALS.items()
            }
        return values

    @property
    def stored(self) -> int:
        """Table, sockets, listeners, and what is known of servers."""
        return self._resources.stored + self._servers.stored

    # The end.

    def stop_serving(self) -> None:
        """Listeners are deaf from here on."""
        self._resources.listeners.refuse_all()

    def keeps(self) -> str:
        """The sessions."""
        return f"{self._live} sessions"

    def finish(self, *, kept: bool, in_doubt: bool) -> None:
        """Records of all sessions that end with us, or may."""
        if not kept:
            self._records.write(self._sessions.last_records(Reason.TERMINATED))
            self._servers.give_back()
            self._resources.give_back()
        elif in_doubt:
            self._records.note(self._sessions.as_they_are())

    def close(self) -> None:
        """Sockets and table."""
        if self._network:
            self._network.close()
        self._ways.close()
        self._growth.close()
        self._servers.close()
        self._replacement.close()
        self._resources.close()

    def farewell(self) -> str:
        """How many sessions ended with us."""
        return f"{self._records.written} sessions ended"
