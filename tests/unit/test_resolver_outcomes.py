"""How probes ended, as another process tells it: what fits is taken, the rest is not believed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpproxy.process import wire
from udpproxy.resolver import outcomes
from udpproxy.resolver.outcomes import MOST, Outcome

GOOD, BAD = Outcome("dns", "192.0.2.1:53"), Outcome("dns", "srv.test:53", "no answer")
WANTED = {(each.group, each.server) for each in (GOOD, BAD)}


def test_what_is_told_is_heard() -> None:
    assert [each.plain() for each in (GOOD, BAD)] == [
        ["dns", "192.0.2.1:53", True, ""],
        ["dns", "srv.test:53", False, "no answer"],
    ]
    heard = outcomes.read([GOOD.plain(), BAD.plain(), GOOD.plain()], WANTED)
    assert (heard.found, heard.refused) == ([GOOD, BAD, GOOD], 0)


def test_servers_that_a_reload_has_taken_away_are_left_out() -> None:
    heard = outcomes.read([GOOD.plain(), BAD.plain()], {("dns", "srv.test:53")})
    assert (heard.found, heard.refused) == ([BAD], 0)


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        ["dns", "192.0.2.1:53", True],
        ["dns", "192.0.2.1:53", True, "", ""],
        ["dns", "192.0.2.1:53", True, "no answer"],
        ["dns", "192.0.2.1:53", False, ""],
        ["dns", "192.0.2.1:53", 1, ""],
        ["dns", "192.0.2.1:53", False, "x" * 101],
        ["x" * 65, "192.0.2.1:53", True, ""],
        ["dns", "x" * 301, True, ""],
        [{}, "192.0.2.1:53", True, ""],
    ],
)
def test_one_that_makes_no_sense_costs_that_one(item: Any) -> None:
    heard = outcomes.read([item, GOOD.plain()], WANTED)
    assert (heard.found, heard.refused) == ([GOOD], 1)
    assert heard.why


@pytest.mark.parametrize("told", [None, {}, "x", 7, [GOOD.plain()] * (MOST + 1)])
def test_no_list_or_too_long_a_one(told: Any) -> None:
    heard = outcomes.read(told, WANTED)
    assert (heard.found, heard.refused) == ([], 1)


def test_the_longest_message_can_be_sent() -> None:
    """Every letter takes twelve bytes on a link."""
    worst = Outcome("\U0001f600" * 64, "\U0001f600" * 300, "\U0001f600" * 1000)
    part: list[wire.Plain] = [worst.plain() for _ in range(MOST)]
    longest = Outcome("\U0001f600" * 64, "x" * 300, "\u00e9" * 100)
    real: list[wire.Plain] = [longest.plain() for _ in range(MOST)]
    assert len(wire.encode(wire.Tell("probed", {"results": real}))) < wire.LARGEST
    assert outcomes.read(part, {(worst.group, worst.server)}).refused == 0


plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(told=plain)
def test_nothing_raises(told: Any) -> None:
    assert outcomes.read(told, WANTED).found == []
