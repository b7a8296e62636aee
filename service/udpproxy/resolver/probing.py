"""What a probe sends, and what it takes for an answer. Pure.

- Only the server can know what a probe has: DNS a random ID, NTP a random timestamp. Bytes that the
  file gives have nothing of the kind; there the fresh port has to do.
- A datagram that is no answer to this very probe says nothing, and waiting goes on. One that is,
  and says that the server cannot serve, ends it.
- Answers are compared as bytes and never parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from udpproxy.resolver.assignment import Probed

if TYPE_CHECKING:
    from udpproxy.resolver.codec import Query

Judge = Callable[[bytes], str | None]
"""Of a datagram from the server: "" where it is well, else why it is not; None: no answer."""

Attempt = tuple[bytes, Judge]
"""What is sent, and who judges what comes."""

_DNS_HEADER = 12
_RESPONSE = 0x80
_OPCODE_AND_QR = 0xF8
_RCODES = {1: "formerr", 2: "servfail", 4: "notimp", 5: "refused"}
_WELL = (0, 3)
"""NOERROR and NXDOMAIN: it has looked."""

_NTP_SIZE = 48
_CLIENT = 0x23
"""No leap second is known of, version 4, mode 3 (RFC 5905)."""
_SERVER_MODE = 4
_UNSYNCHRONISED = 3
_MOST_STRATUM = 15
_REFERENCE, _ORIGIN, _TRANSMIT = slice(12, 16), slice(24, 32), slice(40, 48)


def maker(probe: Probed, rng: Random) -> Callable[[], Attempt]:
    """Makes each probe of this server."""
    if probe.ntp:
        return partial(_ntp, probe.header, rng)
    if probe.dns:
        return partial(_dns, probe.header, _question(probe.dns, rng), rng)
    return partial(_raw, probe.header + probe.send, partial(_judge_raw, probe.expect))


def _raw(data: bytes, judge: Judge) -> Attempt:
    return data, judge


def _judge_raw(expect: bytes, data: bytes) -> str | None:
    return "" if expect in data else None


def _question(words: str, rng: Random) -> Query:
    # Only now: who has no such probe need not carry the DNS library.
    import dns.name

    from udpproxy.resolver import codec
    from udpproxy.resolver.result import Kind

    name, kind = words.split(" ")
    # Without EDNS, which some do not understand and nobody needs for this.
    return codec.query(dns.name.from_text(name), Kind[kind], rng, edns=False)


def _dns(header: bytes, template: Query, rng: Random) -> Attempt:
    number = rng.getrandbits(16).to_bytes(2, "big")
    asked = replace(template, wire=number + template.wire[2:])
    return header + asked.wire, partial(_judge_dns, asked)


def _judge_dns(asked: Query, data: bytes) -> str | None:
    from udpproxy.resolver import codec

    if len(data) < _DNS_HEADER or data[:2] != asked.wire[:2]:
        return None
    if data[2] & _OPCODE_AND_QR != _RESPONSE:
        return None
    # Who folds the letter case of the question lives as well. Who refuses may leave it out.
    repeated = codec.echo(asked, data) is not codec.Echo.STRANGER
    code = data[3] & 0x0F
    if code in _WELL:
        return "" if repeated else None
    bare = data[4:6] == b"\0\0"
    return _RCODES.get(code, f"rcode {code}") if repeated or bare else None


def _ntp(header: bytes, rng: Random) -> Attempt:
    cookie = rng.getrandbits(64).to_bytes(8, "big")
    packet = bytes([_CLIENT]) + bytes(_TRANSMIT.start - 1) + cookie
    return header + packet, partial(_judge_ntp, cookie)


def _judge_ntp(cookie: bytes, data: bytes) -> str | None:
    if len(data) < _NTP_SIZE or data[0] & 7 != _SERVER_MODE or data[_ORIGIN] != cookie:
        return None
    stratum, leap = data[1], data[0] >> 6
    if stratum == 0 and data[_REFERENCE].isalnum():
        return f"kiss of death: {data[_REFERENCE].decode('ascii')}"
    synchronised = 1 <= stratum <= _MOST_STRATUM and leap != _UNSYNCHRONISED
    return "" if synchronised else "not synchronised"
