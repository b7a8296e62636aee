"""Periods against a clock, and against a model that looks at every minute."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.proxy.config.model import Period
from udpproxy.proxy.config.periods import period
from udpproxy.proxy.policy.times import holds, next_change

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("item", "at", "wanted"),
    [
        ("08:00-16:30", "2030-01-01T07:59:59", False),
        ("08:00-16:30", "2030-01-01T08:00:00", True),
        ("08:00-16:30", "2030-01-01T16:29:59", True),
        ("08:00-16:30", "2030-01-01T16:30:00", False),
        ("22:00-24:00", "2030-01-01T23:59:59", True),
        ("22:00-06:00", "2030-01-01T23:00:00", True),
        ("22:00-06:00", "2030-01-01T05:59:00", True),
        ("22:00-06:00", "2030-01-01T06:00:00", False),
        ("22:00-00:00", "2030-01-01T00:00:00", False),
        # 2030-01-04 is a Friday: its night goes on into Saturday, and Thursday's is not its own.
        ("fri 22:00-06:00", "2030-01-05T05:00:00", True),
        ("fri 22:00-06:00", "2030-01-04T05:00:00", False),
        ("fri-mon", "2030-01-07T23:59:00", True),
        ("fri-mon", "2030-01-08T00:00:00", False),
        ("24.-31. dec", "2030-12-31T23:59:00", True),
        ("24.-31. dec", "2031-01-01T00:00:00", False),
        ("24. dec - 6. jan", "2030-12-23T23:59:00", False),
        ("24. dec - 6. jan", "2030-12-24T00:00:00", True),
        ("24. dec - 6. jan", "2031-01-06T23:59:00", True),
        ("24. dec - 6. jan", "2031-01-07T00:00:00", False),
        ("1. jul - 31. aug", "2030-08-31T12:00:00", True),
        ("1. jul - 31. aug", "2030-09-01T00:00:00", False),
        ("dec-feb", "2030-01-31T00:00:00", True),
        ("dec-feb", "2030-03-01T00:00:00", False),
        ("fri 13.", "2030-09-13T10:00:00", True),
        ("fri 13.", "2030-09-06T10:00:00", False),
        ("31. dec 22:00-06:00", "2031-01-01T05:00:00", True),
    ],
)
def test_moments(item: str, at: str, *, wanted: bool) -> None:
    assert holds(period(item), datetime.fromisoformat(at)) is wanted


def ranges(words: list[str]) -> st.SearchStrategy[str]:
    one = st.sampled_from(words)
    return st.one_of(one, st.tuples(one, one).map("-".join), st.tuples(one, one).map(",".join))


WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
CLOCK = st.integers(0, 1439)
DATE = st.tuples(st.integers(1, 28), st.sampled_from(MONTHS)).map(lambda d: f"{d[0]}. {d[1]}")


def hours(pair: tuple[int, int]) -> str:
    begin, end = pair
    return f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"


@st.composite
def items(draw: st.DrawFn) -> str:
    pairs = st.tuples(CLOCK, st.integers(0, 1440)).filter(lambda pair: pair[0] != pair[1])
    parts = [draw(st.none() | pairs.map(hours)), draw(st.none() | ranges(WEEKDAYS))]
    if draw(st.booleans()):
        parts.append(f"{draw(DATE)} - {draw(DATE)}")
    else:
        parts.append(draw(st.none() | ranges([f"{day}." for day in range(1, 29)])))
        parts.append(draw(st.none() | ranges(MONTHS)))
    return " ".join(filter(None, parts)) or "mon"


def model(item: Period, at: datetime) -> bool:
    """Walk back to the minute at which the hours began; its day is the one that counts."""
    begin = at
    if item.minutes is not None:
        first, end = item.minutes
        length = (end - first) % 1440 or 1440
        for back in range(length):
            begin = at - back * MINUTE
            if begin.hour * 60 + begin.minute == first:
                break
        else:
            return False
    fits = item.days is None or begin.day in item.days
    fits = fits and (item.months is None or begin.month in item.months)
    fits = fits and (item.weekdays is None or begin.weekday() in item.weekdays)
    if item.dates is None:
        return fits
    first_day, last_day = item.dates
    day = begin.replace(hour=0, minute=0)
    for _ in range(366):  # back from today to the first date; the last may only be met today
        if (day.month, day.day) == first_day:
            return fits
        day -= timedelta(days=1)
        if (day.month, day.day) == last_day:
            return False
    return False


MOMENTS = st.datetimes(datetime(2023, 1, 1), datetime(2029, 1, 1)).map(
    lambda at: at.replace(second=0, microsecond=0)
)


@settings(deadline=None)
@given(items(), MOMENTS)
def test_like_a_model_that_walks_minute_by_minute(item: str, at: datetime) -> None:
    assert holds(period(item), at) == model(period(item), at)


@settings(deadline=None)
@given(st.lists(items(), min_size=1, max_size=3), MOMENTS, st.integers(0, 59))
def test_nothing_changes_before_the_next_change(
    written: list[str], at: datetime, second: int
) -> None:
    periods = [period(item) for item in written]
    at = at.replace(second=second)
    change = next_change(periods, at)
    assert change is not None
    assert at < change <= at + timedelta(days=1)
    now = [holds(item, at) for item in periods]
    later = at.replace(second=0) + MINUTE
    while later < change:
        assert [holds(item, later) for item in periods] == now
        later += 17 * MINUTE
    assert [holds(item, change - timedelta(seconds=1)) for item in periods] == now


@pytest.mark.parametrize(
    ("written", "at", "wanted"),
    [
        (["mon"], "2030-01-01T10:00:30", "2030-01-02T00:00"),
        (["08:00-16:30"], "2030-01-01T08:00:00", "2030-01-01T16:30"),
        (["08:00-16:30"], "2030-01-01T16:30:00", "2030-01-02T08:00"),
        (["08:00-24:00"], "2030-01-01T08:00:00", "2030-01-02T00:00"),
        (["22:00-06:00", "12:00-13:00"], "2030-01-01T11:59:59", "2030-01-01T12:00"),
    ],
)
def test_next_change(written: list[str], at: str, wanted: str) -> None:
    periods = [period(item) for item in written]
    assert next_change(periods, datetime.fromisoformat(at)) == datetime.fromisoformat(wanted)


def test_without_periods_nothing_changes() -> None:
    assert next_change([], datetime(2030, 1, 1)) is None
