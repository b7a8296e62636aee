"""The session table: fixed-size records in shared memory that outlive the process that relays.

Rules. The parent makes the memory, REG alone writes it, anybody may read. Slot i of the table
belongs to socket i of the pool, so a record needs no socket number. A record is valid while its
sequence number is even; the identity part is written between two steps of it. Counters and times
are single aligned 64-bit words that are written in place, so they are never half-written and
never older than the last datagram. A table of the layout before is carried over (former.py), of
another not read at all, and a record that makes no sense (sense.py) is none.
"""

from __future__ import annotations

import itertools
import secrets
import struct
from collections.abc import Callable, Container, Iterator
from dataclasses import replace

from udpproxy.proxy.session import layout, sense
from udpproxy.proxy.session.layout import RECORD_SIZE, WORDS, Record, State, of_session, record_of
from udpproxy.proxy.session.sense import Damaged

MAGIC = b"udpproxy"
LAYOUT = 2
HEADER_SIZE = 16 * RECORD_SIZE
"""So many records, and the whole is one array."""

_HEADER = struct.Struct("=8sIII4x")

# Words of the header that change.
GROWN, STARTS, NEXT_ID, STEERING, SOURCED, PORTED, BALANCE, MARKED = 3, 4, 5, 6, 8, 9, 10, 12
"""GROWN: for how many slots, from the first on, there are or were sockets: whoever looks through
the table ends there, for what is beyond was never used, and looking at it would take memory. Only
the parent writes it. STEERING: the key by which clients are divided between workers
(parent/steering.py). SOURCED: a socket towards servers may have been bound to an address
(engine/pool.py), PORTED: to a port (engine/fixed.py), MARKED: that one may give what leaves by it a
DSCP (engine/dscp.py)."""
_TOTALS_AT = 16

TOTALS = (
    "sessions-opened",
    "sessions-ended",
    "refused-by-acl",
    "refused-table-full",
    "refused-per-client",
    "refused-no-port",
    "refused-own-socket",
    "evicted",
    "upload-datagrams",
    "upload-bytes",
    "download-datagrams",
    "download-bytes",
    "stray-replies",
    "icmp-errors",
    "send-errors",
    "drops-listeners",
    "drops-sessions",
    "records-dropped",
    "sessions-lost",
    "refused-ports-kept",
    "bad-header",
    "too-long",
    "refused-no-server",
    "refused-rate",
    "dropped-rate",
    "dropped-amplification",
    "mirrored",
    "mirror-errors",
)
"""Counters of the instance, over all its sessions that have ended and all restarts of REG."""

_WORD = (1 << 64) - 1
_SENSIBLE = (1 << 63) - 1
"""A counter above was written over; those below cannot run over in our time."""


class WrongLayout(ValueError):
    """Memory that this version cannot read; its sessions start anew."""


def size(capacity: int) -> int:
    """Bytes of shared memory for `capacity` sessions."""
    return HEADER_SIZE + capacity * RECORD_SIZE


def capacity_of(memory: memoryview) -> int:
    """How many sessions the table that is there can hold; WrongLayout if it is none."""
    if len(memory) >= HEADER_SIZE:
        magic, layout, record_size, capacity = _HEADER.unpack_from(memory, 0)
        known = (magic, layout, record_size) == (MAGIC, LAYOUT, RECORD_SIZE)
        if known and len(memory) >= size(capacity):
            return int(capacity)
    raise WrongLayout("the session table has another layout")


