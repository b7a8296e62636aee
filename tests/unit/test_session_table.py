"""The table: what is written is read, and what is half-written is nobody's."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.session import table as t
from udpproxy.session.table import Record, State, Table, WrongLayout

PORTS = st.integers(0, 65535)
COUNTERS = st.integers(0, (1 << 64) - 1)
NUMBERS = st.integers(0, (1 << 32) - 1)
BYTES = st.integers(0, 255)


def fresh(capacity: int = 4) -> Table:
    return Table(memoryview(bytearray(t.size(capacity))), capacity, fresh=True)


@st.composite
def records(draw: st.DrawFn) -> Record:
    near = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
    client, server = draw(near), draw(near)
    like_client = st.binary(min_size=len(client), max_size=len(client))
    like_server = st.tuples(st.binary(min_size=len(server), max_size=len(server)), PORTS)
    return Record(
        id=draw(COUNTERS),
        state=draw(st.sampled_from([State.OPENING, State.OPEN, State.UPLOAD_CLOSED])),
        type=draw(st.integers(0, 4)),
        acl=draw(NUMBERS),
        generation=draw(COUNTERS),
        listener=draw(NUMBERS),
        client=(client, draw(PORTS)),
        addressed=draw(like_client),
        local=draw(like_client),
        server=(server, draw(PORTS)),
        peer=draw(st.none() | like_server),
        source=draw(like_server),
        interface=draw(NUMBERS),
        scope=draw(NUMBERS),
        opened=draw(COUNTERS),
        opened_wall=draw(COUNTERS),
        last=draw(COUNTERS),
        uploads=draw(COUNTERS),
        upload_bytes=draw(COUNTERS),
        downloads=draw(COUNTERS),
        download_bytes=draw(COUNTERS),
        stray=draw(COUNTERS),
        icmp=draw(COUNTERS),
        send_errors=draw(COUNTERS),
    )


@settings(max_examples=50)
@given(record=records(), slot=st.integers(0, 3))
def test_what_is_written_is_read(record: Record, slot: int) -> None:
    table = fresh()
    table.write(slot, record)
    assert table.read(slot) == record
    assert list(table.records()) == [(slot, record)]
    assert table.count_live() == 1
    assert table.state(slot) is record.state


RECORD = Record(
    id=1, state=State.OPENING, client=(b"\x0a\0\0\1", 4000), addressed=b"\x0a\0\0\2",
    local=b"\x0a\0\0\2", server=(b"\x0a\0\0\3", 53), source=(bytes(4), 0), last=5,
)  # fmt: skip


def test_the_steps_of_a_session() -> None:
    table = fresh()
    table.write(1, RECORD)
    table.open(1, (b"\x0a\0\0\4", 50000))
    opened = replace(RECORD, state=State.OPEN, source=(b"\x0a\0\0\4", 50000))
    assert table.read(1) == opened
    table.pin(1, (b"\x0a\0\0\5", 69))
    table.set_rule(1, 3, 1 << 60)
    table.set_state(1, State.UPLOAD_CLOSED)
    assert table.read(1) == replace(
        opened, state=State.UPLOAD_CLOSED, peer=(b"\x0a\0\0\5", 69), acl=3, generation=1 << 60
    )
    table.free(1)
    assert table.read(1) is None
    assert table.state(1) is State.FREE
    assert list(table.records()) == []
    assert table.count_live() == 0


def test_the_later_of_two_moments_is_the_last() -> None:
    table = fresh()
    table.write(0, RECORD)
    byte = table.at(0) * 8
    t.CARRIED.pack_into(table.memory, byte + t.LAST_DOWNLOAD * 8, 9, 2, 200)
    record = table.read(0)
    assert record == replace(RECORD, last=9, downloads=2, download_bytes=200)
    t.CARRIED.pack_into(table.memory, byte + t.LAST_UPLOAD * 8, 11, 3, 300)
    assert table.read(0) == replace(record, last=11, uploads=3, upload_bytes=300)


@pytest.mark.parametrize("slot", range(4))
def test_slots_do_not_touch_each_other(slot: int) -> None:
    table = fresh()
    before = bytes(table.memory)
    table.write(slot, replace(RECORD, id=(1 << 64) - 1))
    table.free(slot)
    after = bytes(table.memory)
    begin = t.HEADER_SIZE + slot * t.RECORD_SIZE
    assert before[:begin] == after[:begin]
    assert before[begin + t.RECORD_SIZE :] == after[begin + t.RECORD_SIZE :]


def test_a_half_written_record_is_nobodys() -> None:
    table = fresh()
    table.write(2, RECORD)
    table.open(2, (b"\x0a\0\0\4", 50000))
    table.words[table.at(2)] |= 1
    assert table.read(2) is None
    assert table.state(2) is State.OPENING
    assert list(table.records()) == []
    assert table.count_live() == 1
    table.free(2)
    assert table.state(2) is State.FREE
    table.write(2, RECORD)
    assert table.read(2) == RECORD


class WriterAtWork:
    """The words as a reader sees them while somebody else writes: never twice the same."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._steps = 0

    def __getitem__(self, index: int) -> int:
        self._steps += 2
        return int(self._words[index]) + self._steps


