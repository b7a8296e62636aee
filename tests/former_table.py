"""A session table as version 0.1.0 wrote it, layout 1: what an upgrade finds."""

from __future__ import annotations

import struct
import zlib

from udpproxy.proxy.session import layout
from udpproxy.proxy.session import table as t
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.table import Table

HEADER_SIZE, RECORD_SIZE = 4096, 256
SUM = 248
_STATE = 16
_MOVED = (
    layout.LAST_UPLOAD, layout.UPLOADS, layout.UPLOAD_BYTES,
    layout.LAST_DOWNLOAD, layout.DOWNLOADS, layout.DOWNLOAD_BYTES,
    layout.STRAY, layout.ICMP, layout.SEND_ERRORS, layout.DROPS_BASE,
)  # fmt: skip
"""Of today's words those that stood in words 21 to 30."""


def former(table: Table) -> bytearray:
    """The same sessions, as that version had them."""
    memory = bytearray(HEADER_SIZE + table.capacity * RECORD_SIZE)
    struct.pack_into("=8sIII", memory, 0, b"udpproxy", 1, RECORD_SIZE, table.capacity)
    memory[32:512] = table.memory[32:512]
    for slot in range(table.capacity):
        at = table.at(slot)
        start = HEADER_SIZE + slot * RECORD_SIZE
        memory[start : start + 168] = table.memory[at * 8 : at * 8 + 168]
        words = [table.words[at + word] for word in _MOVED]
        struct.pack_into("=10Q", memory, start + 168, *words)
        put_sum(memory, slot)
    return memory


def former_of(capacity: int, records: dict[int, Record]) -> bytearray:
    """These sessions, by slot."""
    table = Table(memoryview(bytearray(t.size(capacity))), capacity, fresh=True)
    table.grow(capacity)
    for slot, record in records.items():
        table.write(slot, record)
    return former(table)


def put_sum(memory: bytearray, slot: int) -> None:
    """The one that fits the record."""
    start = HEADER_SIZE + slot * RECORD_SIZE
    identity = bytearray(memory[start + 8 : start + 168])
    identity[_STATE - 8] = 0
    struct.pack_into("=Q", memory, start + SUM, zlib.crc32(identity) | 1 << 32)
