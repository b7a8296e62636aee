"""Whether a moment lies within a period, and when that may change.

Moments are naive local times, so a day here is always 24 hours: whoever waits for `next_change`
asks the wall clock again, because summer time moves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta

from udpproxy.proxy.config.model import Period

_DAY = timedelta(days=1)
_DAY_MINUTES = 24 * 60


def holds(period: Period, at: datetime) -> bool:
    today = at.date()
    if period.minutes is None:
        return _on_day(period, today)
    first, end = period.minutes
    minute = at.hour * 60 + at.minute
    if first < end:
        return first <= minute < end and _on_day(period, today)
    # Over midnight: the hours after it belong to the day on which they began.
    if minute >= first:
        return _on_day(period, today)
    return minute < end and _on_day(period, today - _DAY)


def next_change(periods: Iterable[Period], at: datetime) -> datetime | None:
    """The next moment at which any answer could change; maybe too early, never too late."""
    marks = {mark for period in periods for mark in _marks(period)}
    if not marks:
        return None
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    minute = at.hour * 60 + at.minute
    return midnight + min(
        timedelta(minutes=mark if mark > minute else mark + _DAY_MINUTES) for mark in marks
    )


def _marks(period: Period) -> tuple[int, ...]:
    """The minutes of the day at which a period can begin or end."""
    if period.minutes is None:
        return (0,)
    first, end = period.minutes
    return (first, end % _DAY_MINUTES)


def _on_day(period: Period, day: date) -> bool:
    if period.days is not None and day.day not in period.days:
        return False
    if period.months is not None and day.month not in period.months:
        return False
    if period.weekdays is not None and day.weekday() not in period.weekdays:
        return False
    if period.dates is None:
        return True
    first, last = period.dates
    today = (day.month, day.day)
    return first <= today <= last if first <= last else today >= first or today <= last