def test_a_reader_gives_up_on_a_record_that_never_rests() -> None:
    table = fresh()
    table.write(0, RECORD)
    table.words = cast("memoryview[int]", WriterAtWork(table.words))
    assert table.read(0) is None


def test_numbers_are_never_used_twice() -> None:
    memory = memoryview(bytearray(t.size(4)))
    table = Table(memory, 4, fresh=True)
    assert [table.new_id() for _ in range(3)] == [1, 2, 3]
    assert Table(memory, 4, fresh=False).new_id() == 4


def test_totals_and_figures() -> None:
    table = fresh()
    assert set(table.totals()) == set(t.TOTALS)
    assert not any(table.totals().values())
    table.count("evicted")
    table.count("upload-bytes", 40)
    live = replace(
        RECORD, uploads=1, upload_bytes=2, downloads=3, download_bytes=4, stray=5, icmp=6
    )
    table.write(0, live)
    assert table.totals()["upload-bytes"] == 40
    wanted = {
        "evicted": 1, "upload-datagrams": 1, "upload-bytes": 42, "download-datagrams": 3,
        "download-bytes": 4, "stray-replies": 5, "icmp-errors": 6, "drops-sessions": 0,
        "sessions-ended": 0,
    }  # fmt: skip
    assert {name: table.figures()[name] for name in wanted} == wanted
    table.add(replace(live, drops=7))
    table.free(0)
    wanted |= {"sessions-ended": 1, "drops-sessions": 7}
    assert {name: table.figures()[name] for name in wanted} == wanted
    assert table.figures() == table.totals()


def test_another_server_is_another_end_of_ours_and_no_peer() -> None:
    table = fresh()
    table.write(0, RECORD)
    table.open(0, (b"\x0a\0\0\4", 50000))
    table.pin(0, (b"\x0a\0\0\5", 69))
    before = table.read(0)
    assert before is not None
    server, source = (b"\xfd" + bytes(15), 53), (b"\xfd" + bytes(14) + b"\1", 50001)
    table.redirect(0, server, source)
    assert table.read(0) == replace(before, server=server, source=source, peer=None)


def test_the_sessions_of_some_rules() -> None:
    table = fresh()
    for slot, acl in ((0, 1), (1, 2), (3, 1)):
        table.write(slot, replace(RECORD, acl=acl, generation=slot))
    assert table.of_rules({1}) == [0, 3]
    assert table.of_rules({1, 2}) == [0, 1, 3]
    assert table.of_rules({0}) == []
    table.free(0)
    assert table.of_rules({1}) == [3]


def test_another_layout_is_not_read() -> None:
    memory = memoryview(bytearray(t.size(4)))
    with pytest.raises(WrongLayout, match="layout"):
        Table(memory, 4, fresh=False)
    Table(memory, 4, fresh=True)
    assert t.capacity_of(memory) == 4
    with pytest.raises(WrongLayout, match="size"):
        Table(memory, 3, fresh=False)
    with pytest.raises(WrongLayout, match="cannot hold"):
        Table(memory[:-1], 4, fresh=False)
    for broken in (memory[:-1], memory[:100], memoryview(b"")):
        with pytest.raises(WrongLayout):
            t.capacity_of(broken)
    memory[8] ^= 1
    with pytest.raises(WrongLayout):
        t.capacity_of(memory)


def test_a_table_can_change_its_size() -> None:
    memory = memoryview(bytearray(t.size(8)))
    table = Table(memory, 8, fresh=True)
    table.write(1, RECORD)
    table.resize(4)
    assert t.capacity_of(memory) == 4
    assert table.count_live() == 1
    table.resize(8)
    table.write(7, RECORD)
    assert [slot for slot, _ in Table(memory, 8, fresh=False).records()] == [1, 7]


def test_another_table_goes_on_counting() -> None:
    before, after = fresh(), fresh(2)
    before.count("sessions-opened", 7)
    before.count("upload-bytes", (1 << 64) - 1)
    before.words[t.STARTS], before.words[t.NEXT_ID] = 3, 41
    after.go_on_counting(before)
    assert after.totals()["sessions-opened"] == 7
    assert after.totals()["upload-bytes"] < 1 << 63  # it was written over
    assert (after.words[t.STARTS], after.new_id(), after.capacity) == (3, 41, 2)
    before.words[t.NEXT_ID] = 0
    after.go_on_counting(before)
    assert after.new_id() == 1


@pytest.mark.parametrize("word", [t.LAST_UPLOAD, t.LAST_DOWNLOAD])
def test_has_carried(word: int) -> None:
    table = fresh(4)
    assert not table.has_carried(10, 20)
    for moment, carried in ((9, False), (10, True), (20, True), (21, False)):
        table.words[table.at(3) + word] = moment
        assert table.has_carried(10, 20) == carried
