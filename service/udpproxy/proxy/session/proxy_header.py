"""The header before a datagram that says whose it is, as proxies write it for each other. Pure.

Version 2 of the PROXY protocol, as haproxy's proxy-protocol.txt of 2026-04-27 has it for UDP: the
header stands in every datagram, and each is read anew. Ours names the client and the address that
it wrote to, both of one family and IPv4 never as IPv6, and has the session's number as TLV 0x05 in
decimal digits, so that it stands in the server's log as SESSION stands in the record.

Read is what dnsdist and the PowerDNS recursor read, too: UDP over IPv4 or IPv6, and LOCAL. No
checksum is looked at. Another header behind the first is payload.

`spp` is the Simple Proxy Protocol of one CDN: 38 bytes, IPv4 as IPv6; servers send it back.
The native engine has the same in engine/relay/proxy_header.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

Endpoint = tuple[bytes, int]
"""Packed address and port."""

VERSION_2, SIMPLE = "v2", "spp"
KINDS = ("", VERSION_2, SIMPLE)
"""A kind's place in here is its number in the native engine; "": no header."""

LARGEST = 65_507
"""Bytes of header and payload together."""

MOST_TLVS = 64
"""Type-length-values in a header: a datagram has room for 21,000."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESS_SIZES = {0x12: 4, 0x22: 16}
_FAMILIES = {size: family for family, size in _ADDRESS_SIZES.items()}
_PORTS = struct.Struct("!HH")
_TLV = struct.Struct("!BH")
_UNIQUE_ID = 0x05
_MAPPED = bytes(10) + b"\xff\xff"

_MAGIC = b"\x56\xec"
_SPP_SIZE = 38


@dataclass(frozen=True, slots=True)
class Header:
    """`size` bytes; client and the address that it wrote to, None where a proxy speaks for itself
    (LOCAL)."""

    size: int
    client: Endpoint | None = None
    addressed: Endpoint | None = None


def parse(data: bytes) -> Header | None:
    """The header that a datagram begins with; None: it has none that we take."""
    if len(data) < _FIXED.size:
        return None
    signature, command, family, length = _FIXED.unpack_from(data)
    end = _FIXED.size + length
    if signature != _SIGNATURE or end > len(data):
        return None
    if command == _LOCAL:
        return Header(end)  # whatever it says besides is to be left out
    size = _ADDRESS_SIZES.get(family)
    if command != _PROXY or size is None:
        return None
    ports_at = _FIXED.size + 2 * size
    if ports_at + _PORTS.size > end or not _are_tlvs(data, ports_at + _PORTS.size, end):
        return None
    client, addressed = data[_FIXED.size : ports_at - size], data[ports_at - size : ports_at]
    if size == 16 and _MAPPED in (client[:12], addressed[:12]):
        return None  # the rules that name it by IPv4 would not see it
    from_port, to_port = _PORTS.unpack_from(data, ports_at)
    return Header(end, (client, from_port), (addressed, to_port))


def _are_tlvs(data: bytes, at: int, end: int) -> bool:
    for _ in range(MOST_TLVS):
        if at == end:
            return True
        if at + _TLV.size > end:
            return False
        at += _TLV.size + int(_TLV.unpack_from(data, at)[1])
    return at == end


def make(kind: str, client: Endpoint, addressed: Endpoint, number: int) -> bytes:
    """What is to stand before each datagram of the session `number`; b"" for the kind ""."""
    if kind == VERSION_2:
        return _version_2(client, addressed, number)
    return _simple(client, addressed) if kind == SIMPLE else b""


def local(kind: str) -> bytes:
    """What is to stand before a datagram of the proxy's own, such as a probe. Only version 2 has
    that: with `spp` there is always a client, so nothing stands there."""
    return _FIXED.pack(_SIGNATURE, _LOCAL, 0, 0) if kind == VERSION_2 else b""


def _version_2(client: Endpoint, addressed: Endpoint, number: int) -> bytes:
    unique = b"%d" % number
    block = b"".join(
        [
            client[0],
            addressed[0],
            _PORTS.pack(client[1], addressed[1]),
            _TLV.pack(_UNIQUE_ID, len(unique)),
            unique,
        ]
    )
    return _FIXED.pack(_SIGNATURE, _PROXY, _FAMILIES[len(client[0])], len(block)) + block


def _simple(client: Endpoint, addressed: Endpoint) -> bytes:
    ports = _PORTS.pack(client[1], addressed[1])
    return _MAGIC + _wide(client[0]) + _wide(addressed[0]) + ports


def _wide(packed: bytes) -> bytes:
    return packed if len(packed) == 16 else _MAPPED + packed


def without_simple(header: bytes, data: bytes) -> bytes:
    """A server's datagram without the header that it may have sent back, which names our client:
    two bytes of magic alone could be payload."""
    is_header = len(data) >= _SPP_SIZE and data[:18] == header[:18] and data[34:36] == header[34:36]
    return data[_SPP_SIZE:] if is_header else data
