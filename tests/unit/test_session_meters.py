"""Rates to the nanosecond, whose they are, and how many are remembered."""

from __future__ import annotations

import pytest

from udpproxy.config.model import Rate
from udpproxy.proxy.config.model import Limits
from udpproxy.proxy.session import meters as meters_module
from udpproxy.proxy.session.limits import Budget, Pace, budget, pace
from udpproxy.proxy.session.meters import Meters, counted_as

SECOND = 1_000_000_000
NOW = 77 * SECOND


def limited(new: Rate | None = None, sent: Rate | None = None) -> Budget:
    return budget(
        Limits(new_sessions_per_client=new or Rate(), datagrams_per_client=sent or Rate())
    )


def admitted(meters: Meters, client: str, limits: Budget, now: int, rule: str = "r") -> int:
    """How many of ten thousand at once."""
    for done in range(10_000):
        if not meters.admit(client, rule, limits, now):
            return done
    return 10_000


@pytest.mark.parametrize(
    ("rate", "wanted"),
    [
        (Rate(), Pace()),
        (Rate(20), Pace(SECOND // 20, SECOND)),
        (Rate(3), Pace(333_333_333, 999_999_999)),
        (Rate(1_000_000), Pace(1000, SECOND)),
        (Rate(600, "min"), Pace(SECOND // 10, SECOND)),
        (Rate(1, "h"), Pace(3600 * SECOND, 3600 * SECOND)),
        (Rate(90, "min"), Pace(666_666_666, 666_666_666)),
    ],
)
def test_at_once_there_is_what_a_second_brings(rate: Rate, wanted: Pace) -> None:
    assert pace(rate) == wanted


@pytest.mark.parametrize(("count", "unit", "burst"), [(20, "s", 20), (1, "h", 1), (90, "min", 1)])
def test_exactly_so_many(count: int, unit: str, burst: int) -> None:
    meters, limits = Meters(5), limited(Rate(count, unit))
    step = limits.new_sessions.interval
    assert admitted(meters, "a", limits, NOW) == burst
    assert admitted(meters, "a", limits, NOW) == 0
    assert admitted(meters, "a", limits, NOW - 9_000_000) == 0, "another worker's clock"
    assert admitted(meters, "a", limits, NOW + step) == 1
    assert admitted(meters, "a", limits, NOW + 3 * step + step // 2) == min(2, burst)
    assert admitted(meters, "a", limits, NOW + 9000 * step) == burst


def test_each_client_and_each_rule_for_itself() -> None:
    meters, fast, slow = Meters(5), limited(Rate(20)), limited(Rate(1, "h"))
    assert admitted(meters, "a", slow, NOW, "slow") == 1
    assert admitted(meters, "a", fast, NOW, "fast") == 20
    assert admitted(meters, "b", fast, NOW, "fast") == 20
    assert admitted(meters, "a", limited(), NOW, "none") == 10_000
    assert len(meters) == 3, "who has no rate has no meter"


def test_what_a_slower_pace_has_paid_for_is_forgiven() -> None:
    """A reload has made the rule faster."""
    meters = Meters(5)
    assert admitted(meters, "a", limited(Rate(1, "h")), NOW) == 1
    assert admitted(meters, "a", limited(Rate(20)), NOW + 1) == 20
    assert admitted(meters, "a", limited(Rate(20)), NOW + 1) == 0


def test_all_together_open_so_many() -> None:
    meters = Meters(5)
    assert meters.may_come(NOW)
    meters.limit(pace(Rate(5)))
    assert [meters.admit(who, "r", limited(), NOW) for who in "abcde"] == [True] * 5
    assert not meters.may_come(NOW)
    assert meters.may_come(NOW + SECOND // 5)
    meters.limit(Pace())
    assert meters.may_come(NOW)


def test_whoever_may_not_open_costs_the_others_nothing() -> None:
    meters, limits = Meters(5), limited(Rate(1))
    meters.limit(pace(Rate(2)))
    assert admitted(meters, "a", limits, NOW) == 1
    assert meters.may_come(NOW), "one of two is left"


def test_no_session_opens_whose_first_datagram_may_not_pass() -> None:
    meters, limits = Meters(5), limited(sent=Rate(1))
    assert meters.admit("a", "r", limits, NOW)
    meter = meters.hold("a", "r", NOW)
    assert meter is not None
    meter.sent = limits.datagrams.pay(meter.sent, NOW)
    assert not meters.admit("a", "r", limits, NOW)
    assert meters.admit("a", "r", limits, NOW + SECOND)


def test_a_flood_is_refused_and_forgets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters_module, "MOST_RESTING", 6)
    meters, limits = Meters(4), limited(Rate(1))
    assert meters.admit("known", "r", limits, NOW)
    opened = [meters.admit(f"forged {number}", "r", limits, NOW) for number in range(100)]
    assert opened == [True] * 9 + [False] * 91
    assert len(meters) == 10
    assert not meters.admit("known", "r", limits, NOW), "it is still known that it has been here"
    assert meters.hold("another", "r", NOW) is None
    assert meters.admit("later", "r", limits, NOW + SECOND)
    assert len(meters) == 3, "those that say nothing any more were forgotten, eight at a time"


def test_what_a_session_has_is_kept() -> None:
    meters, limits = Meters(5), limited(sent=Rate(1))
    held = meters.hold("a", "r", NOW)
    assert held is not None
    for number in range(50):
        assert meters.admit(f"{number}", "r", limits, NOW + number)
    assert meters.hold("a", "r", NOW) is held
    assert held.sessions == 2
    meters.release(held)
    meters.release(held)
    assert meters.admit("b", "r", limits, NOW)
    assert meters.admit("c", "r", limits, NOW)
    assert meters.hold("a", "r", NOW) is not held


@pytest.mark.parametrize(
    ("one", "other", "bits", "same"),
    [
        ("192.0.2.1", "192.0.2.2", 1, False),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", 64, True),
        ("2001:db8::1", "2001:db8:0:1::1", 64, False),
        ("2001:db8::1", "2001:db8:0:1::1", 56, True),
        ("2001:db8::1", "2001:db8::2", 128, False),
        ("fe80::1%eth0", "fe80::2%eth0", 64, False),
        ("fe80::1%eth0", "fe80::1%eth1", 64, True),
        ("::1", "::2", 64, True),
    ],
)
def test_who_counts_as_one(one: str, other: str, bits: int, *, same: bool) -> None:
    assert (counted_as(one, bits) == counted_as(other, bits)) == same
