"""A table of the layout before: nothing of its sessions is lost, nothing broken is made whole."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import former_table
from session_records import RECORD, records
from udpproxy.proxy.session import former, sense
from udpproxy.proxy.session import table as t
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.table import Table, WrongLayout


def carried_over(before: bytes | bytearray) -> Table:
    capacity = former.capacity_of(memoryview(before))
    return former.carry_over(memoryview(before), memoryview(bytearray(t.size(capacity))))


@settings(max_examples=50)
@given(kept=st.dictionaries(st.integers(0, 7), records(of_layout_1=True)))
def test_what_was_there_is_there(kept: dict[int, Record]) -> None:
    table = carried_over(former_table.former_of(8, kept))
    assert dict(table.records()) == kept
    assert table.capacity == table.grown == table.words[t.GROWN] == 8
    assert table.count_live() == len(kept)


def test_totals_and_numbers_go_on() -> None:
    before = Table(memoryview(bytearray(t.size(4))), 4, fresh=True)
    before.grow(4)
    before.count("sessions-opened", 7)
    before.count("refused-ports-kept", 3)
    before.words[t.STARTS], before.words[t.NEXT_ID], before.words[t.STEERING] = 3, 41, 99
    table = carried_over(former_table.former(before))
    assert table.totals() == before.totals()
    assert (table.words[t.STARTS], table.new_id(), table.words[t.STEERING]) == (3, 41, 99)


def test_a_record_without_a_sum_is_believed_as_before() -> None:
    memory = former_table.former_of(4, {2: RECORD})
    at = former_table.HEADER_SIZE + 2 * former_table.RECORD_SIZE + former_table.SUM
    memory[at : at + 8] = bytes(8)
    table = carried_over(memory)
    assert table.read(2) == RECORD
    assert table.words[table.at(2) + sense.SUM] not in (0, sense.NO_RECORD)


@pytest.mark.parametrize("byte", [8, 36, 48, 120, 167])
def test_a_damaged_one_stays_damaged(byte: int) -> None:
    memory = former_table.former_of(4, {2: RECORD, 3: replace(RECORD, id=2)})
    memory[former_table.HEADER_SIZE + 2 * former_table.RECORD_SIZE + byte] ^= 1
    table = carried_over(memory)
    assert table.read(2) is None
    assert table.why(2) == "its sum is wrong"
    assert table.read(3) == replace(RECORD, id=2)


def test_a_half_written_one_stays_so() -> None:
    memory = former_table.former_of(4, {2: RECORD})
    at = former_table.HEADER_SIZE + 2 * former_table.RECORD_SIZE
    memory[at] |= 1
    memory[at + 16] = State.FREE
    table = carried_over(memory)
    assert table.words[table.at(2)] & 1
    assert table.state(2) is State.OPENING


def test_what_is_none_is_refused() -> None:
    memory = former_table.former_of(4, {})
    assert former.capacity_of(memoryview(memory)) == 4
    today = bytearray(t.size(4))
    Table(memoryview(today), 4, fresh=True)
    later = bytearray(memory)
    struct.pack_into("=I", later, 8, 3)
    for other in (memory[:-1], memory[:100], b"", today, later):
        with pytest.raises(WrongLayout, match="another layout"):
            former.capacity_of(memoryview(other))
