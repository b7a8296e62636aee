"""The parent's children: who starts them, what each is given, and what they tell."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.instance.connection import Peer
from udpproxy.instance.control_server import Door
from udpproxy.instance.options import Mode, Setting
from udpproxy.instance.single import Inner, SingleSupervisor
from udpproxy.instance.systemd import Systemd
from udpproxy.process import messages, wire
from udpproxy.process.logs import Logs
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.config.names import needed
from udpproxy.proxy.parent.inheritance import Inheritance
from udpproxy.proxy.parent.names import HELPERS, Naming, client_look_up
from udpproxy.proxy.parent.resources import Resources
from udpproxy.supervisor.fork import ForkSupervisor
from udpproxy.supervisor.forked import Forked
from udpproxy.supervisor.lifecycle import Life
from udpproxy.supervisor.units import Unit, UnitSupervisor

Child = Forked | Unit | Inner

_RETRY = 0.5
"""Seconds between attempts to lend what a child needs."""


class Children:
    """`peers` are those that have come, by role; `running` is set while REG relays."""

    def __init__(
        self,
        setting: Setting,
        logs: Logs,
        resources: Resources,
        naming: Naming,
        inheritance: Inheritance,
        config: Callable[[], Config],
        *,
        relays: Callable[[str], None],
        ended: Callable[[str, int], None],
        given_up: Callable[[str], None],
    ) -> None:
        """`relays` is told REG's engine each time that it is ready; `ended` of each end that
        nobody asked for; `given_up` is told where a child cannot be kept alive."""
        self._setting = setting
        self._logs = logs
        self._resources = resources
        self._naming = naming
        self._inheritance = inheritance
        self._config = config
        self._relays = relays
        self._ended = ended
        self._given_up = given_up
        self._supervisor: ForkSupervisor | SingleSupervisor | UnitSupervisor
        self._segmentation = config().segmentation
        self._loop = asyncio.get_running_loop()
        self._lacking: Peer | None = None
        """Who was the last for whom there was no room."""
        self.down: dict[str, float] = {}
        """Since when there is none that works, of those that did; seconds since the epoch."""
        self.peers: dict[str, Peer] = {}
        self.running = asyncio.Event()

    def begin(self, door: Door, systemd: Systemd) -> None:
        """REG, and the helpers that there are to be."""
        setting, config = self._setting, self._config
        match setting.mode:
            case Mode.SINGLE:
                self._logs.say(messages.SINGLE)
                logs = Logs(f"udp-proxy/{setting.instance}/reg", self._logs.level)
                self._naming.look_up_all(config())
                blocking = client_look_up(lambda: config().resolver)
                self._supervisor = SingleSupervisor(
                    logs, door, given_up=self._give_up, blocking=blocking
                )
            case Mode.UNITS:
                self._supervisor = UnitSupervisor(
                    self._logs,
                    setting.instance,
                    restarts=systemd.restarts,
                    dismiss=self._dismiss,
                    given_up=self._give_up,
                    ended=self._unasked,
                )
            case Mode.FORK:
                self._supervisor = ForkSupervisor(
                    self._logs,
                    setting.instance,
                    setting.directory,
                    given_up=self._give_up,
                    ended=self._unasked,
                )
        self._start("reg")
        self.start_helpers()

    def all(self) -> Mapping[str, Child]:
        """Those that there are to be, by role."""
        return self._supervisor.children()

    def helpers(self) -> tuple[str, ...]:
        """Those that a command can be for."""
        if self._setting.mode is Mode.SINGLE:
            raise InvalidArgument("a single process looks names up once, at start and reload")
        return needed(self._config())

    def start_helpers(self) -> None:
        """As units they wait idle; else those that the configuration needs, once it does."""
        roles = {Mode.UNITS: HELPERS, Mode.FORK: needed(self._config()), Mode.SINGLE: ()}
        for role in roles[self._setting.mode]:
            if role not in self.all():
                self._start(role)

    def expect_end(self) -> None:
        """We are about to end, and systemd ends the units meanwhile."""
        if isinstance(self._supervisor, UnitSupervisor):
            self._supervisor.expect_end()

    async def stop(self) -> bool:
        """End them all; `stop-timeout` is the limit. False: not all left in order."""
        orderly = await self._supervisor.stop(self._config().stop_timeout)
        self._supervisor.close()
        return orderly

    def vouch(self, pid: int, uid: int) -> str:
        """Which child is that process? "" for none of ours."""
        return self._supervisor.vouch(pid, uid)

    def admit(self, role: str, pid: int) -> bool | None:
        """May that process be our child in that role? None: nobody may any more, for we end."""
        return self._supervisor.knows(role, pid)

    def entered(self, peer: Peer) -> None:
        """A child has come: it gets everything it needs, and then the word to begin."""
        self.peers[peer.role] = peer
        self._supervisor.entered(peer.role, peer.link.peer[0])
        self._equip(peer)

    def _equip(self, peer: Peer) -> None:
        """At once, or as soon as the system has what we lack: the child's end would not bring it,
        and it is no fault of its own."""
        if self.peers.get(peer.role) is not peer:
            return
        try:
            self._give(peer)
        except OSError as problem:
            if self._lacking != peer:
                self._lacking = peer
                why = problem.strerror or problem
                self._logs.say(messages.NOT_LENT, peer.role, why, PROCESS=peer.role)
            self._loop.call_later(_RETRY, self._equip, peer)

    def _give(self, peer: Peer) -> None:
        if peer.role == "reg":
            self._resources.lend_all(peer.link)
            self._inheritance.handed_over()
            self._naming.resume(peer.link)
            peer.link.send(
                wire.Tell("relay", {"level": self._logs.level, "segmentation": self._segmentation})
            )
        self._naming.entered(peer, self.peers)

    def heard(self, peer: Peer, news: wire.Tell) -> None:
        """What a child tells unasked."""
        if news.what == "names" and peer.role == "acr":
            self._naming.heard(news.args.get("found"), self._config())
        elif news.what == "way" and peer.role == "reg":
            self._naming.way_lost(str(news.args.get("role")), self.peers)
        elif news.what in ("leaving", "failing") and peer.role == "reg":
            self._inheritance.told(news.what)
        elif news.what == "ready":
            self._supervisor.ready(peer.role)
            self.down.pop(peer.role, None)
            if peer.role == "reg":
                self._inheritance.relays()
                self.running.set()
                self._relays(wire.cut(str(news.args.get("engine"))))

    @property
    def words_ignored(self) -> int:
        """Children's words on names that made no sense."""
        return self._naming.refused

    def discard(self, peer: Peer, why: str) -> None:
        """It is out of step with us: whoever replaces it is given everything anew."""
        if self.peers.get(peer.role) is peer and not peer.link.gone:
            peer.link.fail(why)
            self._supervisor.discard(peer.role)

    async def room(self) -> int | None:
        """How many descriptors more REG can open; None: there is none that says so."""
        if reg := self.peers.get("reg"):
            with contextlib.suppress(InvalidArgument, LinkError):
                room = await reg.ask("room", {})
                return room if type(room) is int else None
        return None

    def segmented(self, mode: str) -> None:
        """What every REG that comes is told, until the configuration says something else."""
        self._segmentation = mode

    def left(self, peer: Peer) -> None:
        """A child's link is closed."""
        if self.peers.get(peer.role) is peer:
            del self.peers[peer.role]
            self.down.setdefault(peer.role, time.time())
            self._supervisor.left(peer.role)
            if peer.role == "reg":
                self.running.clear()

    def _start(self, role: str) -> None:
        config = self._config()
        life = Life(
            limit=config.crash_limit,
            window=config.crash_window,
            stop_on_death=config.stop_on_child_death,
        )
        self._supervisor.start(role, life)

    def _unasked(self, role: str, killed: bool | None) -> None:  # noqa: FBT001
        life = self.all()[role].life
        if role == "reg":
            self._inheritance.ended(life.limit - life.recent, killed=killed)
        self._ended(role, life.ends_counted)

    def _dismiss(self, role: str) -> None:
        with contextlib.suppress(LinkError, OSError):
            self.peers[role].link.send(wire.Ask(0, "terminate", {}))

    def _give_up(self, role: str) -> None:
        life = self.all()[role].life
        self._logs.say(messages.TOO_MANY_ENDS, role, life.recent, life.window, PROCESS=role)
        self._given_up(role)
