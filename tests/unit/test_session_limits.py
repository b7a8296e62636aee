"""Budgets at their edges: the datagram that reaches, the byte that exceeds, the moment."""

from __future__ import annotations

import pytest

from udpproxy.config.model import Rate
from udpproxy.proxy.config.model import Limits
from udpproxy.proxy.session.limits import (
    NEVER,
    TRIED,
    Allowance,
    Budget,
    Verdict,
    asked_at,
    budget,
    deadline,
    expired,
    is_amplified,
    is_to_try,
    judge_download,
    judge_upload,
)

SECOND = 1_000_000_000


def test_no_limit_is_never() -> None:
    none = budget(Limits(idle=0))
    assert none == Budget(NEVER, NEVER, NEVER, NEVER, NEVER, NEVER, NEVER)
    assert not none.counts_upload
    assert not none.counts_download
    assert deadline(none, 5, 7, 0, 7) >= NEVER
    assert deadline(none, 5, 7, 6, 7) >= NEVER
    assert expired(none, 5, 7, 7, NEVER - 1) is None
    assert not is_to_try(none, 6, NEVER - 1)


def test_seconds_become_nanoseconds() -> None:
    some = budget(Limits(idle=0.5, lifetime=3600, silent=2))
    moments = (SECOND // 2, 3600 * SECOND, 2 * SECOND)
    assert (some.idle, some.lifetime, some.silent) == moments


@pytest.mark.parametrize(
    ("limits", "upload", "download"),
    [
        (Limits(upload_datagrams=1), True, False),
        (Limits(upload_bytes=1), True, False),
        (Limits(download_datagrams=1), False, True),
        (Limits(download_bytes=1), False, True),
        (Limits(datagrams_per_client=Rate(1)), True, False),
        (Limits(amplification=1), False, True),
        (Limits(new_sessions_per_client=Rate(1)), False, False),
    ],
)
def test_which_direction_is_judged(limits: Limits, *, upload: bool, download: bool) -> None:
    compiled = budget(limits)
    assert (compiled.counts_upload, compiled.counts_download) == (upload, download)


@pytest.mark.parametrize(
    ("before", "volume", "size", "wanted"),
    [
        (0, 0, 0, Verdict.PASS),
        (0, 0, 100, Verdict.PASS),
        (0, 0, 101, Verdict.OVER),
        (1, 60, 40, Verdict.PASS),
        (1, 60, 41, Verdict.OVER),
        (1, 100, 0, Verdict.PASS),
        (2, 0, 1, Verdict.PASS_LAST),
        (2, 100, 1, Verdict.OVER),
        (3, 0, 1, Verdict.PASS_LAST),
    ],
)
def test_judging(before: int, volume: int, size: int, wanted: Verdict) -> None:
    up = budget(Limits(upload_datagrams=3, upload_bytes=100))
    assert judge_upload(up, before, volume, size) is wanted
    assert judge_download(up, before, volume, size) is Verdict.PASS
    down = budget(Limits(download_datagrams=3, download_bytes=100))
    assert judge_download(down, before, volume, size) is wanted
    assert judge_upload(down, before, volume, size) is Verdict.PASS


@pytest.mark.parametrize(
    ("opened", "last", "now", "wanted"),
    [
        (0, 0, 9, None),
        (0, 0, 10, "idle"),
        (0, 5, 14, None),
        (0, 5, 15, "idle"),
        (0, 95, 99, None),
        (0, 95, 100, "lifetime"),
        (0, 90, 100, "lifetime"),
    ],
)
def test_moments(opened: int, last: int, now: int, wanted: str | None) -> None:
    short = Budget(10, 100, NEVER, NEVER, NEVER, NEVER, NEVER)
    assert expired(short, opened, last, 0, now) == wanted
    assert (now >= deadline(short, opened, last, 0, last)) == (wanted is not None)


@pytest.mark.parametrize(
    ("asked", "now", "tries", "wanted"),
    [
        (0, 99, False, None),
        (50, 59, False, None),
        (50, 60, True, None),
        (50, 99, True, None),
        (51, 70, False, None),
        (51, 71, False, "silent"),
        (91, 111, False, "silent"),
    ],
)
def test_how_long_a_client_waits(asked: int, now: int, *, tries: bool, wanted: str | None) -> None:
    """Odd: it was connected afresh."""
    patient = Budget(100, NEVER, NEVER, NEVER, NEVER, NEVER, 10)
    last = asked & ~TRIED
    assert expired(patient, 0, last, asked, now) == wanted
    assert is_to_try(patient, asked, now) == tries
    if asked:
        assert (now >= deadline(patient, 0, last, asked, now)) == (tries or wanted is not None)
    else:
        assert deadline(patient, 0, last, asked, now) == min(now + 10, last + 100)


def test_idle_comes_before_silent() -> None:
    same = Budget(20, NEVER, NEVER, NEVER, NEVER, NEVER, 10)
    assert expired(same, 0, 50, 51, 71) == "idle"


def test_the_moment_of_a_question_is_even() -> None:
    assert [asked_at(now) for now in (6, 7)] == [6, 6]


@pytest.mark.parametrize(
    ("factor", "up", "down", "size", "wanted"),
    [
        (0, 0, 0, 65_507, False),
        (10, 0, 0, 512, False),
        (10, 0, 0, 513, True),
        (10, 7, 0, 582, False),
        (10, 7, 0, 583, True),
        (10, 7, 570, 12, False),
        (10, 7, 570, 13, True),
        (1_000_000, 1 << 50, 1 << 60, 9, False),
    ],
)
def test_amplification(factor: int, up: int, down: int, size: int, *, wanted: bool) -> None:
    limits = budget(Limits(amplification=factor))
    assert is_amplified(limits, up, down, size) == wanted


def test_a_rate() -> None:
    rate = Allowance(250, SECOND // 1000)

    def paid(now: int) -> int:
        for done in range(5000):
            if not rate.allows(now):
                return done
            rate.pay(now)
        return 5000

    assert paid(5 * SECOND) == 250
    assert paid(5 * SECOND) == 0
    assert paid(5 * SECOND + SECOND // 10) == 100
    assert paid(900 * SECOND) == 250
