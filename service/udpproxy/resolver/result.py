"""What a look-up is about and how it ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from udpproxy.config.model import Address, NameServer


class Family(enum.Enum):
    """Which addresses of a name are wanted."""

    BOTH = "both"
    V4 = "v4"
    V6 = "v6"


class Kind(enum.IntEnum):
    """The record types that are asked for, by their number in DNS; look-ups want A, AAAA and PTR,
    the others are for probes."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33


class Failure(enum.Enum):
    """Why there is no answer; the value is the word for logs."""

    TIMEOUT = "timeout"
    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    FORMERR = "formerr"
    RCODE = "rcode"
    """A response code that has no word of its own here."""
    REFERRAL = "referral"
    """The server does not resolve, it only names other servers."""
    MALFORMED = "malformed"
    UNREACHABLE = "unreachable"
    """No route, ICMP port unreachable, TCP refused, no descriptor: nothing was said."""
    OVERLOAD = "overload"
    """Too many look-ups at once; nobody was asked."""
    BAD_NAME = "bad-name"
    """The name cannot stand in DNS; nobody was asked."""


DEFINITE = frozenset({Failure.NXDOMAIN, Failure.NODATA})
"""Failures that are the zone's own word, not somebody's trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The end of one look-up.

    ttl is seconds, clamped; 0 with a failure means that nothing was said about it.
    """

    name: str
    """As it was asked for."""
    found: str = ""
    """The whole name that was asked when the answer came: differs where the search list did it."""
    addresses: tuple[Address, ...] = ()
    """In the order of the answer, A before AAAA."""
    names: tuple[str, ...] = ()
    """Lower case, no final dot."""
    ttl: float = 0.0
    failure: Failure | None = None
    partial: Failure | None = None
    """Why the other family's addresses are not known, although this family's are."""
    server: NameServer | None = None
    """Who gave the answer, or who failed last."""
    duration: float = 0.0
    ignored: int = 0
    """Datagrams that were no answer: forged, late or broken."""
