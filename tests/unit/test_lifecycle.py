"""The life of a child as histories: what happens, when, what is done, what it is then."""

from __future__ import annotations

import pytest

from udpproxy.supervisor.lifecycle import Do, Life
from udpproxy.supervisor.lifecycle import State as S

Step = tuple[str, float, Do, S]

START: list[Step] = [("start", 0, Do.SPAWN, S.STARTING), ("ready", 1, Do.NOTHING, S.READY)]

HISTORIES: dict[str, list[Step]] = {
    "an ordinary life": [
        *START,
        ("stop", 2, Do.NOTHING, S.STOPPING),
        ("exited", 3, Do.NOTHING, S.STOPPED),
    ],
    "stopped while it starts": [
        ("start", 0, Do.SPAWN, S.STARTING),
        ("stop", 1, Do.NOTHING, S.STOPPING),
        ("ready", 2, Do.NOTHING, S.STOPPING),
        ("exited", 3, Do.NOTHING, S.STOPPED),
        ("start", 4, Do.SPAWN, S.STARTING),
    ],
    "an end is replaced at once": [
        *START,
        ("exited", 2, Do.SPAWN, S.STARTING),
        ("ready", 3, Do.NOTHING, S.READY),
    ],
    "an end before it is ready counts, too": [
        ("start", 0, Do.SPAWN, S.STARTING),
        ("exited", 1, Do.SPAWN, S.STARTING),
    ],
    "the fifth end within the window gives up": [
        *START,
        ("exited", 10, Do.SPAWN, S.STARTING),
        ("exited", 20, Do.SPAWN, S.STARTING),
        ("ready", 21, Do.NOTHING, S.READY),
        ("exited", 30, Do.SPAWN, S.STARTING),
        ("exited", 40, Do.SPAWN, S.STARTING),
        ("exited", 69.9, Do.GIVE_UP, S.FAILED),
    ],
    "an end that is a window old does not count": [
        *START,
        ("exited", 10, Do.SPAWN, S.STARTING),
        ("exited", 20, Do.SPAWN, S.STARTING),
        ("exited", 30, Do.SPAWN, S.STARTING),
        ("exited", 40, Do.SPAWN, S.STARTING),
        ("exited", 70, Do.SPAWN, S.STARTING),
        ("exited", 79, Do.GIVE_UP, S.FAILED),
    ],
    "slow crashes never give up": [
        *START,
        *[("exited", 100.0 * n, Do.SPAWN, S.STARTING) for n in range(1, 50)],
    ],
    "after giving up nothing more happens": [
        *START,
        *[("exited", 2, Do.SPAWN, S.STARTING)] * 4,
        ("exited", 2, Do.GIVE_UP, S.FAILED),
        ("exited", 3, Do.NOTHING, S.FAILED),
        ("start", 4, Do.NOTHING, S.FAILED),
        ("ready", 5, Do.NOTHING, S.FAILED),
        ("stop", 6, Do.NOTHING, S.FAILED),
    ],
    "what cannot happen changes nothing": [
        ("ready", 0, Do.NOTHING, S.STOPPED),
        ("stop", 0, Do.NOTHING, S.STOPPED),
        ("exited", 0, Do.NOTHING, S.STOPPED),
        *START,
        ("start", 2, Do.NOTHING, S.READY),
        ("ready", 3, Do.NOTHING, S.READY),
    ],
}


def live(life: Life, event: str, now: float) -> Do:
    match event:
        case "start":
            return life.start()
        case "ready":
            return life.ready()
        case "stop":
            return life.stop()
        case _:
            return life.exited(now)


def play(life: Life, history: list[Step]) -> None:
    for number, (event, now, do, state) in enumerate(history):
        assert (live(life, event, now), life.state) == (do, state), f"step {number}: {event}"


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    play(Life(limit=5, window=60, stop_on_death=False), HISTORIES[name])


def test_one_death_may_be_enough() -> None:
    life = Life(limit=5, window=60, stop_on_death=True)
    play(life, [*START, ("exited", 2, Do.GIVE_UP, S.FAILED)])
    assert life.ends_counted == 1


def test_an_end_that_was_asked_for_is_none() -> None:
    life = Life(limit=1, window=60, stop_on_death=True)
    history = HISTORIES["an ordinary life"]
    play(life, history)
    assert (life.ends_counted, life.recent) == (0, 0)


def test_a_limit_of_one() -> None:
    life = Life(limit=1, window=60, stop_on_death=False)
    play(life, [*START, ("exited", 2, Do.GIVE_UP, S.FAILED)])


def test_what_info_says() -> None:
    life = Life(limit=5, window=60, stop_on_death=False)
    play(life, [*START, ("exited", 2, Do.SPAWN, S.STARTING), ("exited", 50, Do.SPAWN, S.STARTING)])
    assert (life.ends_counted, life.recent) == (2, 2)
    play(life, [("exited", 100, Do.SPAWN, S.STARTING)])
    assert (life.ends_counted, life.recent) == (3, 2)


def test_rules_of_a_reload_hold_from_the_next_end_on() -> None:
    life = Life(limit=5, window=60.0, stop_on_death=False)
    life.start()
    assert life.exited(0.0) is Do.SPAWN
    life.judge_by(2, 60.0, stop=False)
    assert life.exited(1.0) is Do.GIVE_UP
