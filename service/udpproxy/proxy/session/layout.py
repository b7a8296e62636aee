"""One session as it stands in the table: where its parts are in the bytes of a record.

docs/table.md says what each word is for; the native engine has the same in engine/relay/table.h.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.session import sense
from udpproxy.proxy.session.sense import Damaged

RECORD_SIZE = 320
WORDS = RECORD_SIZE // 8

_IDENTITY = struct.Struct("=QBBBBIQIHHHHB3x16s16s16s16s16s16sIIQQHHI16sIIB7x")
_IDENTITY_AT = 8
_EVENTS = struct.Struct("=3Q")
_COUNT = struct.Struct("=Q")
CARRIED = struct.Struct("=3Q")
"""Moment, datagrams and bytes of one direction, as they stand together in a record."""

# Where single parts of the identity stand, in bytes from the record's start.
STATE_AT, RULE_AT, LISTENER_AT, SOURCE_PORT_AT, PEER_PORT_AT, PINNED_AT = 16, 20, 32, 40, 42, 44
PEER_AT, SOURCE_AT, ADDRESSED_PORT_AT, MEMBER_AT = 112, 128, 168, 172
RULE = struct.Struct("=IQ")
MEMBER = struct.Struct("=I")
ENDPOINT_PORT = struct.Struct("=H")
ENDPOINT_ADDRESS = struct.Struct("=16s")

# Words of a record that change while the session lives, counted from its first word. What changes
# with each datagram stands together, so that one call writes it, and in one line of the cache.
STRAY, ICMP, SEND_ERRORS, DROPS_BASE, ASKED, DROPPED = 26, 27, 28, 29, 30, 31
LAST_UPLOAD, UPLOADS, UPLOAD_BYTES = 32, 33, 34
LAST_DOWNLOAD, DOWNLOADS, DOWNLOAD_BYTES = 35, 36, 37
CHANGING = range(STRAY, DOWNLOAD_BYTES + 1)

_BROADCAST = list(SessionType).index(SessionType.BROADCAST)


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
    rule_number: int = 0
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
    addressed_port: int = 0
    via: tuple[bytes, int] | None = None
    """Who sends the client's datagrams and gets the replies, behind a PROXY header."""
    member: int = 0
    """The server's number in its group; 0: the rule has no group."""
    spare: int = 0
    """The socket that took the place of the slot's own; 0: none did."""
    server_scope: int = 0
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
    dropped: int = 0
    """Datagrams over a rate or the amplification."""


def of_session(raw: bytes, number: int) -> Record:
    """The record of a session that is under way, from a copy of it; Damaged if it is none."""
    if raw[0] & 1:
        raise Damaged("it is half-written")
    record = record_of(raw)
    if record.state not in GOING_ON:
        raise Damaged(f"it has the state {int(record.state)}")
    if record.id != number:
        raise Damaged("it is another session's")
    return record


def put_identity(memory: memoryview, byte: int, record: Record) -> None:
    """What does not change with each datagram, into the record that starts there."""
    _IDENTITY.pack_into(memory, byte + _IDENTITY_AT, *_identity_of(record))


def _identity_of(record: Record) -> tuple[int | bytes, ...]:
    peer, via = record.peer or (b"", 0), record.via or (b"", 0)
    if record.network and record.type == _BROADCAST and not record.peer:
        # It never has one, and so there is room.
        peer = b"".join(record.network), int(record.any_port)
    return (
        record.id,
        record.state,
        record.type,
        len(record.client[0]),
        len(record.server[0]),
        record.rule_number,
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
        record.addressed_port,
        via[1],
        record.member,
        via[0],
        record.spare,
        record.server_scope,
        len(via[0]),
    )


def record_of(raw: bytes) -> Record:
    """What stands in these bytes; Damaged if no session can."""
    (
        number, state, kind, client_size, server_size, rule_number, generation, listener,
        client_port, server_port, source_port, peer_port, pinned,
        client, addressed, local, server, peer, source,
        interface, scope, opened, opened_wall,
        addressed_port, via_port, member, via, spare, server_scope, via_size,
    ) = _IDENTITY.unpack_from(raw, _IDENTITY_AT)  # fmt: skip
    sense.check(raw, state, kind, client_size, server_size, via_size)
    open_to = kind == _BROADCAST and not pinned and any(peer)
    stray, icmp, send_errors = _EVENTS.unpack_from(raw, STRAY * 8)
    (dropped,) = _COUNT.unpack_from(raw, DROPPED * 8)
    last_upload, uploads, upload_bytes = CARRIED.unpack_from(raw, LAST_UPLOAD * 8)
    last_download, downloads, download_bytes = CARRIED.unpack_from(raw, LAST_DOWNLOAD * 8)
    return Record(
        number, State(state), kind, rule_number, generation, listener,
        (client[:client_size], client_port), addressed[:client_size],
        local[:via_size or client_size],
        (server[:server_size], server_port),
        (peer[:server_size], peer_port) if pinned else None,
        (peer[:4], peer[4:8]) if open_to else None, bool(open_to and peer_port),
        (source[:server_size], source_port), interface, scope, addressed_port,
        (via[:via_size], via_port) if via_size else None, member, spare, server_scope,
        opened, opened_wall, max(last_upload, last_download),
        uploads, upload_bytes, downloads, download_bytes, stray, icmp, send_errors,
        dropped=dropped,
    )  # fmt: skip
