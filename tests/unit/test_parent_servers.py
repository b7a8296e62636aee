"""Who is down or drained, as the parent keeps it for the next REG and the next parent."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from udpproxy.errors import InvalidArgument
from udpproxy.instance.service import Instance
from udpproxy.process import wire
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs
from udpproxy.process.loop import Reactor
from udpproxy.proxy.config import load
from udpproxy.proxy.parent.servers import MOST_CHANGES, Servers
from udpproxy.proxy.parent.store import Store

TEXT = """max-sessions = 1
[[listen]]
address = "127.0.0.1"
port = 5300
[[servers]]
name = "a"
members = ["192.0.2.1:53", "192.0.2.2:53"]
[[servers]]
name = "b"
members = ["192.0.2.2:53"]
[[session-acl]]
name = "one"
plug-to = "@a"
"""


class Kept:
    """systemd's store, as far as servers go."""

    def __init__(self) -> None:
        self.fd: int | None = None
        self.full = False

    def take_servers(self) -> int | None:
        return None if self.fd is None else os.dup(self.fd)

    def keep_servers(self, fd: int) -> None:
        if self.full:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.fd = os.dup(fd)

    def drop_servers(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
        self.fd = None


class World:
    """A parent, its store, and a REG that is told things."""

    def __init__(self) -> None:
        self.logs = Logs("test")
        self.config = load.parse(TEXT, "one")
        self.kept = Kept()
        self.signals: list[list[object]] = []
        self.told: list[wire.Message] = []
        self.link = cast(Link, SimpleNamespace(send=self.told.append))
        self.made: list[Servers] = []
        self.timers: list[Callable[[], object]] = []
        self.servers = self.make()

    def make(self) -> Servers:
        """The next parent's."""
        self.wait()
        store, instance = cast(Store, self.kept), cast(Instance, self)
        self.made.append(Servers(instance, store, lambda: self.config, cast(Reactor, self)))
        return self.made[-1]

    def call_later(self, delay: float, callback: Callable[[], object]) -> SimpleNamespace:
        """As a loop."""
        self.timers.append(callback)
        return SimpleNamespace(cancel=lambda: self.timers.remove(callback))

    def wait(self) -> None:
        """All timers are over."""
        while self.timers:
            self.timers[0]()

    def close(self) -> None:
        """Nothing stays open."""
        for servers in self.made:
            servers.close()
        self.kept.drop_servers()

    def announce(self, member: str, signature: str, body: list[object]) -> None:
        """On the bus."""
        assert (member, len(signature)) == ("ServerChanged", len(body))
        self.signals.append(body)

    def hear(self, group: str, server: wire.Plain, *, down: wire.Plain, why: wire.Plain) -> None:
        """From REG."""
        words = {"group": group, "server": server, "down": down, "why": why}
        self.servers.heard(wire.Tell("server", words))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def test_what_reg_tells_reaches_the_next_ones(world: World) -> None:
    world.hear("a", "192.0.2.1:53", down=True, why="3 probes in a row failed")
    world.servers.drain("a/192.0.2.2:53", None, "test", on=True)
    wanted = wire.Tell(
        "servers",
        {
            "down": [["a", "192.0.2.1:53", "3 probes in a row failed"]],
            "drained": [["a", "192.0.2.2:53", ""]],
        },
    )
    for servers in (world.servers, world.make()):
        servers.resume(world.link)
        assert world.told.pop() == wanted
    world.hear("a", "192.0.2.1:53", down=False, why="")
    assert world.make().down == {}
    assert [body[:3] for body in world.signals] == [
        ["a", "192.0.2.1:53", "down"],
        ["a", "192.0.2.2:53", "drained"],
        ["a", "192.0.2.1:53", "up"],
    ]


def test_where_nothing_can_be_kept_the_next_change_tries_again(world: World) -> None:
    world.kept.full = True
    world.servers.drain("192.0.2.1:53", None, "test", on=True)
    assert (world.servers.stored, world.kept.fd) == (0, None)
    world.kept.full = False
    world.hear("a", "192.0.2.1:53", down=True, why="")
    servers = world.make()
    assert servers.drained == set(servers.down) == {("a", "192.0.2.1:53")}


def test_nonsense_of_reg_is_nothing(world: World) -> None:
    world.hear("a", "192.0.2.9:53", down=True, why="")
    world.hear("b", "192.0.2.1:53", down=True, why="")
    world.hear("a", 5, down=True, why="")
    world.hear("a", "192.0.2.1:53", down="yes", why="")
    world.hear("a", "192.0.2.1:53", down=True, why=None)
    world.servers.heard(wire.Tell("server"))
    assert (world.servers.down, world.signals) == ({}, [])
    world.hear("a", "192.0.2.1:53", down=True, why="x" * 100_000)
    assert len(world.servers.down["a", "192.0.2.1:53"]) <= 200


def test_the_bus_is_told_of_so_many_changes_a_second(world: World) -> None:
    for number in range(10 * MOST_CHANGES):
        world.hear("a", "192.0.2.1:53", down=number % 2 == 0, why="")
    assert MOST_CHANGES <= len(world.signals) <= 3 * MOST_CHANGES


def test_many_changes_are_kept_in_one_go(world: World) -> None:
    for number in (1, 2):
        world.hear("a", f"192.0.2.{number}:53", down=True, why="")
    assert len(world.timers) == 1
    assert world.kept.fd is None
    world.servers.close()
    assert set(world.make().down) == {("a", "192.0.2.1:53"), ("a", "192.0.2.2:53")}


def test_what_is_drained_has_one_name(world: World) -> None:
    servers = world.servers
    with pytest.raises(InvalidArgument, match=r"one of a/192\.0\.2\.2:53, b/192\.0\.2\.2:53"):
        servers.drain("192.0.2.2:53", None, "test", on=True)
    with pytest.raises(InvalidArgument, match="no group has the server"):
        servers.drain("192.0.2.3:53", None, "test", on=True)
    with pytest.raises(InvalidArgument, match="is not drained"):
        servers.drain("192.0.2.1:53", None, "test", on=False)
    servers.drain("192.0.2.1:53", world.link, "test", on=True)
    assert world.told == [wire.Tell("drained", {"servers": [["a", "192.0.2.1:53", ""]]})]
    with pytest.raises(InvalidArgument, match="is drained already"):
        servers.drain("192.0.2.1:53", None, "test", on=True)
    servers.drain("192.0.2.1:53", world.link, "test", on=False)
    assert world.told[1] == wire.Tell("drained", {"servers": []})


def test_what_the_configuration_has_no_more_is_forgotten(world: World) -> None:
    servers = world.servers
    servers.drain("b/192.0.2.2:53", None, "test", on=True)
    servers.drain("192.0.2.1:53", None, "test", on=True)
    world.config = load.parse(TEXT.replace('name = "b"', 'name = "c"'), "one")
    servers.keep()
    assert servers.drained == {("a", "192.0.2.1:53")}


@pytest.mark.parametrize(
    "kept", [b"", b"{", b"[]", b'{"down": 5, "drained": []}', b'{"down": [5], "drained": [[1]]}']
)
def test_what_was_kept_may_be_anything(world: World, kept: bytes) -> None:
    world.kept.fd = os.memfd_create("kept")
    os.pwrite(world.kept.fd, kept, 0)
    servers = world.make()
    assert (servers.down, servers.drained) == ({}, set())


def test_an_end_that_keeps_nothing(world: World) -> None:
    world.servers.drain("192.0.2.1:53", None, "test", on=True)
    assert world.servers.stored == 1
    world.servers.give_back()
    assert world.make().drained == set()
