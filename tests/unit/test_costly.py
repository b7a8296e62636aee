"""Answers that cost much are made seldom."""

from __future__ import annotations

from udpproxy.process.costly import Costly


class Figures:
    """Each takes `cost` seconds to make."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost, self.made = 10.0, cost, 0
        self.costly = Costly(self.make, lambda: self.now)

    def make(self) -> int:
        self.now += self.cost
        self.made += 1
        return self.made


def test_whoever_asks_in_a_loop_gets_the_last_one() -> None:
    figures = Figures(0.25)
    for _ in range(1000):
        figures.costly.get()
        figures.now += 0.01
    assert figures.made == 10  # in 10 s of asking


def test_what_costs_little_is_made_anew() -> None:
    figures = Figures(0.0001)
    assert figures.costly.get() == 1
    figures.now += 0.0021
    assert figures.costly.get() == 2
    assert figures.costly.get() == 2


def test_no_answer_is_older_than_a_second() -> None:
    figures = Figures(5.0)
    assert figures.costly.get() == 1
    figures.now += 0.99
    assert figures.costly.get() == 1
    figures.now += 0.02
    assert figures.costly.get() == 2
