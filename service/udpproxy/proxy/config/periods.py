"""One item of `time`, such as "mon-fri 08:00-16:30", "24.-31. dec" or "24. dec - 6. jan".

Parts stand in any order, each at most once: weekdays, days of the month, months, dates, hours.
Ranges may wrap; words may be written out or cut to three letters or more, in any case.
"""

from __future__ import annotations

import re
from typing import NoReturn

from udpproxy.config.values import said, text
from udpproxy.proxy.config.model import Period

Date = tuple[int, int]

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAY_MINUTES = 24 * 60
_PARTS = "a weekday (mon), a day (24.), a month (dec) or hours (08:00-16:30)"
_TOKEN = re.compile(
    r"\s*(?:(?P<clock>\d{1,2}:\d{2})(?!\d)|(?P<day>\d{1,2})\.|(?P<word>[a-z]+)|(?P<sign>[-,]))\s*",
    re.ASCII | re.IGNORECASE,
)


def period(value: object) -> Period:
    cursor = _Cursor(text(value))
    days: frozenset[int] | None = None
    months: frozenset[int] | None = None
    weekdays: frozenset[int] | None = None
    minutes: tuple[int, int] | None = None
    dates: tuple[Date, Date] | None = None
    while True:
        if cursor.kind == "clock" and minutes is None:
            minutes = _hours(cursor)
        elif cursor.kind == "weekday" and weekdays is None:
            weekdays = _ranges(cursor, "weekday", 0, 6)
        elif cursor.kinds(4) == ["day", "month", "-", "day"] and not (dates or days or months):
            dates = _dates(cursor)
        elif cursor.kind == "day" and not (days or dates):
            days = _ranges(cursor, "day", 1, 31)
        elif cursor.kind == "month" and not (months or dates):
            months = _ranges(cursor, "month", 1, 12)
        else:
            cursor.fail(_PARTS + ", each once")
        if cursor.kind == "end":
            break
    if days and months and not any(day <= _LENGTHS[month - 1] for day in days for month in months):
        raise ValueError(f"{said(cursor.text)} never comes: no such day in these months")
    return Period(
        days=days,
        months=months,
        weekdays=weekdays,
        minutes=minutes,
        dates=dates,
        text=cursor.text,
    )


class _Cursor:
    """The item as tokens, and how far it has been understood."""

    def __init__(self, item: str) -> None:
        self.text = item
        self._next = 0
        self._tokens: list[tuple[str, int, int]] = []  # kind, value, where it begins
        at = 0
        while at < len(item) and (found := _TOKEN.match(item, at)):
            kind, value = _meaning(found)
            self._tokens.append((kind, value, at))
            at = found.end()
        self._tokens.append(("end" if at == len(item) else "unknown", 0, at))

    @property
    def kind(self) -> str:
        return self._tokens[self._next][0]

    def kinds(self, count: int) -> list[str]:
        return [kind for kind, _, _ in self._tokens[self._next : self._next + count]]

    def take(self, kind: str, wanted: str) -> int:
        if self.kind != kind:
            self.fail(wanted)
        value = self._tokens[self._next][1]
        self._next += 1
        return value

    def fail(self, wanted: str) -> NoReturn:
        at = self._tokens[self._next][2]
        understood, rest = self.text[:at].strip(), self.text[at:].strip()
        after = f"after {said(understood)} " if understood else ""
        found = said(rest) if rest else "nothing more"
        raise ValueError(f"{after}expected {wanted}, found {found}")


def _meaning(found: re.Match[str]) -> tuple[str, int]:
    """The kind and the value of one token."""
    if clock := found["clock"]:
        hour, minute = map(int, clock.split(":"))
        fits = minute < 60 and hour * 60 + minute <= _DAY_MINUTES
        return ("clock", hour * 60 + minute) if fits else ("unknown", 0)
    if day := found["day"]:
        return ("day", int(day)) if 1 <= int(day) <= 31 else ("unknown", 0)
    word = (found["word"] or "").lower()
    for kind, names, base in (("weekday", _WEEKDAYS, 0), ("month", _MONTHS, 1)):
        for index, name in enumerate(names):
            if len(word) >= 3 and name.startswith(word):
                return kind, index + base
    return found["sign"] or "unknown", 0


def _ranges(cursor: _Cursor, kind: str, first: int, last: int) -> frozenset[int]:
    """A list of values and ranges; one that ends before it begins goes around."""
    example = {"weekday": "a weekday (mon)", "day": "a day (24.)", "month": "a month (dec)"}[kind]
    found: set[int] = set()
    while True:
        begin = end = cursor.take(kind, example)
        if cursor.kind == "-":
            cursor.take("-", example)
            end = cursor.take(kind, example)
        if begin <= end:
            found.update(range(begin, end + 1))
        else:
            found.update(range(begin, last + 1), range(first, end + 1))
        if cursor.kind != ",":
            return frozenset(found)
        cursor.take(",", example)


def _hours(cursor: _Cursor) -> tuple[int, int]:
    wanted = "hours such as 08:00-16:30 (a second pair is an item of its own)"
    begin = cursor.take("clock", wanted)
    cursor.take("-", wanted)
    end = cursor.take("clock", wanted)
    if cursor.kind in ("-", ","):
        cursor.fail("the end of the hours; another pair is an item of its own")
    if begin == _DAY_MINUTES:
        raise ValueError(f"hours may end at 24:00 but not begin there: {said(cursor.text)}")
    if begin == end:
        raise ValueError(
            f"hours that begin and end together cover nothing: {said(cursor.text)}; "
            "for the whole day write 00:00-24:00 or leave them out"
        )
    return begin, end


def _dates(cursor: _Cursor) -> tuple[Date, Date]:
    """A range of dates over months; both ends included."""
    first = _date(cursor)
    cursor.take("-", "-")
    return first, _date(cursor)


def _date(cursor: _Cursor) -> Date:
    day = cursor.take("day", "a day (24.)")
    month = cursor.take("month", "a month (dec)")
    if day > _LENGTHS[month - 1]:
        raise ValueError(f"there is no day {day} in {_MONTHS[month - 1]}: {said(cursor.text)}")
    return month, day
