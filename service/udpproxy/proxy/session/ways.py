"""The ways that sessions go: by which address of ours to which server. A column of the table is
read at a time, for a hundred thousand records one by one would take a second."""

from __future__ import annotations

import struct
from typing import NamedTuple

from udpproxy.proxy.session.layout import GOING_ON, WORDS
from udpproxy.proxy.session.table import HEADER_SIZE, Table

_SIZES = (4, 16)
_CONNECTED = (0, 1)
"""Types whose socket has a peer from the start: normal and one-way."""
_STATE, _PORTS, _OWN, _SERVER, _PEER, _SOURCE, _SCOPE = 2, 4, 5, 12, 14, 16, 24
_ADDRESS = struct.Struct("=2Q")


class Way(NamedTuple):
    """`source` is empty where the session has no end of ours at this moment."""

    server: bytes
    port: int
    scope: int
    source: bytes


def ways(table: Table, slots: range) -> dict[Way, list[int]]:
    """Of the sessions in these slots whose socket has a peer. The table may change meanwhile: look
    at a session's record again before anything is done with it."""
    first = HEADER_SIZE // 8 + slots.start * WORDS
    end = HEADER_SIZE // 8 + slots.stop * WORDS

    def column(word: int) -> list[int]:
        return table.words[first + word : end : WORDS].tolist()

    found: dict[tuple[int, ...], list[int]] = {}
    rows = zip(
        column(_STATE),
        column(_PORTS),
        column(_OWN),
        *(column(word + half) for word in (_SERVER, _PEER, _SOURCE) for half in (0, 1)),
        column(_SCOPE),
        strict=True,
    )
    for slot, (state, ports, own, *server_peer_source, scope) in zip(slots, rows, strict=True):
        pinned, size = own >> 32 & 0xFF, state >> 24 & 0xFF
        if state & 0xFF not in GOING_ON or not (pinned or state >> 8 & 0xFF in _CONNECTED):
            continue
        if size not in _SIZES:  # whoever relays may have written anything
            continue
        at = 2 if pinned else 0
        port = own >> 16 & 0xFFFF if pinned else ports >> 48
        way = (
            size,
            *server_peer_source[at : at + 2],
            port,
            scope >> 32,
            *(server_peer_source[4:] if own & 0xFFFF else ()),
        )
        found.setdefault(way, []).append(slot)
    return {_way(*words): its for words, its in found.items()}


def _way(size: int, high: int, low: int, port: int, scope: int, *source: int) -> Way:
    server = _ADDRESS.pack(high, low)[:size]
    return Way(server, port, scope, _ADDRESS.pack(*source)[:size] if source else b"")
