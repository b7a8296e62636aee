"""The session table: fixed-size records in shared memory that outlive the process that relays.

Rules. The parent makes the memory, REG alone writes it, anybody may read. Slot i of the table
belongs to socket i of the pool, so a record needs no socket number. A record is valid while its
sequence number is even; the identity part is written between two steps of it. Counters and times
are single aligned 64-bit words that are written in place, so they are never half-written and
never older than the last datagram. A table of another layout is not read at all, and a record
that makes no sense (sense.py) is none.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from udpproxy.config.model import SessionType
from udpproxy.session import sense
from udpproxy.session.sense import Damaged

MAGIC = b"udpproxy"
LAYOUT = 1
HEADER_SIZE = 4096
RECORD_SIZE = 256
WORDS = RECORD_SIZE // 8

_HEADER = struct.Struct("=8sIII4x")
_IDENTITY = struct.Struct("=QBBBBIQIHHHHB3x16s16s16s16s16s16sIIQQ")
_IDENTITY_AT = 8
_CHANGING = struct.Struct("=9Q")
CARRIED = struct.Struct("=3Q")
"""Moment, datagrams and bytes of one direction, as they stand together in a record."""

# Where single parts of the identity stand, in bytes from the record's start.
_STATE_AT, _RULE_AT, _SOURCE_PORT_AT, _PEER_PORT_AT, _PINNED_AT = 16, 20, 40, 42, 44
_PEER_AT, _SOURCE_AT = 112, 128
_RULE = struct.Struct("=IQ")
_ENDPOINT_PORT = struct.Struct("=H")
_ENDPOINT_ADDRESS = struct.Struct("=16s")

# Words of the header that change.
STARTS, NEXT_ID, STEERING = 4, 5, 6
"""STEERING: the key by which clients are divided between workers (parent/steering.py)."""
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
)
"""Counters of the instance, over all its sessions that have ended and all restarts of REG."""

# Words of a record that change while the session lives, counted from its first word. What changes
# with each datagram stands together, so that one call writes it.
LAST_UPLOAD, UPLOADS, UPLOAD_BYTES = 21, 22, 23
LAST_DOWNLOAD, DOWNLOADS, DOWNLOAD_BYTES = 24, 25, 26
STRAY, ICMP, SEND_ERRORS, DROPS_BASE = 27, 28, 29, 30

_BROADCAST = list(SessionType).index(SessionType.BROADCAST)

_WORD = (1 << 64) - 1
_SENSIBLE = (1 << 63) - 1
"""A counter above was written over; those below cannot run over in our time."""


class State(enum.IntEnum):
    """OPENING and CLOSING are seen by a reader only if the writer died there."""

    FREE = 0
    OPENING = 1
    OPEN = 2
    UPLOAD_CLOSED = 3
    CLOSING = 4


GOING_ON = (State.OPEN, State.UPLOAD_CLOSED)


@dataclass(slots=True)
class Record:
    """One session as it stands in the table; addresses packed, unused ones empty."""

    id: int = 0
    state: State = State.FREE
    type: int = 0
    acl: int = 0
    generation: int = 0
    listener: int = 0
    client: tuple[bytes, int] = (b"", 0)
    addressed: bytes = b""
    local: bytes = b""
    """The address replies leave from: `addressed`, or the interface's own for a broadcast."""
    server: tuple[bytes, int] = (b"", 0)
    peer: tuple[bytes, int] | None = None
    """The pinned sender of any-port and any-sock sessions."""
    network: tuple[bytes, bytes] | None = None
    any_port: bool = False
    """Who may reply in broadcast sessions, IPv4 only: between which addresses, from which ports."""
    source: tuple[bytes, int] = (b"", 0)
    """Our own address and port towards the server."""
    interface: int = 0
    scope: int = 0
    opened: int = 0
    opened_wall: int = 0
    last: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    download_bytes: int = 0
    stray: int = 0
    icmp: int = 0
    send_errors: int = 0
    drops: int = 0


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
        self.memory = memory
        self.words = memory.cast("Q")
        self.damaged: Callable[[int, str], object] = lambda slot, why: None
        """Hears of each record that is read and makes no sense."""
        if fresh:
            _HEADER.pack_into(memory, 0, MAGIC, LAYOUT, RECORD_SIZE, capacity)
            self.words[NEXT_ID] = 1
        elif capacity_of(memory) != capacity:
            raise WrongLayout("the session table has another size")

    def resize(self, capacity: int) -> None:
        """The memory holds that many, and slots beyond are free: the header says so, again."""
        _HEADER.pack_into(self.memory, 0, MAGIC, LAYOUT, RECORD_SIZE, capacity)
        self.capacity = capacity

    def at(self, slot: int) -> int:
        """The index in `words` of the slot's first word."""
        return HEADER_SIZE // 8 + slot * WORDS

    def new_id(self) -> int:
        """The next session number, from 1, never used twice in the table's life."""
        number = self.words[NEXT_ID]
        self.words[NEXT_ID] = (number + 1) & _WORD
        return number

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
        _IDENTITY.pack_into(self.memory, at * 8 + _IDENTITY_AT, *_identity(record))
        for word, value in (
            (LAST_UPLOAD, record.last),
            (LAST_DOWNLOAD, 0),
            (UPLOADS, record.uploads),
            (UPLOAD_BYTES, record.upload_bytes),
            (DOWNLOADS, record.downloads),
            (DOWNLOAD_BYTES, record.download_bytes),
            (STRAY, record.stray),
            (ICMP, record.icmp),
            (SEND_ERRORS, record.send_errors),
        ):
            words[at + word] = value
        self._done(at * 8)

    def open(self, slot: int, source: tuple[bytes, int]) -> None:
        """The session has its socket: from now on it survives whoever relays it."""
        byte = self._step(slot)
        _ENDPOINT_PORT.pack_into(self.memory, byte + _SOURCE_PORT_AT, source[1])
        _ENDPOINT_ADDRESS.pack_into(self.memory, byte + _SOURCE_AT, source[0])
        self.memory[byte + _STATE_AT] = State.OPEN
        self._done(byte)

    def set_source(self, slot: int, source: tuple[bytes, int]) -> None:
        """The session has another end of ours; port 0: none at this moment."""
        byte = self._step(slot)
        _ENDPOINT_PORT.pack_into(self.memory, byte + _SOURCE_PORT_AT, source[1])
        _ENDPOINT_ADDRESS.pack_into(self.memory, byte + _SOURCE_AT, source[0])
        self._done(byte)

    def pin(self, slot: int, peer: tuple[bytes, int]) -> None:
        """The session's peer is known."""
        byte = self._step(slot)
        _ENDPOINT_PORT.pack_into(self.memory, byte + _PEER_PORT_AT, peer[1])
        _ENDPOINT_ADDRESS.pack_into(self.memory, byte + _PEER_AT, peer[0])
        self.memory[byte + _PINNED_AT] = True
        self._done(byte)

    def redirect(self, slot: int, server: tuple[bytes, int], source: tuple[bytes, int]) -> None:
        """The session has another server, and another end of ours towards it; no pinned peer.
        Damaged, and nothing has changed, where there is no record any more."""
        byte = self.at(slot) * 8
        found = _record(bytes(self.memory[byte : byte + RECORD_SIZE]))
        record = replace(found, server=server, source=source, peer=None)
        self._step(slot)
        _IDENTITY.pack_into(self.memory, byte + _IDENTITY_AT, *_identity(record))
        self._done(byte)

    def set_rule(self, slot: int, acl: int, generation: int) -> None:
        """The session is judged by another ACL from now on."""
        byte = self._step(slot)
        _RULE.pack_into(self.memory, byte + _RULE_AT, acl, generation)
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
        """TOTALS with what the live sessions have carried so far."""
        figures = self.totals()
        for _, record in self.records():
            for name, value in zip(_TOTALS_OF_RECORD, _totals_of(record), strict=True):
                figures[name] = (figures[name] + value) & _WORD
        return figures

    def set_state(self, slot: int, state: State) -> None:
        """A single byte: never half-written, so no step of the sequence number."""
        self.memory[self.at(slot) * 8 + _STATE_AT] = state

    def free(self, slot: int) -> None:
        """Forget the session of the slot."""
        byte = self._step(slot)
        self.memory[byte + _STATE_AT] = State.FREE
        self._done(byte)
        self.words[byte // 8 + sense.SUM] = sense.NO_RECORD

    def state(self, slot: int) -> State:
        """The slot's state; a half-written record counts as OPENING, for nobody relied on it.
        Damaged for one that there is not."""
        at = self.at(slot)
        if self.words[at] & 1:
            return State.OPENING
        state = self.memory[at * 8 + _STATE_AT]
        if state > max(State):
            raise Damaged(f"it has the state {state}")
        return State(state)

    def why(self, slot: int) -> str:
        """What is wrong with a record that read() does not give."""
        byte = self.at(slot) * 8
        try:
            _record(bytes(self.memory[byte : byte + RECORD_SIZE]))
        except Damaged as problem:
            return str(problem)
        return "it is half-written"

    def repair(self, slot: int, now: int) -> None:
        """Moments to come and counters that ran over are no reason to lose a session."""
        at, words = self.at(slot), self.words
        for word in range(LAST_UPLOAD, DROPS_BASE + 1):
            words[at + word] &= _SENSIBLE
        for word in (LAST_UPLOAD, LAST_DOWNLOAD):
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
                if raw[_STATE_AT] == State.FREE:
                    return None
                try:
                    return _record(raw)
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
        return self.capacity - self._states().count(State.FREE)

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every live session with its slot."""
        for slot, state in enumerate(self._states()):
            if state != State.FREE and (record := self.read(slot)):
                yield slot, record

    def has_carried(self, since: int, now: int) -> bool:
        """Any datagram between these moments, for a session that there is?"""
        first = HEADER_SIZE // 8
        end = first + self.capacity * WORDS
        return any(
            since <= moment <= now
            for word in (LAST_UPLOAD, LAST_DOWNLOAD)
            for moment in self.words[first + word : end : WORDS].tolist()
        )

    def of_rules(self, acls: set[int]) -> list[int]:
        """The slots of the live sessions of these ACLs, whatever their generation; cheap."""
        first = HEADER_SIZE // 8 + _STATE_AT // 8
        words = self.words[first : first + self.capacity * WORDS : WORDS].tolist()
        return [slot for slot, word in enumerate(words) if word & 0xFF and word >> 32 in acls]

    def _states(self) -> bytes:
        end = HEADER_SIZE + self.capacity * RECORD_SIZE
        return bytes(self.memory[HEADER_SIZE + _STATE_AT : end : RECORD_SIZE])


_TOTALS_OF_RECORD = (
    "upload-datagrams",
    "upload-bytes",
    "download-datagrams",
    "download-bytes",
    "stray-replies",
    "icmp-errors",
    "drops-sessions",
)
_TOTAL_INDEX = {name: i for i, name in enumerate(TOTALS)}


def of_session(raw: bytes, number: int) -> Record:
    """The record of a session that is under way, from a copy of it; Damaged if it is none."""
    if raw[0] & 1:
        raise Damaged("it is half-written")
    record = _record(raw)
    if record.state not in GOING_ON:
        raise Damaged(f"it has the state {int(record.state)}")
    if record.id != number:
        raise Damaged("it is another session's")
    return record


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


def _identity(record: Record) -> tuple[int | bytes, ...]:
    peer = record.peer or (b"", 0)
    if record.network and record.type == _BROADCAST and not record.peer:
        # It never has one, and so there is room.
        peer = b"".join(record.network), int(record.any_port)
    return (
        record.id,
        record.state,
        record.type,
        len(record.client[0]),
        len(record.server[0]),
        record.acl,
        record.generation,
        record.listener,
        record.client[1],
        record.server[1],
        record.source[1],
        peer[1],
        record.peer is not None,
        record.client[0],
        record.addressed,
        record.local,
        record.server[0],
        peer[0],
        record.source[0],
        record.interface,
        record.scope,
        record.opened,
        record.opened_wall,
    )


def _record(raw: bytes) -> Record:
    (
        number, state, kind, client_size, server_size, acl, generation, listener,
        client_port, server_port, source_port, peer_port, pinned,
        client, addressed, local, server, peer, source,
        interface, scope, opened, opened_wall,
    ) = _IDENTITY.unpack_from(raw, _IDENTITY_AT)  # fmt: skip
    sense.check(raw, state, kind, client_size, server_size)
    open_to = kind == _BROADCAST and not pinned and any(peer)
    last_up, uploads, up_bytes, last_down, *counters = _CHANGING.unpack_from(raw, LAST_UPLOAD * 8)
    return Record(
        number, State(state), kind, acl, generation, listener,
        (client[:client_size], client_port), addressed[:client_size], local[:client_size],
        (server[:server_size], server_port),
        (peer[:server_size], peer_port) if pinned else None,
        (peer[:4], peer[4:8]) if open_to else None, bool(open_to and peer_port),
        (source[:server_size], source_port), interface, scope, opened, opened_wall,
        max(last_up, last_down), uploads, up_bytes, *counters,
    )  # fmt: skip
