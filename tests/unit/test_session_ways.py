"""Ways of sessions by columns: the same as record by record."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from session_records import RECORD, records
from udpproxy.proxy.session import table as t
from udpproxy.proxy.session.layout import GOING_ON, Record, State
from udpproxy.proxy.session.table import Table
from udpproxy.proxy.session.ways import Way, ways


def _table(*found: Record | None) -> Table:
    table = Table(memoryview(bytearray(t.size(len(found)))), len(found), fresh=True)
    table.grow(len(found))
    for slot, record in enumerate(found):
        if record is not None:
            table.write(slot, record)
    return table


def _one_by_one(table: Table, slots: range) -> dict[Way, list[int]]:
    found: dict[Way, list[int]] = {}
    for slot in slots:
        record = table.read(slot)
        if record is None or record.state not in GOING_ON:
            continue
        if record.type > 1 and record.peer is None:
            continue
        server, port = record.peer or record.server
        source = record.source[0] if record.source[1] else b""
        way = Way(server, port, record.server_scope, source)
        found.setdefault(way, []).append(slot)
    return found


@settings(deadline=None)
@given(st.lists(st.none() | records(), min_size=1, max_size=8), st.data())
def test_the_same_as_one_by_one(found: list[Record | None], data: st.DataObject) -> None:
    table = _table(*found)
    slots = range(
        first := data.draw(st.integers(0, len(found) - 1)),
        data.draw(st.integers(first + 1, len(found))),
    )
    assert ways(table, slots) == _one_by_one(table, slots)


def test_sessions_of_one_way_are_together() -> None:
    table = _table(RECORD, None, RECORD)
    for slot in (0, 2):
        table.open(slot, (b"\x0a\0\0\1", 4000 + slot))
    way = Way(b"\x0a\0\0\3", 53, 0, b"\x0a\0\0\1")
    assert ways(table, range(3)) == {way: [0, 2]}
    table.set_source(2, (b"", 0))
    assert ways(table, range(3)) == {way: [0], way._replace(source=b""): [2]}
    table.set_state(0, State.CLOSING)
    assert ways(table, range(2)) == {}


def test_what_no_address_can_be_is_left_out() -> None:
    """A relay gone bad may write anything."""
    table = _table(replace(RECORD, state=State.OPEN, source=(bytes(4), 9)))
    assert len(ways(table, range(1))) == 1
    table.memory[table.at(0) * 8 + 19] = 7  # the length of the server's address
    assert ways(table, range(1)) == {}
