"""Which children there are, and what becomes of them: without a process, as parts of this one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from udpproxy.config.model import InstanceConfig
from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.instance.children import Children
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.control_server import ControlServer
from udpproxy.instance.options import Mode, RunOptions
from udpproxy.instance.service import Service
from udpproxy.process import wire
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import Account
from udpproxy.proxy.identity import IDENTITY
from udpproxy.supervisor.roles import Role
from udpproxy.supervisor.single import Part


class Inner:
    """A child's end of the link; it is ready as soon as it is told to begin."""

    def __init__(self, world: World, role: str, sock: socket.socket, left: Callable[[str], None]):
        self.role, self.asked = role, list[str]()
        self.link = Link(
            asyncio.get_running_loop(),
            sock,
            received=self._received,
            closed=lambda link, reason: left(reason),
            failed=lambda link, what: None,
        )
        self.link.send(wire.Hello(role, "1"))
        world.parts[role] = self

    def _received(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        match message:
            case wire.Tell("begin"):
                link.send(wire.Tell("ready", {"pleased": True}))
            case wire.Ask(number, verb):
                self.asked.append(verb)
                link.send(wire.Answer(number, verb.upper()))

    def leave(self, why: str) -> None:
        """As Part."""
        self.link.close(why)


class World:
    """The rest of an instance: service, watcher, who performs commands."""

    def __init__(self, directory: Path, **config: Any) -> None:
        self.config = InstanceConfig(**config)
        self.wanted = [Role(name="heart", vital=True, spoken="the heart"), Role(name="hand")]
        self.parts: dict[str, Inner] = {}
        self.heard_of: list[object] = []
        self.room = True
        options = RunOptions(
            instance="one",
            path=directory / "one.toml",
            directory=directory,
            mode=Mode.SINGLE,
            session_bus=False,
            account=Account(None, None),
            keep=None,
        )
        logs = Logs("udp-proxy/one")
        self.children = Children(logs, IDENTITY, options, cast(Service[Any], self), self)
        self.server = ControlServer(
            logs, directory, shared=False, family=self.children, performer=self
        )

    def roles(self) -> list[Role]:
        """As Service, and what follows."""
        return self.wanted

    def hand_over(self, child: ChildConnection) -> None:
        if not self.room:
            raise OSError(24, "Too many open files")
        child.link.send(wire.Tell("begin"))

    def ready(self, child: ChildConnection, news: dict[str, wire.Plain]) -> None:
        self.heard_of.append((child.role, "ready", news))

    def heard(self, child: ChildConnection, news: wire.Tell) -> None:
        self.heard_of.append((child.role, news.what))

    def ended(self, role: str, left: int, *, killed: bool | None) -> None:
        raise AssertionError(role)

    def within(
        self, role: str, link: socket.socket, notifier: Notifier, left: Callable[[str], None]
    ) -> Part:
        return Inner(self, role, link, left)

    def working(self) -> None:
        """As Watcher, and what follows."""
        self.heard_of.append("working")

    def child_ended(self, role: str, count: int) -> None:
        raise AssertionError(role)

    def cannot_go_on(self, why: str) -> None:
        self.heard_of.append(why)

    def take_link(self, link: socket.socket, role: str) -> None:
        self.server.take(link, role)

    def restarts(self, unit: str) -> Awaitable[int | None]:
        raise AssertionError(unit)

    async def perform(self, verb: str, arguments: dict[str, wire.Plain]) -> wire.Plain:
        """As Commands."""
        raise AssertionError(verb)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - it is told by nobody
                await asyncio.sleep(0.01)


def lived(directory: Path, story: Callable[[World], Awaitable[None]], **config: Any) -> None:
    async def run() -> None:
        world = World(directory, **config)
        try:
            world.children.follow()
            await story(world)
        finally:
            await world.children.stop()
            world.children.close()
            await world.server.close()

    asyncio.run(run())


def test_it_works_once_the_vital_ones_do(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        assert not world.children.all_work.is_set()
        await world.children.all_work.wait()
        await world.until(lambda: len(world.heard_of) == 3)
        assert world.heard_of[0] == ("heart", "ready", {"pleased": True})
        assert world.heard_of.count("working") == 1
        assert await world.children.ask("hand", "wave", {}) == "WAVE"
        await world.children.ask_all("hold", {})
        assert world.parts["heart"].asked == ["hold"]
        with pytest.raises(InvalidArgument, match="foot is not running"):
            await world.children.ask("foot", "kick", {})

    lived(tmp_path, story)


def test_roles_come_and_go(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.until(lambda: len(world.children.peers) == 2)
        heart, world.wanted = world.parts["heart"], [world.wanted[0], Role(name="foot")]
        world.children.follow()
        await world.until(lambda: set(world.children.peers) == {"heart", "foot"})
        assert world.parts["heart"] is heart
        assert set(world.children.all()) == {"heart", "foot"}
        assert world.children.down == {}
        assert "the heart" not in world.heard_of

    lived(tmp_path, story)


def test_one_that_ends_is_missed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.until(lambda: len(world.heard_of) == 3)
        world.parts["hand"].link.close()
        await world.until(lambda: "hand" in world.children.down)
        assert world.children.all_work.is_set()
        world.parts["heart"].link.close()
        await world.until(lambda: not world.children.all_work.is_set())
        assert world.children.most_missed() == "heart"
        assert world.children.spoken("heart") == "the heart"
        assert world.children.spoken("hand") == "hand"
        assert "heart cannot be kept alive" in world.heard_of

    lived(tmp_path, story)


def test_one_that_is_not_essential_fails_alone(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.wanted.append(Role(name="foot", essential=False))
        world.children.follow()
        await world.until(lambda: len(world.children.peers) == 3)
        world.parts["foot"].link.close()
        await world.until(lambda: "foot" in world.children.down)
        assert not any("foot" in str(each) and "kept" in str(each) for each in world.heard_of)

    lived(tmp_path, story)


def test_what_cannot_be_lent_is_lent_later(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.room = False
        await world.until(lambda: len(world.children.peers) == 2)
        await asyncio.sleep(0.1)
        assert world.heard_of == []
        world.room = True
        await world.until(lambda: "working" in world.heard_of)

    lived(tmp_path, story)


def test_one_out_of_step_is_discarded(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.until(lambda: len(world.heard_of) == 3)
        hand = world.children.peers["hand"]
        world.children.discard(hand, "it said nonsense")
        assert "hand" not in world.children.peers
        world.children.discard(hand, "again")  # of one that is gone nothing more is wanted
        with pytest.raises(LinkError):
            await hand.ask("wave", {})

    lived(tmp_path, story)


def test_every_silent_child_is_named(tmp_path: Path) -> None:
    async def refused(verb: str, arguments: object) -> wire.Plain:
        raise LinkError("it does not answer")

    async def story(world: World) -> None:
        await world.until(lambda: len(world.children.peers) == 2)
        silent = cast(ChildConnection, SimpleNamespace(ask=refused))
        world.children.peers |= {"a": silent, "b": silent}
        with pytest.raises(LinkError, match="it does not answer; it does not answer"):
            await world.children.ask_all("reopen", {})
        del world.children.peers["a"], world.children.peers["b"]

    lived(tmp_path, story)