class Table:
    """A view of the shared memory; `words` is the same memory as 64-bit numbers."""

    def __init__(self, memory: memoryview, capacity: int, *, fresh: bool) -> None:
        """`fresh` writes the header; else it must be there and fit, or WrongLayout."""
        if len(memory) < size(capacity):
            raise WrongLayout(f"{len(memory)} bytes cannot hold {capacity} sessions")
        self.capacity = capacity
        self.grown = 0
        """As the word says it; a parent, which cannot trust that, and a REG are told otherwise."""
        self.memory = memory
        self.words = memory.cast("Q")
        self.damaged: Callable[[int, str], object] = lambda slot, why: None
        """Hears of each record that is read and makes no sense."""
        if fresh:
            _HEADER.pack_into(memory, 0, MAGIC, LAYOUT, RECORD_SIZE, capacity)
            self.words[NEXT_ID] = 1
        elif capacity_of(memory) != capacity:
            raise WrongLayout("the session table has another size")
        else:
            self.grown = min(self.words[GROWN], capacity)

    def resize(self, capacity: int) -> None:
        """The memory holds that many, and slots beyond are free: the header says so, again."""
        _HEADER.pack_into(self.memory, 0, MAGIC, LAYOUT, RECORD_SIZE, capacity)
        self.capacity = capacity
        self.grow(self.grown)

    def grow(self, slots: int) -> None:
        """There are sockets for so many slots; for the parent."""
        self.grown = self.words[GROWN] = min(slots, self.capacity)

    def used(self) -> int:
        """The number of slots up to the last one with a session."""
        return len(self._states().rstrip(b"\0"))

    def balance_key(self) -> tuple[int, int]:
        """By which clients are divided between the servers of a group."""
        return self.words[BALANCE], self.words[BALANCE + 1]

    def make_balance_key(self) -> None:
        """Once, so that after a restart each client meets the same server."""
        if not any(self.balance_key()):
            for at in (BALANCE, BALANCE + 1):
                self.words[at] = secrets.randbits(64)

    def at(self, slot: int) -> int:
        """The index in `words` of the slot's first word."""
        return HEADER_SIZE // 8 + slot * WORDS

    def new_id(self) -> int:
        """The next session number, from 1, never used twice in the table's life."""
        number = self.words[NEXT_ID]
        self.words[NEXT_ID] = (number + 1) & _WORD
        return number

    def next_id(self) -> int:
        """The number that the next session will have."""
        return self.words[NEXT_ID]

    def count(self, name: str, amount: int = 1) -> None:
        """Add to one of TOTALS."""
        at = _TOTALS_AT + _TOTAL_INDEX[name]
        self.words[at] = (self.words[at] + amount) & _WORD

    def totals(self) -> dict[str, int]:
        """All of TOTALS; sessions that still live are not in the datagram counters."""
        return {name: self.words[_TOTALS_AT + i] for name, i in _TOTAL_INDEX.items()}

    def go_on_counting(self, before: Table) -> None:
        """Totals and numbers go on where another table's end."""
        for at in (STARTS, NEXT_ID, *range(_TOTALS_AT, _TOTALS_AT + len(TOTALS))):
            self.words[at] = before.words[at] & _SENSIBLE
        self.repair_ids(0)

    def write(self, slot: int, record: Record) -> None:
        """The whole record; counters as they are in it."""
        words, at = self.words, self.at(slot)
        words[at] |= 1
        layout.put_identity(self.memory, at * 8, record)
        for word, value in (
            (layout.LAST_UPLOAD, record.last),
            (layout.LAST_DOWNLOAD, 0),
            (layout.UPLOADS, record.uploads),
            (layout.UPLOAD_BYTES, record.upload_bytes),
            (layout.DOWNLOADS, record.downloads),
            (layout.DOWNLOAD_BYTES, record.download_bytes),
            (layout.STRAY, record.stray),
            (layout.ICMP, record.icmp),
            (layout.SEND_ERRORS, record.send_errors),
            (layout.ASKED, 0),
            (layout.DROPPED, record.dropped),
        ):
            words[at + word] = value
        self._done(at * 8)

    def open(self, slot: int, source: tuple[bytes, int]) -> None:
        """The session has its socket: from now on it survives whoever relays it."""
        byte = self._step(slot)
        layout.ENDPOINT_PORT.pack_into(self.memory, byte + layout.SOURCE_PORT_AT, source[1])
        layout.ENDPOINT_ADDRESS.pack_into(self.memory, byte + layout.SOURCE_AT, source[0])
        self.memory[byte + layout.STATE_AT] = State.OPEN
        self._done(byte)

    def set_source(self, slot: int, source: tuple[bytes, int]) -> None:
        """The session has another end of ours; port 0: none at this moment."""
        byte = self._step(slot)
        layout.ENDPOINT_PORT.pack_into(self.memory, byte + layout.SOURCE_PORT_AT, source[1])
        layout.ENDPOINT_ADDRESS.pack_into(self.memory, byte + layout.SOURCE_AT, source[0])
        self._done(byte)

    def pin(self, slot: int, peer: tuple[bytes, int]) -> None:
        """The session's peer is known."""
        byte = self._step(slot)
        layout.ENDPOINT_PORT.pack_into(self.memory, byte + layout.PEER_PORT_AT, peer[1])
        layout.ENDPOINT_ADDRESS.pack_into(self.memory, byte + layout.PEER_AT, peer[0])
        self.memory[byte + layout.PINNED_AT] = True
        self._done(byte)

    def redirect(
        self, slot: int, server: tuple[bytes, int], source: tuple[bytes, int], scope: int = 0
    ) -> None:
        """The session has another server, with the scope of its address, and another end of ours
        towards it; no pinned peer. Damaged, and nothing has changed, where there is no record any
        more."""
        byte = self.at(slot) * 8
        found = record_of(bytes(self.memory[byte : byte + RECORD_SIZE]))
        record = replace(found, server=server, source=source, peer=None, server_scope=scope)
        self._step(slot)
        layout.put_identity(self.memory, byte, record)
        self._done(byte)

    def set_member(self, slot: int, number: int) -> None:
        """Its server has that number, 0: it is of no group."""
        byte = self._step(slot)
        layout.MEMBER.pack_into(self.memory, byte + layout.MEMBER_AT, number)
        self._done(byte)

    def set_addressed_port(self, slot: int, port: int) -> None:
        """Which port the client wrote to."""
        byte = self._step(slot)
        layout.ENDPOINT_PORT.pack_into(self.memory, byte + layout.ADDRESSED_PORT_AT, port)
        self._done(byte)

    def set_rule(self, slot: int, rule_number: int, generation: int) -> None:
        """The session is judged by another ACL from now on."""
        byte = self._step(slot)
        layout.RULE.pack_into(self.memory, byte + layout.RULE_AT, rule_number, generation)
        self._done(byte)

    def _step(self, slot: int) -> int:
        at = self.at(slot)
        self.words[at] |= 1
        return at * 8

    def _done(self, byte: int) -> None:
        at = byte // 8
        self.words[at + sense.SUM] = sense.sum_of(bytes(self.memory[byte : byte + RECORD_SIZE]))
        self.words[at] = (self.words[at] + 1) & _WORD

    def add(self, record: Record) -> None:
        """An ended session's counters go into the totals."""
        self.count("sessions-ended")
        for name, value in zip(_TOTALS_OF_RECORD, _totals_of(record), strict=True):
            self.count(name, value)

    def figures(self) -> dict[str, int]:
        """TOTALS with what the live sessions have carried so far: some milliseconds for 100,000."""
        for _ in range(_TRIES):
            figures = self.totals()
            carried = self._carried()
            if self.totals()["sessions-ended"] == figures["sessions-ended"]:
                break  # else one was added to the totals meanwhile
        for name, value in carried.items():
            figures[name] = (figures[name] + value) & _WORD
        return figures

    def _carried(self) -> dict[str, int]:
        """A column at a time: nobody looks at single records. One that is half-written, or in the
        totals already, does not count."""
        odd = self._column(0)
        live = [
            state not in _IN_TOTALS and not sequence & 1
            for state, sequence in zip(self._states(), odd, strict=True)
        ]
        return {
            name: sum(itertools.compress(self._column(word), live))
            for name, word in _WORDS_OF_RECORD.items()
        }

    def set_state(self, slot: int, state: State) -> None:
        """A single byte: never half-written, so no step of the sequence number."""
        self.memory[self.at(slot) * 8 + layout.STATE_AT] = state

    def free(self, slot: int) -> None:
        """Forget the session of the slot."""
        byte = self._step(slot)
        self.memory[byte + layout.STATE_AT] = State.FREE
        self._done(byte)
        self.words[byte // 8 + sense.SUM] = sense.NO_RECORD

    def state(self, slot: int) -> State:
        """The slot's state; a half-written record counts as OPENING, for nobody relied on it.
        Damaged for one that there is not."""
        at = self.at(slot)
        if self.words[at] & 1:
            return State.OPENING
        state = self.memory[at * 8 + layout.STATE_AT]
        if state > max(State):
            raise Damaged(f"it has the state {state}")
        return State(state)

    def why(self, slot: int) -> str:
        """What is wrong with a record that read() does not give."""
        byte = self.at(slot) * 8
        try:
            record_of(bytes(self.memory[byte : byte + RECORD_SIZE]))
        except Damaged as problem:
            return str(problem)
        return "it is half-written"

    def repair(self, slot: int, now: int) -> None:
        """Moments to come and counters that ran over are no reason to lose a session."""
        at, words = self.at(slot), self.words
        for word in layout.CHANGING:
            words[at + word] &= _SENSIBLE
        for word in (layout.LAST_UPLOAD, layout.LAST_DOWNLOAD, layout.ASKED):
            words[at + word] = min(words[at + word], now)

    def repair_ids(self, most: int) -> None:
        """No number comes twice, though `most` is in use."""
        if not most < self.words[NEXT_ID] <= _SENSIBLE:
            self.words[NEXT_ID] = most + 1

    def read(self, slot: int) -> Record | None:
        """A consistent copy of the slot's record; None: free, half-written or damaged."""
        at = self.at(slot)
        for _ in range(3):
            before = self.words[at]
            if before & 1:
                continue
            raw = bytes(self.memory[at * 8 : at * 8 + RECORD_SIZE])
            if self.words[at] == before:
                if raw[layout.STATE_AT] == State.FREE:
                    return None
                try:
                    return record_of(raw)
                except Damaged as problem:
                    self.damaged(slot, str(problem))
                    return None
        return None

    def live(self, slot: int, number: int) -> Record:
        """For the one who writes it: the record of a session of his; Damaged."""
        byte = self.at(slot) * 8
        return of_session(bytes(self.memory[byte : byte + RECORD_SIZE]), number)

    def count_live(self) -> int:
        """How many sessions there are, by a look at all states in one go."""
        states = self._states()
        return len(states) - states.count(State.FREE)

    def records(self, first: int = 0) -> Iterator[tuple[int, Record]]:
        """Every live session with its slot, from the slot `first` on."""
        for slot, state in enumerate(self._states()[first:], first):
            if state != State.FREE and (record := self.read(slot)):
                yield slot, record

    def has_carried(self, since: int, now: int) -> bool:
        """Any datagram between these moments, for a session that there is?"""
        return any(
            since <= moment <= now
            for word in (layout.LAST_UPLOAD, layout.LAST_DOWNLOAD)
            for moment in self._column(word)
        )

    def of_rules(self, rules: set[int]) -> list[int]:
        """The slots of the live sessions of these ACLs, whatever their generation; cheap."""
        words = self._column(layout.STATE_AT // 8)
        return [slot for slot, word in enumerate(words) if word & 0xFF and word >> 32 in rules]

    def of_members(self, numbers: Container[int]) -> list[tuple[int, int]]:
        """The slots of the live sessions of these servers of groups, with the server; cheap."""
        words = self._column(layout.MEMBER_AT // 8)
        states = self._states()
        return [
            (slot, word >> 32)
            for slot, word in enumerate(words)
            if word >> 32 in numbers and states[slot] != State.FREE
        ]

    def of_other_listeners(self, known: Container[int]) -> list[int]:
        """The slots of the live sessions of listeners that are not `known`; cheap."""
        words = self._column(layout.LISTENER_AT // 8)
        return [
            slot
            for slot, (state, word) in enumerate(zip(self._states(), words, strict=True))
            if state != State.FREE and word & 0xFFFFFFFF not in known
        ]

    def _column(self, word: int) -> list[int]:
        """That word of the records of all slots that may have one."""
        first = HEADER_SIZE // 8 + word
        return self.words[first : first + self.grown * WORDS : WORDS].tolist()

    def _states(self) -> bytes:
        end = HEADER_SIZE + self.grown * RECORD_SIZE
        return bytes(self.memory[HEADER_SIZE + layout.STATE_AT : end : RECORD_SIZE])


_TOTALS_OF_RECORD = (
    "upload-datagrams",
    "upload-bytes",
    "download-datagrams",
    "download-bytes",
    "stray-replies",
    "icmp-errors",
    "drops-sessions",
)
_WORDS_OF_RECORD = {
    "upload-datagrams": layout.UPLOADS,
    "upload-bytes": layout.UPLOAD_BYTES,
    "download-datagrams": layout.DOWNLOADS,
    "download-bytes": layout.DOWNLOAD_BYTES,
    "stray-replies": layout.STRAY,
    "icmp-errors": layout.ICMP,
}
_IN_TOTALS = frozenset({State.FREE, State.CLOSING})
_TRIES = 3
_TOTAL_INDEX = {name: i for i, name in enumerate(TOTALS)}


def _totals_of(record: Record) -> tuple[int, ...]:
    return (
        record.uploads,
        record.upload_bytes,
        record.downloads,
        record.download_bytes,
        record.stray,
        record.icmp,
        record.drops,
    )
