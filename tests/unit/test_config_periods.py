"""Items of `time`: what they mean and how a wrong one is answered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.proxy.config.model import Period
from udpproxy.proxy.config.periods import period


def made(
    text: str,
    *,
    days: set[int] | None = None,
    months: set[int] | None = None,
    weekdays: set[int] | None = None,
    minutes: tuple[int, int] | None = None,
    dates: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Period:
    return Period(
        days=None if days is None else frozenset(days),
        months=None if months is None else frozenset(months),
        weekdays=None if weekdays is None else frozenset(weekdays),
        minutes=minutes,
        dates=dates,
        text=text,
    )


@pytest.mark.parametrize(
    "wanted",
    [
        made("mon-fri 08:00-16:30", weekdays={0, 1, 2, 3, 4}, minutes=(480, 990)),
        made("08:00-16:30 mon-fri", weekdays={0, 1, 2, 3, 4}, minutes=(480, 990)),
        made("24.-31. dec", days=set(range(24, 32)), months={12}),
        made("dec 24.-31.", days=set(range(24, 32)), months={12}),
        made("22:00-06:00", minutes=(1320, 360)),
        made("22:00-24:00", minutes=(1320, 1440)),
        made("22:00-0:00", minutes=(1320, 0)),
        made("00:00-24:00", minutes=(0, 1440)),
        made("sat,sun", weekdays={5, 6}),
        made("mon, wed - fri", weekdays={0, 2, 3, 4}),
        made("fri-mon", weekdays={4, 5, 6, 0}),
        made("1. jan", days={1}, months={1}),
        made("1.,15.", days={1, 15}),
        made("30.-2.", days={30, 31, 1, 2}),
        made("dec-feb", months={12, 1, 2}),
        made("24. dec-feb", days={24}, months={12, 1, 2}),
        made("29. feb", days={29}, months={2}),
        made("24. dec - 6. jan", dates=((12, 24), (1, 6))),
        made(
            "1.jul-31.aug mon 8:00-9:00", dates=((7, 1), (8, 31)), weekdays={0}, minutes=(480, 540)
        ),
        made(" FRIDAY\t13. Sept ", weekdays={4}, days={13}, months={9}),
    ],
    ids=lambda wanted: wanted.text,
)
def test_items(wanted: Period) -> None:
    assert period(wanted.text) == wanted


ANY = r"a weekday \(mon\), a day \(24\.\), a month \(dec\) or hours \(08:00-16:30\), each once"


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("", f"^expected {ANY}, found nothing more$"),
        ("  ", f"^expected {ANY}, found nothing more$"),
        ("xyz", f'^expected {ANY}, found "xyz"$'),
        ("mo", f'^expected {ANY}, found "mo"$'),
        ("-", f'^expected {ANY}, found "-"$'),
        ("mon tue", f'^after "mon" expected {ANY}, found "tue"$'),
        ("dec 24.-6. jan", f'^after "dec 24.-6." expected {ANY}, found "jan"$'),
        ("24. dec - 6. jan 3.", f'^after "24. dec - 6. jan" expected {ANY}, found "3."$'),
        ("24. dec - 6. jan feb", 'found "feb"$'),
        ("1. 24. dec - 6. jan", 'found "24. dec - 6. jan"$'),
        ("mon-fri 8-16", f'^after "mon-fri" expected {ANY}, found "8-16"$'),
        ("mon-", r'^after "mon-" expected a weekday \(mon\), found nothing more$'),
        ("mon-dec", r'^after "mon-" expected a weekday \(mon\), found "dec"$'),
        ("mon,", r"expected a weekday \(mon\), found nothing more$"),
        ("1.-x", r'^after "1.-" expected a day \(24\.\), found "x"$'),
        ("dec-1.", r'^after "dec-" expected a month \(dec\), found "1\."$'),
        ("24. dec - 6.", r"expected a month \(dec\), found nothing more$"),
        ("0.", 'found "0."$'),
        ("32.", 'found "32."$'),
        ("08:00", 'after "08:00" expected hours such as 08:00-16:30'),
        ("08:00-", "expected hours such as 08:00-16:30"),
        ("08:00-mon", "expected hours such as 08:00-16:30"),
        ("08:00-12:00,13:00-17:00", "another pair is an item of its own"),
        ("08:00-12:00-13:00", "another pair is an item of its own"),
        ("08:60-09:00", 'found "08:60-09:00"$'),
        ("08:00-24:01", 'expected hours .*, found "24:01"$'),
        ("08:00-09:000", 'found "09:000"$'),
        ("24:00-06:00", "may end at 24:00 but not begin there"),
        ("08:00-8:00", "cover nothing"),
        ("00:00-00:00", "for the whole day write 00:00-24:00"),
        ("31. feb", "never comes"),
        ("31. jun,sep", "never comes"),
        ("30. feb - 1. mar", "there is no day 30 in february"),
        ("1. jan - 31. jun", "there is no day 31 in june"),
        ("mon\u2013fri", 'found "\u2013fri"$'),
        ("k\u0131s", "expected"),
    ],
)
def test_wrong_items(item: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        period(item)


def test_only_text_is_an_item() -> None:
    with pytest.raises(ValueError, match="expected text in quotes, found 8"):
        period(8)


@settings(deadline=None)
@given(st.text(alphabet="mondec 0123456789.:,-"))
def test_any_text_is_an_item_or_a_mistake(item: str) -> None:
    try:
        found = period(item)
    except ValueError as mistake:
        assert "expected" in str(mistake) or item in str(mistake)  # noqa: PT017
    else:
        assert found.text == item
