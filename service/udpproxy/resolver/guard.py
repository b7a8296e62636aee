"""Looks at a DNS message before dnspython does, so that no bytes are dear to parse.

- Length, number of records, every name that will be read: bounded; pointers at most 16 in a row
  and strictly backwards.
- The sum of labels and pointers over all names is bounded too, and with it the time taken here
  and in dnspython.
- Records and EDNS options that nobody here reads become opaque (a private type number over
  theirs, in place), so dnspython's other hundred parsers never see a stranger's bytes.
- The verdict is a value. Nothing is raised.
"""

from __future__ import annotations

import enum
import struct

UDP_LIMIT = 1232
"""As our queries advertise: fits one datagram on every path."""
TCP_LIMIT = 8192
RECORDS = 64
HOPS = 16
LABELS = 48
"""An IPv6 address backwards has 34; dnspython's time for a name grows with the square."""
WORK = 1024
"""Labels and pointers, each name counted whole: enough for 64 addresses of a name of 14 labels,
or 23 names of one IPv6 address; then dnspython needs at most some milliseconds."""

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_PAIR = struct.Struct("!HH")
_NAME_OCTETS = 255
_OPTION_WORK = 16
_IN = 1
_OPT = 41
# Types that are read: how many names stand in the data, and how many octets after them.
_SHAPES = {1: (0, 4), 28: (0, 16), 2: (1, 0), 5: (1, 0), 12: (1, 0), 6: (2, 20)}
_PRIVATE = b"\xff\x78"  # 65400, private use both as record type and as EDNS option


class Refusal(enum.Enum):
    """Why a message is not worth parsing."""

    LONG = "too long"
    CUT = "ends too early"
    COUNTS = "not one question, or too many records"
    NAME = "impossible name"
    RECORD = "data does not fit its type"
    WORK = "too much to read"
    TRAILING = "octets after the end"


class _Refused(Exception):
    """Carries the verdict out of the walk; never leaves this module."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


class _Walk:
    """One pass over a message; `out` is its copy with the unread made opaque."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._work = WORK
        self.out = bytearray(data)

    def message(self) -> None:
        _, _, questions, *others = _HEADER.unpack_from(self._data)
        if questions != 1 or sum(others) > RECORDS:
            raise _Refused(Refusal.COUNTS)
        position = self._name(_HEADER.size) + _PAIR.size
        for _ in range(sum(others)):
            position = self._record(position)
        if position < len(self._data):
            raise _Refused(Refusal.TRAILING)
        if position > len(self._data):
            raise _Refused(Refusal.CUT)

    def _record(self, start: int) -> int:
        position = self._name(start)
        kind, domain, _, size = _RECORD.unpack_from(self._data, position)
        body = position + _RECORD.size
        end: int = body + size
        if end > len(self._data):
            raise _Refused(Refusal.CUT)
        if kind == _OPT:
            self._options(body, end)
        elif domain == _IN and kind in _SHAPES:
            names, tail = _SHAPES[kind]
            for _ in range(names):
                body = self._name(body)
            if body + tail != end:
                raise _Refused(Refusal.RECORD)
        else:
            # The class too: dnspython looks on disk once for every pair of class and type.
            self.out[position : position + 4] = _PRIVATE + _IN.to_bytes(2, "big")
        return end

    def _options(self, start: int, end: int) -> None:
        while start < end:
            _, size = _PAIR.unpack_from(self._data, start)
            self.out[start : start + 2] = _PRIVATE
            start += _PAIR.size + size
            self._spend(_OPTION_WORK)
        if start != end:
            raise _Refused(Refusal.RECORD)

    def _name(self, start: int) -> int:
        """Walk the name at `start` wherever its pointers lead; the offset behind it."""
        data = self._data
        position = limit = start
        end = octets = hops = steps = 0
        while size := data[position]:
            steps += 1
            if size < 64:
                octets += size + 1
                position += size + 1
                if octets >= _NAME_OCTETS or steps - hops > LABELS:
                    raise _Refused(Refusal.NAME)
                continue
            end = end or position + 2
            hops += 1
            target = (size & 63) << 8 | data[position + 1]
            if size < 192 or hops > HOPS or not _HEADER.size <= target < limit:
                raise _Refused(Refusal.NAME)
            position = limit = target
        self._spend(steps + 1)
        return end or position + 1

    def _spend(self, steps: int) -> None:
        self._work -= steps
        if self._work < 0:
            raise _Refused(Refusal.WORK)


def screen(data: bytes, limit: int) -> bytes | Refusal:
    """The message as it may be parsed, of the same length, or why it may not."""
    if len(data) > limit:
        return Refusal.LONG
    walk = _Walk(data)
    try:
        walk.message()
    except _Refused as refused:
        return refused.refusal
    except (IndexError, struct.error):
        return Refusal.CUT
    return bytes(walk.out)
