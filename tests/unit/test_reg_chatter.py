"""Lines of level debug about new sessions: all while REG keeps up, few in a crowd."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from udpproxy.process.loop import Callback, Timer
from udpproxy.proxy.reg.chatter import BURST, MOST_OF_TURN, Chatter


class Turns:
    """A loop that turns when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: list[Callback] = []

    def call_later(self, delay: float, callback: Callback, /) -> Timer:
        assert delay == 0.0
        self._soon.append(callback)
        return self

    def cancel(self) -> None:
        raise NotImplementedError

    def turn(self, seconds: float = 0.001) -> None:
        """The next one begins."""
        self.now += seconds
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()

    def add_reader(self, fd: int, callback: Callback, /) -> object:
        raise NotImplementedError

    remove_writer = remove_reader = lambda self, fd: None
    add_writer = add_reader


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def said(turns: Turns) -> Callable[..., int]:
    """How many of so many new sessions in a turn have a line."""
    chatter = Chatter(turns, lambda: turns.now)

    def turn(count: int, *, pressed: bool = False, key: str = "opened") -> int:
        lines = [chatter.allow(key, pressed=pressed) for _ in range(count)]
        assert chatter.crowded or None not in lines
        turns.turn()
        return sum(line is not None for line in lines)

    return turn


def test_one_after_the_other_have_a_line_each(said: Callable[..., int]) -> None:
    assert sum(said(1) for _ in range(20_000)) == 20_000
    assert sum(said(MOST_OF_TURN) for _ in range(1000)) == 1000 * MOST_OF_TURN


def test_a_crowd_has_a_burst_of_lines_and_no_more(said: Callable[..., int]) -> None:
    few = MOST_OF_TURN
    assert said(BURST + few) == BURST + few
    assert sum(said(64) for _ in range(900)) <= 1
    assert sum(said(64, key="accepted") for _ in range(900)) <= 2


def test_a_short_turn_in_a_flood_brings_no_new_burst(said: Callable[..., int]) -> None:
    said(1000)
    assert sum(said(count) for _ in range(2000) for count in (1, 64)) <= 1


def test_a_full_table_is_a_crowd_however_slowly_it_turns_over(said: Callable[..., int]) -> None:
    assert sum(said(1, pressed=True) for _ in range(3000)) <= BURST + 1


def test_a_second_without_a_crowd_brings_everything_back(
    said: Callable[..., int], turns: Turns
) -> None:
    said(1000)
    turns.turn(0.9)
    assert said(1) == 0
    turns.turn(0.2)
    assert said(5) == 5
    assert said(150) == 150
