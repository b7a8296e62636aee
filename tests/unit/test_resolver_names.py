"""ACR's book: when each name is due, what it keeps, what it reports."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.config.model import Address, Resolver
from udpproxy.resolver.names import Names
from udpproxy.resolver.resolved import Resolved
from udpproxy.resolver.result import Failure, Result

A1, A2 = ip_address("192.0.2.1"), ip_address("192.0.2.2")
V6 = ip_address("2001:db8::1")
RESOLVER = Resolver(retry=30.0, stale=3600.0)


def book(*names: str, parallel: int = 8, seed: int = 5) -> Names:
    return Names(names, RESOLVER, random.Random(seed), 0.0, parallel=parallel)


def good(*addresses: Address, ttl: float = 100.0, partial: Failure | None = None) -> Result:
    return Result(name="a", addresses=addresses, ttl=ttl, partial=partial)


def bad(failure: Failure = Failure.TIMEOUT, ttl: float = 0.0) -> Result:
    return Result(name="a", failure=failure, ttl=ttl)


def resolved(names: Names, result: Result, now: float = 0.0) -> Resolved | None:
    """`a` comes due, is looked up, and the result is in."""
    names.refresh(now)
    assert names.due(now) == ["a"]
    return names.resolved(now, "a", result)


def test_everything_is_due_at_once_but_not_more_than_allowed() -> None:
    names = book("a", "b", "c", parallel=2)
    assert names.deadline == 0.0
    assert names.due(0.0) == ["a", "b"]
    assert names.due(0.0) == []
    assert names.deadline is None
    assert not names.settled
    assert not names.tried("b")
    names.resolved(1.0, "b", good(A1))
    assert [names.tried(name) for name in ("a", "b", "x")] == [False, True, False]
    assert names.deadline == 0.0
    assert names.due(1.0) == ["c"]
    names.resolved(1.0, "c", bad())
    names.resolved(1.0, "a", bad())
    assert names.settled


def test_nothing_to_do_without_names() -> None:
    assert book().deadline is None
    assert book().settled


def test_a_change_is_reported_once() -> None:
    names = book("a")
    assert resolved(names, good(A1)) == Resolved("a", (A1,), 100.0)
    assert resolved(names, good(A1)) is None
    assert resolved(names, good(A1, A2)) == Resolved("a", (A1, A2), 100.0)
    # Servers rotate: the same set is the same, and keeps its first address.
    assert resolved(names, good(A2, A1)) is None
    assert names.addresses("a") == (A1, A2)
    assert resolved(names, good(A2, V6)) == Resolved("a", (A2, V6), 100.0)
    assert names.addresses("unknown") == ()


@pytest.mark.parametrize(
    ("result", "wait"),
    [
        (good(A1, ttl=100.0), 100.0),
        (good(A1, ttl=100.0, partial=Failure.TIMEOUT), 30.0),
        (good(A1, ttl=10.0, partial=Failure.TIMEOUT), 10.0),
        (bad(), 30.0),
        (bad(Failure.NXDOMAIN, ttl=60.0), 60.0),
        (bad(Failure.NXDOMAIN), 30.0),
    ],
)
def test_due_again_give_or_take_a_tenth(result: Result, wait: float) -> None:
    times = []
    for seed in range(100):
        names = book("a", seed=seed)
        resolved(names, result, 50.0)
        assert names.deadline is not None
        times.append(names.deadline - 50.0)
    assert wait * 0.9 <= min(times) < wait * 0.95
    assert wait * 1.05 < max(times) <= wait * 1.1


def test_the_earliest_is_next() -> None:
    names = book("a", "b")
    assert names.due(0.0) == ["a", "b"]
    names.resolved(0.0, "a", good(A1, ttl=1000.0))
    names.resolved(0.0, "b", good(A1, ttl=10.0))
    assert names.deadline is not None
    assert 9.0 <= names.deadline <= 11.0
    assert names.due(8.9) == []
    assert names.due(11.0) == ["b"]


def test_trouble_keeps_the_addresses_for_a_while() -> None:
    names = book("a")
    resolved(names, good(A1, V6))
    assert resolved(names, bad(), 100.0) is None
    assert resolved(names, bad(), 200.0) is None
    assert names.addresses("a") == (A1, V6)
    assert names.expired(3699.0) == []
    assert names.due(3699.0) == ["a"]
    assert names.deadline == 3700.0
    assert names.expired(3700.0) == [Resolved("a")]
    assert names.expired(3700.0) == []
    assert names.resolved(3701.0, "a", good(A1)) == Resolved("a", (A1,), 100.0)


def test_success_ends_being_stale() -> None:
    names = book("a")
    resolved(names, good(A1))
    resolved(names, bad(), 100.0)
    resolved(names, good(A1), 200.0)
    assert names.expired(1e9) == []


def test_trouble_of_a_name_that_never_was_is_no_change() -> None:
    names = book("a")
    assert resolved(names, bad()) is None
    assert names.expired(1e9) == []


@pytest.mark.parametrize("denial", [Failure.NXDOMAIN, Failure.NODATA])
def test_a_denial_takes_effect_at_once(denial: Failure) -> None:
    names = book("a")
    resolved(names, good(A1))
    assert resolved(names, bad(denial, ttl=60.0)) == Resolved("a", (), 60.0)


def test_one_family_has_trouble() -> None:
    names = book("a")
    resolved(names, good(A1, V6))
    change = resolved(names, good(A2, partial=Failure.TIMEOUT), 100.0)
    assert change == Resolved("a", (A2, V6), 100.0)
    assert names.expired(3700.0) == [Resolved("a", (A2,), 100.0)]
    assert resolved(names, good(A2, partial=Failure.TIMEOUT), 3800.0) is None


def test_everything_for_a_reg_that_begins_anew() -> None:
    names = book("a", "b")
    assert names.due(0.0) == ["a", "b"]
    names.resolved(0.0, "a", good(A1))
    names.resolved(0.0, "b", bad())
    assert names.everything() == [Resolved("a", (A1,), 100.0)]


def test_refresh_now() -> None:
    names = book("a", "b")
    assert names.due(0.0) == ["a", "b"]
    names.resolved(0.0, "a", good(A1))
    names.refresh(1.0)
    assert names.due(1.0) == ["a"]


def test_another_configuration() -> None:
    names = book("a", "b")
    assert names.due(0.0) == ["a", "b"]
    names.resolved(0.0, "a", good(A1))
    names.replace(5.0, ["a", "c"], Resolver(retry=1.0))
    assert names.addresses("a") == (A1,)
    assert names.due(5.0) == ["c"]
    assert names.resolved(5.0, "b", good(A2)) is None
    assert names.addresses("b") == ()
    names.resolved(5.0, "c", bad())
    assert names.deadline is not None
    assert 5.9 <= names.deadline <= 6.1


RESULTS = st.sampled_from(
    [
        good(A1),
        good(A1, V6, ttl=5.0),
        good(V6, partial=Failure.TIMEOUT),
        bad(),
        bad(Failure.NXDOMAIN, ttl=5.0),
        bad(Failure.OVERLOAD),
    ]
)


@settings(deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(RESULTS, st.floats(0.0, 4000.0)), max_size=30))
def test_what_is_reported_is_what_is_known(
    parallel: int, story: list[tuple[Result, float]]
) -> None:
    names = book("a", "b", "c", "d", parallel=parallel)
    told: dict[str, set[Address]] = {name: set() for name in "abcd"}
    now, out = 0.0, set[str]()
    for result, wait in story:
        now += wait
        words: list[Resolved | None] = [*names.expired(now)]
        fresh = names.due(now)
        assert out.isdisjoint(fresh)
        out |= set(fresh)
        assert len(out) <= parallel
        if out:
            words.append(names.resolved(now, name := out.pop(), result))
            assert name not in out
        for word in words:
            if word is not None:
                assert told[word.name] != set(word.addresses)
                told[word.name] = set(word.addresses)
        assert all(told[name] == set(names.addresses(name)) for name in told)
        assert names.deadline is not None or len(out) == parallel
