"""The table: what is written is read, and what is half-written is nobody's."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session_records import RECORD, records
from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.session import layout, sense
from udpproxy.proxy.session import table as t
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.sense import Damaged
from udpproxy.proxy.session.table import Table, WrongLayout


def fresh(capacity: int = 4) -> Table:
    table = Table(memoryview(bytearray(t.size(capacity))), capacity, fresh=True)
    table.grow(capacity)
    return table


@settings(max_examples=50)
@given(record=records(), slot=st.integers(0, 3))
def test_what_is_written_is_read(record: Record, slot: int) -> None:
    table = fresh()
    table.write(slot, record)
    assert table.read(slot) == record
    assert list(table.records()) == [(slot, record)]
    assert table.count_live() == 1
    assert table.state(slot) is record.state


def test_the_steps_of_a_session() -> None:
    table = fresh()
    table.write(1, RECORD)
    table.open(1, (b"\x0a\0\0\4", 50000))
    opened = replace(RECORD, state=State.OPEN, source=(b"\x0a\0\0\4", 50000))
    assert table.read(1) == opened
    table.pin(1, (b"\x0a\0\0\5", 69))
    table.set_rule(1, 3, 1 << 60)
    table.set_addressed_port(1, 514)
    table.set_state(1, State.UPLOAD_CLOSED)
    assert table.read(1) == replace(
        opened,
        state=State.UPLOAD_CLOSED,
        peer=(b"\x0a\0\0\5", 69),
        rule_number=3,
        generation=1 << 60,
        addressed_port=514,
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
    layout.CARRIED.pack_into(table.memory, byte + layout.LAST_DOWNLOAD * 8, 9, 2, 200)
    record = table.read(0)
    assert record == replace(RECORD, last=9, downloads=2, download_bytes=200)
    layout.CARRIED.pack_into(table.memory, byte + layout.LAST_UPLOAD * 8, 11, 3, 300)
    assert table.read(0) == replace(record, last=11, uploads=3, upload_bytes=300)


@pytest.mark.parametrize("slot", range(4))
def test_slots_do_not_touch_each_other(slot: int) -> None:
    table = fresh()
    before = bytes(table.memory)
    table.write(slot, replace(RECORD, id=(1 << 64) - 1))
    table.free(slot)
    after = bytes(table.memory)
    begin = t.HEADER_SIZE + slot * layout.RECORD_SIZE
    assert before[:begin] == after[:begin]
    assert before[begin + layout.RECORD_SIZE :] == after[begin + layout.RECORD_SIZE :]


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


SUM = sense.SUM * 8
DAMAGES = {
    "it has the state 9": (layout.STATE_AT, 9, 1),
    "its sum is wrong": (SUM, 1, 1),
    "its addresses have no possible length": (18, 5, 1),
    "it has the type 7": (17, 7, 1),
}


@pytest.mark.parametrize("why", DAMAGES)
def test_a_record_that_makes_no_sense_is_nobodys(why: str) -> None:
    table = fresh()
    said: list[tuple[int, str]] = []
    table.damaged = lambda slot, problem: said.append((slot, problem))
    table.write(2, replace(RECORD, state=State.OPEN))
    at, value, size = DAMAGES[why]
    byte = table.at(2) * 8
    table.memory[byte + at : byte + at + size] = value.to_bytes(size, "little")
    if "sum" not in why:  # one that fits, so that only what is asked for is wrong
        raw = bytes(table.memory[byte : byte + layout.RECORD_SIZE])
        table.words[table.at(2) + sense.SUM] = sense.sum_of(raw)
    assert table.read(2) is None
    assert said == [(2, why)]
    assert table.why(2) == why
    with pytest.raises(Damaged, match=why):
        table.live(2, RECORD.id)
    if "state" in why:
        with pytest.raises(Damaged, match=why):
            table.state(2)
    table.words[table.at(2)] |= 1
    table.words[table.at(2) + sense.SUM] = 0
    assert table.state(2) is State.OPENING


def test_why_a_whole_record_is_not_given() -> None:
    table = fresh()
    table.write(0, RECORD)
    table.words[table.at(0)] |= 1
    assert table.read(0) is None
    assert table.why(0) == "it is half-written"


def test_a_version_without_sums_is_believed() -> None:
    table = fresh()
    table.write(0, RECORD)
    table.words[table.at(0) + sense.SUM] = 0
    assert table.read(0) == RECORD


@pytest.mark.parametrize("state", State)
def test_the_record_of_ones_own_session(state: State) -> None:
    table = fresh()
    mine = replace(RECORD, state=state)
    table.write(1, mine)
    if state in layout.GOING_ON:
        assert table.live(1, RECORD.id) == mine
        with pytest.raises(Damaged, match="another session's"):
            table.live(1, RECORD.id + 1)
    else:
        with pytest.raises(Damaged, match=f"the state {int(state)}"):
            table.live(1, RECORD.id)
    table.words[table.at(1)] |= 1
    with pytest.raises(Damaged, match="half-written"):
        table.live(1, RECORD.id)


BROADCAST = list(SessionType).index(SessionType.BROADCAST)
NETWORK = (b"\x0a\0\0\0", b"\x0a\0\0\xff")


@pytest.mark.parametrize("any_port", [False, True])
def test_who_may_reply_to_a_broadcast_stands_in_the_record(*, any_port: bool) -> None:
    table = fresh()
    record = replace(RECORD, type=BROADCAST, network=NETWORK, any_port=any_port)
    table.write(0, record)
    assert table.read(0) == record
    # Other types have a peer there, and no network.
    table.write(1, replace(record, type=0))
    assert table.read(1) == RECORD


def test_what_runs_over_is_put_right() -> None:
    table = fresh()
    table.write(0, replace(RECORD, uploads=(1 << 63) + 5))
    for word in (layout.LAST_UPLOAD, layout.LAST_DOWNLOAD):
        table.words[table.at(0) + word] = 2000
    table.repair(0, 1000)
    assert table.read(0) == replace(RECORD, uploads=5, last=1000)
    table.repair_ids(70)
    assert table.new_id() == 71
    table.repair_ids(70)
    assert table.new_id() == 72


def test_another_end_of_ours() -> None:
    table = fresh()
    table.write(0, RECORD)
    table.set_source(0, (b"\x0a\0\0\4", 50001))
    assert table.read(0) == replace(RECORD, source=(b"\x0a\0\0\4", 50001))


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


class Busy(Table):
    """Its sessions end while they are summed up, so many times."""

    ends = 0

    def _carried(self) -> dict[str, int]:
        carried = super()._carried()
        if self.ends:
            self.ends -= 1
            self.add(replace(RECORD, uploads=1))
            self.free(0)
            self.write(0, replace(RECORD, uploads=1))
        return carried


@pytest.mark.parametrize(("ends", "uploads"), [(1, 2), (9, None)])
def test_figures_of_a_table_whose_sessions_end_meanwhile(ends: int, uploads: int | None) -> None:
    """Nothing twice, as long as it does not go on and on."""
    table = Busy(memoryview(bytearray(t.size(1))), 1, fresh=True)
    table.grow(1)
    table.ends = ends
    table.write(0, replace(RECORD, uploads=1))
    figures = table.figures()
    assert figures["sessions-ended"] <= 3
    assert uploads is None or figures["upload-datagrams"] == uploads


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
        table.write(slot, replace(RECORD, rule_number=acl, generation=slot))
    assert table.of_rules({1}) == [0, 3]
    assert table.of_rules({1, 2}) == [0, 1, 3]
    assert table.of_rules({0}) == []
    table.free(0)
    assert table.of_rules({1}) == [3]


def test_the_sessions_of_listeners_that_are_gone() -> None:
    table = fresh()
    for slot, listener in ((0, 1), (1, (1 << 32) - 1), (3, 7)):
        table.write(slot, replace(RECORD, listener=listener, state=State.OPEN))
    assert table.of_other_listeners({1, 7}) == [1]
    assert table.of_other_listeners(set()) == [0, 1, 3]
    table.free(0)
    assert table.of_other_listeners({(1 << 32) - 1, 7}) == []
    assert [slot for slot, _ in table.records(2)] == [3]


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
    table.grow(6)
    table.write(1, RECORD)
    table.resize(4)
    assert t.capacity_of(memory) == 4
    assert (table.count_live(), table.grown) == (1, 4)
    table.resize(8)
    assert table.grown == 4
    table.grow(8)
    table.write(7, RECORD)
    assert [slot for slot, _ in Table(memory, 8, fresh=False).records()] == [1, 7]


def test_nobody_looks_beyond_the_slots_that_have_sockets() -> None:
    memory = memoryview(bytearray(t.size(8)))
    table = Table(memory, 8, fresh=True)
    for slot in (0, 2, 7):
        table.write(slot, replace(RECORD, rule_number=1, uploads=1, last=5))
    assert (list(table.records()), table.count_live(), table.used()) == ([], 0, 0)
    table.grow(7)
    for reader in (table, Table(memory, 8, fresh=False)):
        assert reader.grown == 7
        assert [slot for slot, _ in reader.records()] == [0, 2]
        assert [slot for slot, _ in reader.records(1)] == [2]
        assert (reader.count_live(), reader.used()) == (2, 3)
        assert reader.of_rules({1}) == [0, 2]
        assert reader.of_other_listeners(set()) == [0, 2]
        assert reader.figures()["upload-datagrams"] == 2
        assert reader.has_carried(5, 5)
    # Whoever may write there says what he likes.
    memory[8 * t.GROWN : 8 * t.GROWN + 8] = b"\xff" * 8
    assert Table(memory, 8, fresh=False).grown == 8
    assert table.grown == 7
    table.resize(8)
    assert table.words[t.GROWN] == 7
    table.grow(9)
    assert table.grown == table.words[t.GROWN] == 8


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


@pytest.mark.parametrize("word", [layout.LAST_UPLOAD, layout.LAST_DOWNLOAD])
def test_has_carried(word: int) -> None:
    table = fresh(4)
    assert not table.has_carried(10, 20)
    for moment, carried in ((9, False), (10, True), (20, True), (21, False)):
        table.words[table.at(3) + word] = moment
        assert table.has_carried(10, 20) == carried


def test_figures_leave_out_what_is_no_session() -> None:
    """One that is half-written, one that the totals have already, one that has gone."""
    table = fresh()
    for slot in range(4):
        table.write(slot, replace(RECORD, id=slot + 1, uploads=10**slot, icmp=1))
    assert table.figures()["upload-datagrams"] == 1111
    table.free(0)
    table.set_state(1, State.CLOSING)
    table.words[table.at(2)] |= 1
    assert table.figures()["upload-datagrams"] == 1000
    assert table.figures()["icmp-errors"] == 1
