"""What names need of the session table: sessions of a rule, and another server."""

from __future__ import annotations

from dataclasses import replace

from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.table import Table, size

RECORD = Record(
    id=1, state=State.OPEN, rule_number=3, generation=9, listener=1, client=(b"\x0a\0\0\1", 99),
    addressed=b"\x0a\0\0\2", local=b"\x0a\0\0\2", server=(b"\x0a\0\0\3", 53),
    source=(b"\x0a\0\0\4", 50000), last=5,
)  # fmt: skip


def table(capacity: int = 8) -> Table:
    table = Table(memoryview(bytearray(size(capacity))), capacity, fresh=True)
    table.grow(capacity)
    return table


def test_the_sessions_of_some_rules() -> None:
    given = table()
    assert given.of_rules({0, 3}) == []
    given.write(2, RECORD)
    given.write(5, replace(RECORD, id=2, rule_number=0, type=4))
    given.write(7, replace(RECORD, id=3, rule_number=70_000, state=State.UPLOAD_CLOSED))
    assert given.of_rules({3}) == [2]
    assert given.of_rules({0, 70_000}) == [5, 7]
    assert given.of_rules({1}) == []
    given.free(5)
    assert given.of_rules({0}) == []


def test_another_server_in_another_family() -> None:
    given = table()
    given.write(2, replace(RECORD, peer=(b"\x0a\0\0\3", 54), uploads=7))
    server, source = (bytes(15) + b"\1", 5353), (bytes(15) + b"\2", 40000)
    given.redirect(2, server, source)
    found = given.read(2)
    assert found is not None
    assert (found.server, found.source, found.peer) == (server, source, None)
    assert (found.id, found.client, found.uploads) == (1, RECORD.client, 7)
