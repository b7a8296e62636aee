"""Whether a record of the table can be one: memory may have been written over.

A sum over the identity part stands in the record's last word. Without it a changed bit in a
client's address would send replies to somebody else. 0: written by a version that had no sums.
"""

from __future__ import annotations

import zlib

SUM = 39
"""The word of a record that holds its sum."""
NO_RECORD = (1 << 64) - 1
"""The sum of a record that nobody shall read: it fits nothing."""

IDENTITY = slice(8, 208)
"""The bytes of a record that the sum is over."""

_STATE = 16
_SUMMED = 1 << 32
_STATES, _TYPES = 5, 5
_SIZES = {4, 16}


class Damaged(ValueError):
    """A record that we cannot have written: that session is lost, and no other."""


def sum_of(raw: bytes) -> int:
    """What its last word has to be. The state is left out: it changes by itself."""
    identity = bytearray(raw[IDENTITY])
    identity[_STATE - IDENTITY.start] = 0
    return zlib.crc32(identity) | _SUMMED


def check(
    raw: bytes, state: int, kind: int, client_size: int, server_size: int, via_size: int
) -> None:
    """Damaged for what cannot be."""
    if state >= _STATES:
        raise Damaged(f"it has the state {state}")
    written = int.from_bytes(raw[SUM * 8 : SUM * 8 + 8], "little")
    if written and written != sum_of(raw):
        raise Damaged("its sum is wrong")
    if {client_size, server_size, via_size or client_size} - _SIZES:
        raise Damaged("its addresses have no possible length")
    if kind >= _TYPES:
        raise Damaged(f"it has the type {kind}")
