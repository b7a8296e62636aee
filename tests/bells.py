"""A tiny product, to show what the frame asks of one: bells that are rung by their names.

A vital child `clock`, a child `bell:NAME` for each [[bell]] of the file, a verb and a signal that
ring, and a TCP socket that systemd keeps over restarts. Run as its own command: `run FILE
[--units]`, and as `daemon start` and the parent start daemon and children.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from udpproxy.config import document, lines, sections, values
from udpproxy.config.model import InstanceConfig
from udpproxy.config.table import Notes, Table
from udpproxy.daemon import process as daemon
from udpproxy.errors import ConfigError, InvalidArgument, LinkError, UnitError
from udpproxy.identity import Identity
from udpproxy.instance import start
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.options import Mode
from udpproxy.instance.service import Instance, Product, Service
from udpproxy.instance.store import DescriptorStore
from udpproxy.process import child, wire
from udpproxy.process.asynchronous import run
from udpproxy.process.commands import Figures
from udpproxy.process.part import ChildPart
from udpproxy.process.verbs import COMMON, Verb, Word, table
from udpproxy.process.wire import Plain
from udpproxy.supervisor.roles import Role

IDENTITY = Identity(
    name="bells",
    version="1",
    bus="org.bells1",
    noun="Bells",
    child="bells",
    daemon="bells",
    interfaces=Path(__file__).parent / "interfaces",
)
RING = Verb(
    name="ring",
    help="ring one bell",
    arguments=(Word("bell", "NAME", "its name"),),
    member="Ring",
    answer="s",
)
RING_ALL = Verb(name="ring-all", help="ring every bell", signal=signal.SIGRTMIN + 1)
VERBS = table(*COMMON, RING, RING_ALL)
CRACKED = 13
"""No bell has that tone: a mistake that only shows once the port of the new file is bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(InstanceConfig):
    """`bells` are tones by name."""

    port: int
    bells: dict[str, int]


def parse(text: str, origin: str) -> Config:
    """ConfigError with every mistake."""
    notes = Notes(origin, lines.locate(text))
    top = Table(document.toml(text, origin), (), notes)
    tables, log = top.tables("bell"), top.table("log")
    config = Config(
        port=top.need("port", values.whole(1, 65535), 1),
        bells={
            each.need("name", values.label, ""): each.need("tone", values.whole(1), 1)
            for each in tables
        },
        log=sections.log(log),
        **sections.instance(top),
    )
    for each in (*tables, top):
        each.done()
    if notes.problems:
        raise ConfigError(notes.problems)
    return config


class Bells(Service[Config]):
    """See Service."""

    def __init__(self, instance: Instance, config: Config) -> None:
        self.config = config
        self._instance = instance
        units = instance.options.mode is Mode.UNITS
        self._store = DescriptorStore(instance.logs, instance.notifier) if units else None
        found = self._store.take(f"door-{config.port}") if self._store else None
        self.door = _door(config.port) if found is None else socket.socket(fileno=found)
        self.came_back = found is not None
        self._keep()
        self._new: tuple[Config, socket.socket] | None = None

    def _keep(self) -> None:
        if self._store:
            self._store.keep(f"door-{self.config.port}", self.door.fileno())

    def roles(self) -> list[Role]:
        bells = [Role(name=f"bell:{name}", essential=False) for name in self.config.bells]
        return [Role(name="clock", vital=True), *bells]

    def every_role(self) -> list[str]:
        return [role.name for role in self.roles()]

    def hand_over(self, child: ChildConnection) -> None:
        tone = self.config.bells.get(child.role.partition(":")[2], 0)
        child.link.send(wire.Tell("work", {"tone": tone}))

    async def perform(self, verb: Verb, arguments: dict[str, Plain]) -> Plain:
        if verb is RING:
            return str(await self._instance.ask(f"bell:{arguments.get('bell')}", "ring", {}))
        for name in self.config.bells:
            await self._instance.ask(f"bell:{name}", "ring", {})
        return None

    async def prepare(self, config: Config, text: str) -> None:
        same = config.port == self.config.port
        self._new = config, self.door.dup() if same else _door(config.port)
        if CRACKED in config.bells.values():
            raise UnitError("bell", "it is cracked")

    def rollback(self) -> None:
        if self._new:
            self._new[1].close()
            self._new = None

    def commit(self) -> None:
        assert self._new
        old = self.config.port
        self.door.close()
        (self.config, self.door), self._new = self._new, None
        self._keep()
        if self._store and self.config.port != old:
            self._store.drop(f"door-{old}")

    async def take_over(self) -> Plain:
        return {"bells": len(self.config.bells)}

    def brief(self) -> Figures:
        return {"bells": len(self.config.bells), "port": self.config.port}

    def status(self) -> str:
        return f"{len(self.config.bells)} bells"

    def readiness(self) -> str:
        return f"port {self.config.port}{' as before' * self.came_back}"

    def finish(self, *, kept: bool, in_doubt: bool) -> None:
        if self._store and not kept:
            self._store.drop(f"door-{self.config.port}")

    def close(self) -> None:
        self.door.close()

    def farewell(self) -> str:
        return f"{len(self.config.bells)} bells hung up"


def _door(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as problem:
        raise UnitError("door", str(problem.strerror)) from None


class BellsProduct(Product[Config]):
    """See Product."""

    identity = IDENTITY
    verbs = VERBS

    def parse(self, text: str, origin: str) -> Config:
        return parse(text, origin)

    def serve(self, instance: Instance, config: Config, text: str, path: Path) -> Bells:
        return Bells(instance, config)


class Bell(ChildPart):
    """The clock is one without a tone."""

    rung = tone = 0

    def told(self, message: wire.Lend | wire.Tell, descriptors: list[int]) -> None:
        match message:
            case wire.Tell("work", {"tone": int(tone)}):
                self.tone = tone
                self.begin("listening for the hour")
            case _:
                for fd in descriptors:
                    os.close(fd)
                raise LinkError("not for a bell")

    def figures(self) -> Figures:
        return {"rung": self.rung}

    def asked(self, verb: str, arguments: dict[str, Plain]) -> Plain:
        if verb != "ring":
            return super().asked(verb, arguments)
        if not self.tone:
            raise InvalidArgument("a clock is not rung")
        self.rung += 1
        return f"{self.tone} Hz, {self.rung} times"


def live(begin: child.Start) -> bool:
    part = run(begin, lambda left: Bell(begin, IDENTITY.version, left))
    return not part.dismissed


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", file, *units]:
            mode = Mode.UNITS if units else Mode.FORK
            sys.exit(start.run(BellsProduct(), Path(file), mode=mode))
        case [_, _]:
            sys.exit(child.main(sys.argv[1:], IDENTITY, {"clock": live, "bell": live}))
        case _:
            sys.exit(daemon.main(sys.argv[1:], BellsProduct()))
