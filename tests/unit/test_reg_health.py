"""Which servers live: what probes and sessions say, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from udpproxy.process.logs import Logs
from udpproxy.proxy.config import load
from udpproxy.proxy.engine.interface import Engine
from udpproxy.proxy.reg.health import Health
from udpproxy.proxy.reg.members import Key, MemberNumbers
from udpproxy.proxy.session.balance import DOWN, DRAINED, UP, Member, Members

TEXT = """max-sessions = 1
[[listen]]
address = "127.0.0.1"
port = 5300
[[servers]]
name = "a"
members = ["192.0.2.1:53", "192.0.2.2:53"]
standby = ["192.0.2.9:53"]
down-sessions = "move"
health = { %s }
[[session-acl]]
name = "one"
plug-to = "@a"
"""
FIRST, SECOND, STANDBY = (("a", f"192.0.2.{number}:53") for number in (1, 2, 9))
PROBE = 'probe = { send = "text:ping" }'


class World:
    """An engine that is told states, and a clock."""

    def __init__(
        self, health: str = "", before: dict[Key, str] | None = None, drained: Sequence[Key] = ()
    ) -> None:
        self.now = 0.0
        self.members = Members()
        self.changes: list[tuple[Key, bool]] = []
        self.moved: list[tuple[int, str]] = []
        self.health = Health(
            Logs("test"),
            lambda key, down, why: self.changes.append((key, down)),
            lambda number, how: self.moved.append((number, how)),
            lambda: self.now,
        )
        self.numbers = MemberNumbers()
        self.health.resume(before or {}, drained)
        self.configure(health)
        self.health.begin(cast(Engine, self))

    def configure(self, health: str) -> None:
        """Another configuration."""
        self.config = load.parse(TEXT % health, "one")
        self.numbers.configure(self.config)
        self.health.configure(self.config, self.numbers)

    def set_member(self, number: int, state: int, *, trial: bool = False) -> None:
        """As an engine."""
        self.members[number].state, self.members[number].trial = state, trial

    def member(self, number: int) -> Member:
        """As an engine."""
        return self.members[number]

    def of(self, key: Key) -> Member:
        """That server."""
        return self.members[self.numbers[key]]

    def probe(self, key: Key, results: str) -> None:
        """What ACR tells: "+" is a good one, "-" is none."""
        for each in results:
            self.health.probed(*key, each == "+", "" if each == "+" else "no answer")


def test_probes() -> None:
    world = World(f"passive = false, fall = 3, rise = 2, {PROBE}")
    world.probe(FIRST, "--+--")
    assert world.of(FIRST).state == UP
    world.probe(FIRST, "-")
    assert world.of(FIRST).state == DOWN
    assert world.moved == [(world.numbers[FIRST], "move")]
    world.probe(FIRST, "+-+")
    assert world.of(FIRST).state == DOWN
    world.probe(FIRST, "+")
    assert world.of(FIRST).state == UP
    assert world.changes == [(FIRST, True), (FIRST, False)]
    world.probe(("a", "192.0.2.77:53"), "---")
    world.probe(("b", "192.0.2.1:53"), "---")
    assert len(world.changes) == 2


def test_a_probe_of_a_group_without_one_says_nothing() -> None:
    world = World()
    world.probe(FIRST, "---")
    assert world.changes == []


def test_icmp_errors() -> None:
    world = World("fall = 3")
    world.of(FIRST).errors = 2
    world.health.look()
    assert world.of(FIRST).state == UP
    world.of(FIRST).errors = 3
    world.health.look()
    assert world.of(FIRST).state == DOWN
    assert world.of(SECOND).state == UP


def test_sessions_without_an_answer_count_where_one_is_expected() -> None:
    world = World("fall = 2")
    world.of(FIRST).unanswered = 9
    world.health.look()
    assert world.of(FIRST).state == UP
    world.members.answers(world.numbers[SECOND])
    world.health.look()
    world.health.look()
    assert world.of(FIRST).state == DOWN


def test_passive_may_be_off() -> None:
    world = World("passive = false")
    world.of(FIRST).errors = 100
    world.health.look()
    assert world.changes == []


def test_trials_bring_it_back() -> None:
    """One new session in each `retry`; `rise` of them in a row with an answer."""
    world = World('fall = 1, rise = 2, retry = "10s"')
    world.of(FIRST).errors = 1
    world.health.look()
    world.now = 9.0
    world.health.look()
    assert not world.of(FIRST).trial
    world.now = 10.0
    world.health.look()
    assert world.of(FIRST).trial
    world.of(FIRST).trial = False  # a session had it
    world.members.answers(world.numbers[FIRST])
    world.health.look()
    assert (world.of(FIRST).state, world.of(FIRST).trial) == (DOWN, False)
    world.of(FIRST).errors = 1  # the next trial fails
    world.now = 20.0
    world.health.look()
    assert world.of(FIRST).trial
    world.members.answers(world.numbers[FIRST])
    world.health.look()
    assert world.of(FIRST).state == DOWN
    world.members.answers(world.numbers[FIRST])
    world.health.look()
    assert world.of(FIRST).state == UP


def test_what_brought_it_down_counts_no_more_once_it_is_up() -> None:
    world = World(f"fall = 3, rise = 1, {PROBE}")
    world.of(FIRST).errors = 3
    world.health.look()
    world.probe(FIRST, "+")
    world.health.look()
    assert world.of(FIRST).state == UP
    world.of(FIRST).errors = 6
    world.health.look()
    assert world.of(FIRST).state == DOWN


def test_drained_and_down_before() -> None:
    world = World(before={FIRST: "it was down"}, drained=[SECOND])
    assert [world.of(key).state for key in (FIRST, SECOND, STANDBY)] == [DOWN, DRAINED, UP]
    world.health.drain([FIRST])
    assert [world.of(key).state for key in (FIRST, SECOND)] == [DOWN | DRAINED, UP]
    rows = {row["server"]: row for row in world.health.rows()}
    assert [rows[key[1]]["state"] for key in (FIRST, SECOND, STANDBY)] == [
        "down drained",
        "up",
        "up standby",
    ]
    assert rows[FIRST[1]]["why"] == "it was down"
    assert world.health.figures()["servers-down"] == 1


def test_a_reload_keeps_what_is_known() -> None:
    world = World(f"fall = 1, {PROBE}")
    number = world.numbers[FIRST]
    world.probe(FIRST, "-")
    world.configure(f"fall = 9, {PROBE}")
    assert world.numbers[FIRST] == number
    assert world.of(FIRST).state == DOWN


@pytest.mark.parametrize("count", [1, 300, 4000])
def test_many_servers_are_looked_at_in_parts(count: int) -> None:
    """Each of them within a bounded number of looks."""
    groups = []
    for first in range(0, count, 50):
        servers = ", ".join(
            f'"192.0.{n // 200}.{n % 200 + 1}:53"' for n in range(first, min(first + 50, count))
        )
        groups.append(f'[[servers]]\nname = "g{first}"\nmembers = [{servers}]\n')
        groups.append(f'[[session-acl]]\nname = "r{first}"\nplug-to = "@g{first}"\n')
    config = load.parse(TEXT.split("[[servers]]")[0] + "".join(groups), "one")
    world = World()
    world.numbers.configure(config)
    world.health.configure(config, world.numbers)
    for group in config.groups:
        for server in group.servers:
            world.members[world.numbers[group.name, str(server)]].errors = 3
    for _ in range(count // 256 + 2):
        world.health.look()
    assert len(world.changes) == count
