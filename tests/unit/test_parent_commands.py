"""Who is asked what, and what is refused once the end has begun."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.instance.children import Children
from udpproxy.instance.commands import Commands
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.options import Mode
from udpproxy.instance.service import Instance, Service
from udpproxy.process.commands import ProcessCommands
from udpproxy.process.logs import Logs
from udpproxy.process.loop import Reactor
from udpproxy.process.wire import Plain
from udpproxy.proxy.config import load
from udpproxy.proxy.parent.commands import MOST_KILLED, ProxyCommands
from udpproxy.proxy.parent.servers import Servers
from udpproxy.proxy.parent.sessions import Sessions
from udpproxy.proxy.policy.rules import Unresolved
from udpproxy.proxy.product import PROXY

CONFIG = load.parse('max-sessions = 1\n[[listen]]\naddress = "127.0.0.1"\nport = 5300\n', "one")


class Child:
    """A child that does what it is asked, or says why not."""

    def __init__(self, role: str, problem: Exception | None = None) -> None:
        self.role = role
        self.problem = problem
        self.asked: list[str] = []
        self.answers: dict[str, Plain] = {"info": {"pid": 1}, "loglevel": "normal"}

    async def ask(self, verb: str, args: dict[str, Plain], limit: float = 2.0) -> Plain:
        """As a ChildConnection."""
        self.asked.append(verb)
        if self.problem:
            raise self.problem
        return self.answers.get(verb)


class Many:
    """More sessions than end in one go."""

    def places(self, wanted: dict[str, Plain]) -> list[tuple[int, int]]:
        """As Sessions."""
        return [(slot, slot + 1) for slot in range(2 * MOST_KILLED + 1)]


class Family(Children):
    """Children that nobody has to start."""

    def __init__(self, *children: Child) -> None:
        self.peers = cast(dict[str, ChildConnection], {child.role: child for child in children})
        self.all_work = asyncio.Event()
        self.all_work.set()

    def all(self) -> Any:
        """Those that there are."""
        return self.peers


class World:
    """A proxy that runs: the parent's commands, and those of the proxy's own behind them."""

    def __init__(self, *children: Child) -> None:
        self.children = list(children) or [Child("reg")]
        self.word = "running"
        self.reloads = 0
        self.held = asyncio.Event()
        self.held.set()
        self.options = SimpleNamespace(mode=Mode.FORK)
        self.family = Family(*self.children)
        self.ask = self.family.ask
        self.logs = Logs("test")
        self.signals: list[list[object]] = []
        self.servers = Servers(cast(Instance, self), None, lambda: CONFIG, cast(Reactor, None))
        self.own = ProxyCommands(
            cast(Instance, self),
            cast(Sessions, Many()),
            self.servers,
            Unresolved(),
            lambda: CONFIG,
        )
        self.perform = self.own.perform
        self.commands = Commands(
            PROXY,
            ProcessCommands(Logs("test"), figures=dict, leave=lambda why: None),
            self.family,
            cast(Service[Any], self),
            self,
        )

    @property
    def peers(self) -> dict[str, ChildConnection]:
        """As Parent."""
        return self.family.peers

    def announce(self, member: str, signature: str, body: list[object]) -> None:
        """On the bus."""
        self.signals.append([member, *body])

    def every_role(self) -> tuple[str, ...]:
        """As ProxyService."""
        return ("reg", "acr", "apr")

    async def reload(self) -> Plain:
        """As Parent."""
        self.reloads += 1
        await self.held.wait()
        return {"sessions-ended": 0}


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("reload", {}),
        ("resolve-now", {}),
        ("kill", {"session": 1}),
        ("segmentation", {"mode": "off"}),
    ],
)
def test_what_changes_something_is_refused_at_the_end(verb: str, args: dict[str, Plain]) -> None:
    async def run() -> None:
        world = World()
        world.word = "stopping"
        with pytest.raises(LinkError, match="the proxy is stopping"):
            await world.commands.perform(verb, args)
        assert (world.reloads, world.children[0].asked, world.own.segmentation) == (0, [], "auto")
        await world.commands.perform("info", {})

    asyncio.run(run())


def test_a_reload_that_waited_for_another_is_refused_at_the_end() -> None:
    async def run() -> None:
        world = World()
        world.held.clear()
        first = asyncio.ensure_future(world.commands.perform("reload", {}))
        second = asyncio.ensure_future(world.commands.perform("reload", {}))
        await asyncio.sleep(0.05)
        assert world.reloads == 1
        world.word = "stopping"
        world.held.set()
        assert await first == {"sessions-ended": 0}
        with pytest.raises(LinkError, match="the proxy is stopping"):
            await second
        assert world.reloads == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("info", None),
        ("info", [{"pid": 1}]),
        ("info", "x" * 100_000),
        ("info", {"uptime": float("nan")}),
        ("info", {"figures": [{"a": float("inf")}]}),
        ("resolve-now", {"names": -float("inf")}),
        ("loglevel", 10**30),
        ("loglevel", {"a": float("nan")}),
        ("reopen", [[[[]]]]),
        ("hold", True),
        ("kill", {}),
        ("segmentation", 0),
        ("resolve-now", 1.5),
        ("terminate", "no"),
    ],
)
def test_an_answer_that_makes_no_sense_goes_no_further(verb: str, answer: Plain) -> None:
    async def run() -> None:
        world = World()
        world.children[0].answers = {verb: answer}
        args: dict[str, Plain] = {"process": "reg", "session": 1, "mode": "off", "level": "6"}
        if verb == "terminate":
            assert await world.commands.perform(verb, args) is None
            return
        with pytest.raises(LinkError, match=f"reg gave an answer to {verb} that makes no") as said:
            await world.commands.perform(verb, args)
        assert len(str(said.value)) < 600

    asyncio.run(run())


def test_every_child_that_was_silent_is_named() -> None:
    async def run() -> None:
        silent = [Child(role, LinkError(f"{role} does not answer")) for role in ("reg", "acr")]
        world = World(*silent)
        with pytest.raises(LinkError, match="reg does not answer; acr does not answer"):
            await world.commands.perform("reopen", {})

    asyncio.run(run())


@pytest.mark.parametrize("number", [0, -1, 1 << 64, True, "1", None, 1.0, [1]])
def test_no_session_has_that_number(number: Plain) -> None:
    async def run() -> None:
        world = World()
        with pytest.raises(InvalidArgument, match="is no session's number"):
            await world.commands.perform("kill", {"session": number})
        assert world.children[0].asked == []

    asyncio.run(run())


def test_many_end_a_part_at_a_time() -> None:
    async def run() -> None:
        world = World()
        world.children[0].answers["end"] = 3
        killed = await world.commands.perform("kill", {"filter": {"rule": "all"}})
        assert killed == {"sessions-ended": 9}
        assert world.children[0].asked == ["end"] * 3
        for lie in (True, -1, MOST_KILLED + 1, "all", None, [1]):
            world.children[0].answers["end"] = cast(Plain, lie)
            with pytest.raises(LinkError, match="makes no sense"):
                await world.commands.perform("kill", {"filter": {"rule": "all"}})

    asyncio.run(run())


def test_a_filter_that_says_nothing_ends_nothing() -> None:
    async def run() -> None:
        world = World()
        with pytest.raises(InvalidArgument, match="terminate ends all"):
            await world.commands.perform("kill", {"filter": {}})
        assert world.children[0].asked == []

    asyncio.run(run())
