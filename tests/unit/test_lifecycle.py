"""The life of a child as histories: what happens, when, what is done, what it is then."""

from __future__ import annotations

import pytest

from udpproxy.supervisor.lifecycle import NextStep, RestartPolicy
from udpproxy.supervisor.lifecycle import State as S

Step = tuple[str, float, NextStep, S]

START: list[Step] = [
    ("start", 0, NextStep.SPAWN, S.STARTING),
    ("ready", 1, NextStep.NOTHING, S.READY),
]

HISTORIES: dict[str, list[Step]] = {
    "an ordinary life": [
        *START,
        ("stop", 2, NextStep.NOTHING, S.STOPPING),
        ("exited", 3, NextStep.NOTHING, S.STOPPED),
    ],
    "stopped while it starts": [
        ("start", 0, NextStep.SPAWN, S.STARTING),
        ("stop", 1, NextStep.NOTHING, S.STOPPING),
        ("ready", 2, NextStep.NOTHING, S.STOPPING),
        ("exited", 3, NextStep.NOTHING, S.STOPPED),
        ("start", 4, NextStep.SPAWN, S.STARTING),
    ],
    "an end is replaced at once": [
        *START,
        ("exited", 2, NextStep.SPAWN, S.STARTING),
        ("ready", 3, NextStep.NOTHING, S.READY),
    ],
    "an end before it is ready counts, too": [
        ("start", 0, NextStep.SPAWN, S.STARTING),
        ("exited", 1, NextStep.SPAWN, S.STARTING),
    ],
    "the fifth end within the window gives up": [
        *START,
        ("exited", 10, NextStep.SPAWN, S.STARTING),
        ("exited", 20, NextStep.SPAWN, S.STARTING),
        ("ready", 21, NextStep.NOTHING, S.READY),
        ("exited", 30, NextStep.SPAWN, S.STARTING),
        ("exited", 40, NextStep.SPAWN, S.STARTING),
        ("exited", 69.9, NextStep.GIVE_UP, S.FAILED),
    ],
    "an end that is a window old does not count": [
        *START,
        ("exited", 10, NextStep.SPAWN, S.STARTING),
        ("exited", 20, NextStep.SPAWN, S.STARTING),
        ("exited", 30, NextStep.SPAWN, S.STARTING),
        ("exited", 40, NextStep.SPAWN, S.STARTING),
        ("exited", 70, NextStep.SPAWN, S.STARTING),
        ("exited", 79, NextStep.GIVE_UP, S.FAILED),
    ],
    "slow crashes never give up": [
        *START,
        *[("exited", 100.0 * n, NextStep.SPAWN, S.STARTING) for n in range(1, 50)],
    ],
    "after giving up nothing more happens": [
        *START,
        *[("exited", 2, NextStep.SPAWN, S.STARTING)] * 4,
        ("exited", 2, NextStep.GIVE_UP, S.FAILED),
        ("exited", 3, NextStep.NOTHING, S.FAILED),
        ("start", 4, NextStep.NOTHING, S.FAILED),
        ("ready", 5, NextStep.NOTHING, S.FAILED),
        ("stop", 6, NextStep.NOTHING, S.FAILED),
    ],
    "what cannot happen changes nothing": [
        ("ready", 0, NextStep.NOTHING, S.STOPPED),
        ("stop", 0, NextStep.NOTHING, S.STOPPED),
        ("exited", 0, NextStep.NOTHING, S.STOPPED),
        *START,
        ("start", 2, NextStep.NOTHING, S.READY),
        ("ready", 3, NextStep.NOTHING, S.READY),
    ],
}


def live(policy: RestartPolicy, event: str, now: float) -> NextStep:
    match event:
        case "start":
            return policy.start()
        case "ready":
            return policy.ready()
        case "stop":
            return policy.stop()
        case _:
            return policy.exited(now)


def play(policy: RestartPolicy, history: list[Step]) -> None:
    for number, (event, now, do, state) in enumerate(history):
        assert (live(policy, event, now), policy.state) == (do, state), f"step {number}: {event}"


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    play(RestartPolicy(limit=5, window=60, stop_on_death=False), HISTORIES[name])


def test_one_death_may_be_enough() -> None:
    policy = RestartPolicy(limit=5, window=60, stop_on_death=True)
    play(policy, [*START, ("exited", 2, NextStep.GIVE_UP, S.FAILED)])
    assert policy.ends_counted == 1


def test_an_end_that_was_asked_for_is_none() -> None:
    policy = RestartPolicy(limit=1, window=60, stop_on_death=True)
    history = HISTORIES["an ordinary life"]
    play(policy, history)
    assert (policy.ends_counted, policy.recent) == (0, 0)


def test_a_limit_of_one() -> None:
    policy = RestartPolicy(limit=1, window=60, stop_on_death=False)
    play(policy, [*START, ("exited", 2, NextStep.GIVE_UP, S.FAILED)])


def test_what_info_says() -> None:
    policy = RestartPolicy(limit=5, window=60, stop_on_death=False)
    play(
        policy,
        [
            *START,
            ("exited", 2, NextStep.SPAWN, S.STARTING),
            ("exited", 50, NextStep.SPAWN, S.STARTING),
        ],
    )
    assert (policy.ends_counted, policy.recent) == (2, 2)
    play(policy, [("exited", 100, NextStep.SPAWN, S.STARTING)])
    assert (policy.ends_counted, policy.recent) == (3, 2)


def test_rules_of_a_reload_hold_from_the_next_end_on() -> None:
    policy = RestartPolicy(limit=5, window=60.0, stop_on_death=False)
    policy.start()
    assert policy.exited(0.0) is NextStep.SPAWN
    policy.judge_by(2, 60.0, stop=False)
    assert policy.exited(1.0) is NextStep.GIVE_UP
