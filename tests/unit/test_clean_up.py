"""What is done at a process's end: all of it, once, last first, under a limit."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from collections.abc import Callable

import pytest

from udpproxy.process.clean_up import CleanUps
from udpproxy.process.logs import Logs


def hang() -> None:
    """For longer than any test, whatever is raised at it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            time.sleep(30)
        except Exception:  # as careless code has it
            continue


@pytest.fixture
def done() -> list[str]:
    return []


@pytest.fixture
def clean_ups(done: list[str]) -> CleanUps:
    ups = CleanUps(Logs("test"), limit=0.2)
    ups.add("first", lambda: done.append("first"))
    return ups


def test_last_first_and_only_once(clean_ups: CleanUps, done: list[str]) -> None:
    clean_ups.add("second", lambda: done.append("second"))
    clean_ups.run()
    clean_ups.run()
    assert done == ["second", "first"]
    clean_ups.add("later", lambda: done.append("later"))
    clean_ups.run()
    assert done == ["second", "first", "later"]


def test_a_mistake_keeps_nobody_from_his_turn(
    clean_ups: CleanUps, done: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    clean_ups.add("the broken one", lambda: 1 / 0)
    clean_ups.run()
    assert done == ["first"]
    assert (
        "UDPS-120-E clean-up of the broken one failed: ZeroDivisionError" in capfd.readouterr().err
    )


@pytest.mark.parametrize("hanging", [1, 3])
def test_what_hangs_is_broken_off(
    clean_ups: CleanUps, done: list[str], capfd: pytest.CaptureFixture[str], hanging: int
) -> None:
    for number in range(hanging):
        clean_ups.add(f"hanging {number}", hang)
    begun = time.monotonic()
    clean_ups.run()
    assert 0.2 <= time.monotonic() - begun < 3
    assert done == ["first"]
    err = capfd.readouterr().err
    for number in range(hanging):
        assert f"clean-up of hanging {number} failed: not done within 0.2 s" in err
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_one_may_add_others(clean_ups: CleanUps, done: list[str]) -> None:
    def both() -> None:
        for name in ("of both, second", "of both, first"):
            clean_ups.add(name, functools.partial(done.append, name))

    clean_ups.add("both", both)
    clean_ups.run()
    assert done == ["of both, first", "of both, second", "first"]


def test_an_end_within_an_end_keeps_the_outer_limit(
    clean_ups: CleanUps, done: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    inner = CleanUps(Logs("inner"), limit=0.1)
    inner.add("inner hanging", hang)

    def nested() -> None:
        inner.run()
        done.append("inner is over")
        hang()

    clean_ups.add("outer", nested)
    begun = time.monotonic()
    clean_ups.run()
    assert time.monotonic() - begun < 3
    assert done == ["inner is over", "first"]
    err = capfd.readouterr().err
    assert "inner hanging failed: not done within 0.1 s" in err
    assert "outer failed: not done within 0.2 s" in err


async def waits() -> None:
    await asyncio.sleep(30)


async def hangs() -> None:
    """The loop does not turn meanwhile."""
    hang()


@pytest.mark.parametrize("work", [waits, hangs, hang])
def test_whatever_hangs_in_a_loop_keeps_nobody_from_his_turn(
    clean_ups: CleanUps,
    done: list[str],
    capfd: pytest.CaptureFixture[str],
    work: Callable[[], object],
) -> None:
    async def later() -> None:
        await asyncio.sleep(0)
        done.append("later")

    clean_ups.add("after it", later)
    clean_ups.add("it", work)
    clean_ups.add("before it", later)
    begun = time.monotonic()
    asyncio.run(clean_ups.finish())
    assert 0.2 <= time.monotonic() - begun < 4
    assert done == ["later", "later", "first"]
    assert capfd.readouterr().err.count("UDPS-120-E") == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_error_in_a_loop_is_said(
    clean_ups: CleanUps, done: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    async def broken() -> None:
        await asyncio.sleep(0)
        raise ValueError("on purpose")

    clean_ups.add("it", broken)
    asyncio.run(clean_ups.finish())
    assert done == ["first"]
    assert "clean-up of it failed: ValueError('on purpose')" in capfd.readouterr().err


def test_without_a_loop_nothing_is_waited_for(
    clean_ups: CleanUps, done: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    loop = asyncio.new_event_loop()
    clean_ups.add("it", lambda: loop.create_future())
    clean_ups.run()
    loop.close()
    assert done == ["first"]
    assert "clean-up of it failed: RuntimeError('no running event loop')" in capfd.readouterr().err
