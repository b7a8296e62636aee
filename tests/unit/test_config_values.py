"""Plain values: what is read, and that each mistake says what was expected."""

from __future__ import annotations

import datetime
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.config import values
from udpproxy.config.model import Rate

HUGE = pytest.param(10**5000, id="huge")  # pytest itself cannot print it


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h", 3600),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1d2h3m4s", 93784),
        ("0s", 0),
        ("500ms", 0.5),
        ("0.3s", 0.3),
        ("1m0.5s", 60.5),
        ("2s250ms", 2.25),
        ("10min", 600),
        (90, 90),
        (0.25, 0.25),
        (0, 0),
        ("36500d", values.LONGEST),
    ],
)
def test_durations(given: object, seconds: float) -> None:
    assert values.duration(given) == seconds
    assert isinstance(values.duration(given), float)


@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            "90",
            "s",
            "1 h",
            "-5s",
            "1m1h",
            "1.5h",
            "ms",
            ".5s",
            "1.s",
            "0.5m",
            "5M",
            "\u0661s",
            "1s\n",
            "9" * 9999 + "s",
        ),
        *(True, -1, -0.5, math.nan, math.inf, 1e300, "36501d", [], {}, None),
        datetime.time(1, 30),
        HUGE,
    ],
)
def test_what_is_no_duration(given: object) -> None:
    with pytest.raises(ValueError, match=r'^expected a duration such as "90s", .* found '):
        values.duration(given)


def test_a_duration_that_may_not_be_nothing() -> None:
    assert values.positive_duration("1s") == 1
    with pytest.raises(ValueError, match=r'longer than 0, found "0s"'):
        values.positive_duration("0s")


@pytest.mark.parametrize(
    ("given", "size"),
    [("64k", 65536), ("64K", 65536), ("2M", 2**21), ("1G", 2**30), ("7", 7), (7, 7), (0, 0)],
)
def test_sizes(given: object, size: int) -> None:
    assert values.size(given) == size


@pytest.mark.parametrize(
    "given", ["", "k", "1kB", "1 k", "64m", "-1", "1.5M", -1, 2**63, "9999999999G", True, 1.0, []]
)
def test_what_is_no_size(given: object) -> None:
    with pytest.raises(ValueError, match=r'^expected a size such as 65536, "64k"'):
        values.size(given)


@pytest.mark.parametrize(
    ("given", "wanted", "interval"),
    [
        ("20/s", Rate(20, "s"), 50_000_000),
        ("600/min", Rate(600, "min"), 100_000_000),
        ("1/h", Rate(1, "h"), 3_600_000_000_000),
        ("1000000/s", Rate(1_000_000, "s"), 1000),
        ("3600000000/h", Rate(3_600_000_000, "h"), 1000),
        (0, Rate(), 0),
    ],
)
def test_rates(given: object, wanted: Rate, interval: int) -> None:
    found = values.rate(given)
    assert (found, found.interval, bool(found)) == (wanted, interval, given != 0)
    assert str(found) == str(given)


@pytest.mark.parametrize(
    "given",
    [
        *("", "20", "/s", "0/s", "-1/s", "1.5/s", "20/m", "20/d", "20 /s", "020/s", "20/s\n"),
        *("20/sec", "20/S", "\u0662/s", 20, 0.0, False, True, [], {}, HUGE, "9" * 5000 + "/s"),
    ],
)
def test_what_is_no_rate(given: object) -> None:
    with pytest.raises(
        ValueError, match='expected a rate such as "20/s", "600/min" or "1/h", or 0'
    ):
        values.rate(given)


@pytest.mark.parametrize("given", ["1000001/s", "60000001/min", "3600000001/h"])
def test_a_rate_that_nobody_can_have(given: str) -> None:
    with pytest.raises(ValueError, match="; it may be at most 1000000 a second"):
        values.rate(given)


def test_whole_numbers() -> None:
    assert values.whole(1, 9)(9) == 9
    for wrong in (0, 10, True, "3", 3.0):
        with pytest.raises(ValueError, match=r"^expected a number from 1 to 9, found"):
            values.whole(1, 9)(wrong)
    with pytest.raises(
        ValueError, match=r"^expected a number from 0, found a number far too large"
    ):
        values.whole(0)(10**5000)


def test_words_and_flags() -> None:
    assert values.one_of("a", "b")("b") == "b"
    assert values.choice({"on": 1, "off": 0})("off") == 0
    others: list[object] = ["c", 1, []]
    for wrong in others:
        with pytest.raises(ValueError, match=r'^expected one of "a", "b", found'):
            values.one_of("a", "b")(wrong)
    assert values.flag(True) is True  # noqa: FBT003
    with pytest.raises(ValueError, match=r"^expected true or false, found 1"):
        values.flag(1)
    with pytest.raises(ValueError, match=r"^expected text in quotes, found false"):
        values.text(False)  # noqa: FBT003


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "true"),
        (False, "false"),
        ("a\nb\x1b", '"a\\nb\\u001b"'),
        ("ž", '"ž"'),
        ("x" * 99, '"' + "x" * 60 + '..."'),
        (1.5, "1.5"),
        (-3, "-3"),
        pytest.param(-(10**5000), "a number far too large", id="huge"),
        ({}, "a table"),
        ([], "a list"),
        (datetime.date(2030, 1, 1), "a date or time"),
    ],
)
def test_values_in_messages(value: object, shown: str) -> None:
    assert values.said(value) == shown


@settings(deadline=None)
@given(st.text())
def test_messages_stay_on_one_line(value: str) -> None:
    assert values.said(value).isprintable()


def test_names_of_acls() -> None:
    assert values.label("inside network") == "inside network"
    for wrong in ("", " ", " a", "a ", "a\nb", "x" * 65, 3):
        with pytest.raises(ValueError, match=r"^expected "):
            values.label(wrong)
    with pytest.raises(ValueError, match="choose another name"):
        values.label("-")


def test_paths() -> None:
    assert values.absolute_path("/var/log/x") == "/var/log/x"
    for wrong in ("x", "", "/", "/var/", "/a\nb", 3):
        with pytest.raises(ValueError, match=r"^expected "):
            values.absolute_path(wrong)


def test_accounts() -> None:
    assert values.account("_proxy-1") == "_proxy-1"
    assert values.account("#990") == "#990"
    for wrong in ("", "#", "#x", "9", "a b", 990):
        with pytest.raises(ValueError, match=r"^expected "):
            values.account(wrong)


def test_free_words() -> None:
    assert values.printable("office, 2nd floor") == "office, 2nd floor"
    for wrong in ("a\nb", "x" * 257, 1):
        with pytest.raises(ValueError, match=r"^expected "):
            values.printable(wrong)


@pytest.mark.parametrize("name", ["localhost", "ns1.example.org", "_x.example.", "1.a", "a--b"])
def test_domains(name: str) -> None:
    assert values.domain(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "-a", "a-", "192.0.2.1", "300.1.1.1", "a b", "č", "x" * 64, "a." * 140],
)
def test_what_is_no_domain(name: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a domain name, found"):
        values.domain(name)
