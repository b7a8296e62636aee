"""Children as units: what the parent makes of systemd's count of their restarts.

systemd itself is in tests/system; here it says what we want it to say.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from udpproxy.process.logs import Logs
from udpproxy.proxy.identity import IDENTITY
from udpproxy.supervisor import groups
from udpproxy.supervisor.lifecycle import RestartPolicy
from udpproxy.supervisor.units import STOP_DELAY, UnitSupervisor


class World:
    """One child, REG, that never comes; `told` is what systemd says."""

    def __init__(self, told: int | None, limit: int = 3) -> None:
        self.told = told
        self.asked = 0
        self.lost: list[str] = []
        self.supervisor = UnitSupervisor(
            Logs("udp-proxy/one"),
            unit=lambda role: IDENTITY.unit("one", role),
            restarts=self._restarts,
            events=self,
        )
        self.policy = RestartPolicy(limit=limit, window=60.0, stop_on_death=False)
        self.supervisor.start("reg", self.policy)

    def dismiss(self, role: str) -> None:
        """It never came."""

    def given_up(self, role: str) -> None:
        """Noted."""
        self.lost.append(role)

    def ended_unasked(self, role: str, *, killed: bool | None) -> None:
        """Nobody cares."""

    async def _restarts(self, role: str) -> int | None:
        self.asked += 1
        if self.told is not None and self.told < 0:
            raise ValueError("nonsense")
        return self.told

    async def looked(self, times: int = 2) -> None:
        """Wait until it has asked so many times more."""
        wanted = self.asked + times
        async with asyncio.timeout(15):
            while self.asked < wanted:  # noqa: ASYNC110 - it asks when it wants to
                await asyncio.sleep(0.01)


def lived(told: int | None, story: Callable[[World], Awaitable[None]]) -> World:
    async def run() -> World:
        world = World(told)
        try:
            await story(world)
        finally:
            world.supervisor.close()
        return world

    return asyncio.run(run())


def test_restarts_before_our_time_are_not_counted() -> None:
    """A parent that was started again finds a child that has died often, long ago."""

    async def story(world: World) -> None:
        await world.looked()
        world.told = 41
        await world.looked()

    world = lived(40, story)
    assert world.policy.ends_counted == 0
    assert world.lost == []


def test_restarts_while_it_is_away_are() -> None:
    async def story(world: World) -> None:
        await world.looked()
        world.told = 44
        await world.looked()

    world = lived(40, story)
    assert world.policy.ends_counted == 3
    assert world.lost == ["reg"]


def test_a_child_that_works_starts_from_its_last_count() -> None:
    async def story(world: World) -> None:
        await world.looked()
        world.supervisor.entered("reg", os.getpid())
        world.supervisor.ready("reg")
        world.told = 45
        await world.looked(1)
        world.supervisor.left("reg")
        world.told = 46
        await world.looked(3)

    assert lived(40, story).policy.ends_counted == 1


def test_who_comes_as_we_end_is_neither_ours_nor_a_stranger() -> None:
    async def story(world: World) -> None:
        assert world.supervisor.knows("reg", os.getpid())
        world.supervisor.expect_end()
        assert world.supervisor.knows("reg", os.getpid()) is None

    lived(40, story)


def test_systemd_is_not_asked_about_a_child_that_works() -> None:
    """Beyond the once from which its ends are counted."""

    async def story(world: World) -> None:
        world.supervisor.entered("reg", os.getpid())
        world.supervisor.ready("reg")
        await world.looked(1)
        asked = world.asked
        await asyncio.sleep(2.0)
        assert world.asked == asked

    assert lived(40, story).policy.ends_counted == 0


def test_a_question_that_fails_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """It is said, once, and the watch goes on."""

    async def story(world: World) -> None:
        await world.looked(2)
        world.told = 40
        await world.looked(1)
        world.told = 43
        await world.looked()

    world = lived(-1, story)
    assert world.policy.ends_counted == 2
    assert capfd.readouterr().err.count("ValueError('nonsense')") == 1


def test_a_mistake_in_the_watch_ends_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = UnitSupervisor._compare
    mistakes = iter([True])

    def mistaken(self: UnitSupervisor, *words: Any) -> None:
        if next(mistakes, False):
            raise KeyError("on purpose")
        compare(self, *words)

    monkeypatch.setattr(UnitSupervisor, "_compare", mistaken)

    async def story(world: World) -> None:
        await world.looked(3)
        world.told = 42
        await world.looked()

    assert lived(40, story).policy.ends_counted == 1
    assert "KeyError('on purpose')" in capfd.readouterr().err


def test_a_number_without_measure_ends_no_turn() -> None:
    async def story(world: World) -> None:
        await world.looked()
        world.told = 1 << 32
        await world.looked()

    world = lived(0, story)
    assert world.policy.ends_counted <= 3


def test_nothing_starts_once_the_end_has_begun() -> None:
    async def story(world: World) -> None:
        await world.supervisor.stop(1.0)
        world.supervisor.start("acr", RestartPolicy(limit=3, window=60.0, stop_on_death=False))
        assert list(world.supervisor.children()) == ["reg"]

    lived(None, story)


def test_a_role_is_for_one() -> None:
    async def story(world: World) -> None:
        assert world.supervisor.knows("reg", 4711)
        assert not world.supervisor.knows("acr", 4711), "nobody wants one"
        world.supervisor.entered("reg", 4711)
        assert not world.supervisor.knows("reg", 4712)
        world.supervisor.left("reg")
        assert world.supervisor.knows("reg", 4713)
        world.policy.stop()
        assert not world.supervisor.knows("reg", 4713), "the end has begun"

    lived(None, story)


def test_a_role_that_is_wanted_again_is_not_blamed_for_who_goes() -> None:
    """It was dropped by one reload and came back by the next, while its process was leaving."""

    async def story(world: World) -> None:
        world.supervisor.entered("reg", 1)
        world.supervisor.ready("reg")
        world.supervisor.drop("reg", 1.0)
        again = RestartPolicy(limit=3, window=60.0, stop_on_death=False)
        world.supervisor.start("reg", again)
        world.supervisor.left("reg")
        await asyncio.sleep(2 * STOP_DELAY)
        assert again.recent == 0
        assert world.policy.recent == 0

    lived(None, story)


def test_ourselves_are_no_unit() -> None:
    async def story(world: World) -> None:
        assert world.supervisor.vouch(os.getpid(), os.getuid()) == ""
        assert world.supervisor.vouch(0, 0) == ""

    lived(None, story)


OURS = "udpproxy.slice/udpproxy-one:all.slice/udp-proxy@one.service"


@pytest.fixture
def groups_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes systemd's tree of groups, with us in one of them and process 4711 in another."""

    def make(theirs: str, ours: str = OURS) -> None:
        read_text = Path.read_text
        own = f"5:cpu:/\n0::/{ours}\n"
        for group, members in ((ours, f"{os.getpid()}\n"), (theirs, "12\n4711\n47110\n")):
            (tmp_path / group).mkdir(parents=True, exist_ok=True)
            (tmp_path / group / "cgroup.procs").write_text(members)
        monkeypatch.setattr(groups, "_ROOT", tmp_path)
        monkeypatch.setattr(
            Path,
            "read_text",
            lambda path, *how: own if path == Path("/proc/self/cgroup") else read_text(path, *how),
        )

    return make


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("udpproxy.slice/udpproxy-one:all.slice/udp-proxy-reg@one.service", "reg"),
        ("udp-proxy-reg@one.service", "reg"),
        ("system.slice/fast.slice/udp-proxy-reg@one.service", "reg"),
        ("user.slice/user-1.slice/user@1.service/app.slice/udp-proxy-reg@one.service", ""),
        ("x/user@1.service/udp-proxy-reg@one.service", ""),
        ("udp-proxy-reg@one.service/below", ""),
        ("udpproxy.slice/udpproxy-one:all.slice/udp-proxy-acr@one.service", ""),
        ("udpproxy.slice/udpproxy-one:all.slice/udp-proxy-reg@another.service", ""),
    ],
)
def test_whose_unit_a_process_is_of(
    groups_of: Callable[..., None], group: str, expected: str
) -> None:
    async def story(world: World) -> None:
        groups_of(group)
        assert world.supervisor.vouch(4711, os.getuid() + 1) == expected
        assert world.supervisor.vouch(471, os.getuid()) == ""

    lived(None, story)


def test_a_unit_in_a_container_of_somebody(groups_of: Callable[..., None]) -> None:
    """Where it sees the host's groups."""
    box = "user.slice/user-1.slice/user@1.service/box.scope/system.slice"

    async def story(world: World) -> None:
        groups_of(f"{box}/udp-proxy-reg@one.service")
        assert world.supervisor.vouch(4711, 0) == ""
        groups_of(f"{box}/udp-proxy-reg@one.service", f"{box}/udp-proxy@one.service")
        assert world.supervisor.vouch(4711, 0) == "reg"

    lived(None, story)
