"""A session table of the layout before this one, carried over: an upgrade keeps the sessions.

Layout 1: a header of 4,096 bytes, records of 256. What a record says of its session is the first
part of today's, what is new is 0 there; counters and times have moved. The old memory is only
read: whoever dies meanwhile finds it again.
"""

from __future__ import annotations

import struct
import zlib

from udpproxy.proxy.session import layout, sense
from udpproxy.proxy.session.layout import RECORD_SIZE, WORDS
from udpproxy.proxy.session.table import HEADER_SIZE, MAGIC, Table, WrongLayout, size

LAYOUT = 1

_HEADER_SIZE, _RECORD_SIZE = 4096, 256
_HEADER = struct.Struct("=8sIII4x")
_KEPT_OF_HEADER = range(4, 64)
"""Words of the header that say the same in both: how often it was started, numbers, totals."""

_IDENTITY = slice(0, 168)
_STATE, _SUM = 16, 248
_SUMMED = 1 << 32

# Words that have moved, and where to.
_MOVED = {
    21: layout.LAST_UPLOAD,
    22: layout.UPLOADS,
    23: layout.UPLOAD_BYTES,
    24: layout.LAST_DOWNLOAD,
    25: layout.DOWNLOADS,
    26: layout.DOWNLOAD_BYTES,
    27: layout.STRAY,
    28: layout.ICMP,
    29: layout.SEND_ERRORS,
    30: layout.DROPS_BASE,
}


def capacity_of(memory: memoryview) -> int:
    """How many sessions a table of the layout before can hold; WrongLayout if it is none."""
    if len(memory) >= _HEADER_SIZE:
        magic, number, record_size, capacity = _HEADER.unpack_from(memory, 0)
        known = (magic, number, record_size) == (MAGIC, LAYOUT, _RECORD_SIZE)
        if known and len(memory) >= _HEADER_SIZE + capacity * _RECORD_SIZE:
            return int(capacity)
    raise WrongLayout("the session table has another layout")


def carry_over(before: memoryview, memory: memoryview) -> Table:
    """A table in `memory`, which has `size` of the same capacity and is all zero, of what is in
    `before`. Damage stays damage: nothing is made whole that was not."""
    capacity = capacity_of(before)
    table = Table(memory[: size(capacity)], capacity, fresh=True)
    former = before[:_HEADER_SIZE].cast("Q")
    for word in _KEPT_OF_HEADER:
        table.words[word] = former[word]
    table.grow(capacity)  # each had its sockets from the start
    for slot in range(capacity):
        at = _HEADER_SIZE + slot * _RECORD_SIZE
        if before[at + _STATE] or before[at]:
            start = HEADER_SIZE + slot * RECORD_SIZE
            memory[start : start + RECORD_SIZE] = _record(bytes(before[at : at + _RECORD_SIZE]))
    return table


def _record(former: bytes) -> bytes:
    record = bytearray(RECORD_SIZE)
    record[_IDENTITY] = former[_IDENTITY]
    words = struct.unpack("=32Q", former)
    moved = memoryview(record).cast("Q")
    assert len(moved) == WORDS
    for word, place in _MOVED.items():
        moved[place] = words[word]
    right = words[-1] in (0, _former_sum(former))
    moved[sense.SUM] = sense.sum_of(bytes(record)) if right else sense.NO_RECORD
    return bytes(record)


def _former_sum(former: bytes) -> int:
    identity = bytearray(former[8 : _IDENTITY.stop])
    identity[_STATE - 8] = 0
    return zlib.crc32(identity) | _SUMMED
