"""Questions to bytes, bytes to answers; dnspython does the format, the rules are here.

- A query has a random ID and random letter case (0x20). What does not repeat both, and the
  type, is compared as bytes and never parsed.
- Addresses that are not those of one host (0.0.0.0, multicast, IPv4 mapped into IPv6) are not
  there: a name with nothing else has none.
- Only the answer section's own chain counts: at most 8 aliases, its smallest TTL.
- Nothing a server sends raises.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from dataclasses import dataclass
from random import Random

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.OPT import OPT  # noqa: F401 - loaded now, as dnspython loads a type when met
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from udpproxy.config.addresses import is_one_host
from udpproxy.config.model import Address
from udpproxy.resolver import guard
from udpproxy.resolver.question import is_host
from udpproxy.resolver.result import Failure, Kind

ALIASES = 8
_HEADER = 12
_TAIL = 4  # type and class of the question
_FAILURES = {
    dns.rcode.SERVFAIL: Failure.SERVFAIL,
    dns.rcode.REFUSED: Failure.REFUSED,
    # Each may mean "EDNS is new to me", and is then asked again without.
    dns.rcode.FORMERR: Failure.FORMERR,
    dns.rcode.NOTIMP: Failure.FORMERR,
    dns.rcode.BADVERS: Failure.FORMERR,
}
# The last ones are no part of its interface, but a codec must not be the one that crashes.
_UNREADABLE = (
    dns.exception.DNSException,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


class Echo(enum.Enum):
    """How far a message repeats the question."""

    STRANGER = enum.auto()
    FOLDED = enum.auto()
    """Everything but the letter case: a server that folds it, or a good guess."""
    EXACT = enum.auto()


@dataclass(frozen=True, slots=True)
class Query:
    """A question as it is sent; `end` is the offset behind its question section."""

    name: dns.name.Name
    kind: Kind
    wire: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; a failure may have a TTL as well. 0: it gave none, or 0."""

    failure: Failure | None = None
    addresses: tuple[Address, ...] = ()
    names: tuple[str, ...] = ()
    ttl: int = 0


def query(name: dns.name.Name, kind: Kind, rng: Random, *, edns: bool) -> Query:
    cased = dns.name.Name(_mixed(label, rng) for label in name.labels)
    message = dns.message.make_query(
        cased,
        dns.rdatatype.RdataType(kind),
        use_edns=0 if edns else False,
        payload=guard.UDP_LIMIT if edns else None,
        id=rng.getrandbits(16),
    )
    end = _HEADER + sum(len(label) + 1 for label in cased.labels) + _TAIL
    return Query(name, kind, message.to_wire(), end)


def _mixed(label: bytes, rng: Random) -> bytes:
    if not label:
        return label
    bits = rng.getrandbits(len(label))
    upper, lower = label.upper(), label.lower()
    return bytes(
        pair[bits >> place & 1] for place, pair in enumerate(zip(upper, lower, strict=True))
    )


def echo(asked: Query, data: bytes) -> Echo:
    """Is this a response (QR set, opcode 0) to that very question?"""
    known = asked.wire
    if len(data) < asked.end or data[:2] != known[:2] or data[2] & 0xF8 != 0x80:
        return Echo.STRANGER
    question = data[4:6] + data[_HEADER : asked.end]
    expected = known[4:6] + known[_HEADER : asked.end]
    if question == expected:
        return Echo.EXACT
    # Lengths, type and class are below "A", so folding changes letters only.
    return Echo.FOLDED if question.lower() == expected.lower() else Echo.STRANGER


def is_truncated(data: bytes) -> bool:
    return bool(data[2] & 0x02)


def read(asked: Query, data: bytes, limit: int) -> Answer | None:
    """The answer in a message that repeats the question; None: it cannot be read."""
    screened = guard.screen(data, limit)
    if isinstance(screened, guard.Refusal):
        return None
    try:
        message = dns.message.from_wire(screened)
        return _judged(asked, message)
    except _UNREADABLE:
        return None


def _judged(asked: Query, message: dns.message.Message) -> Answer:
    rcode = message.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(_FAILURES.get(rcode, Failure.RCODE))
    name = asked.name
    ttls: list[int] = []
    for _ in range(ALIASES + 1):
        found = _records(message, name, dns.rdatatype.RdataType(asked.kind))
        if found is not None and rcode == dns.rcode.NOERROR:
            return _positive(found, min([found.ttl, *ttls]))
        alias = _records(message, name, dns.rdatatype.CNAME)
        if alias is None:
            return _negative(message, rcode, ttls)
        ttls.append(alias.ttl)
        name = next(record.target for record in alias if isinstance(record, CNAME))
    return Answer(Failure.MALFORMED)


def _records(
    message: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
) -> dns.rrset.RRset | None:
    return message.get_rrset(message.answer, name, dns.rdataclass.IN, kind)


def _positive(found: dns.rrset.RRset, ttl: int) -> Answer:
    told = [ipaddress.ip_address(rec.address) for rec in found if isinstance(rec, A | AAAA)]
    addresses = [address for address in told if is_one_host(address)]
    targets = [record.target for record in found if isinstance(record, PTR)]
    names = [target.to_text(omit_final_dot=True).lower() for target in targets if is_host(target)]
    if not addresses and not names:
        # Only what no host can have; to the caller that is as good as nothing.
        return Answer(Failure.NODATA, ttl=ttl)
    return Answer(addresses=tuple(addresses), names=tuple(names), ttl=ttl)


def _negative(message: dns.message.Message, rcode: dns.rcode.Rcode, ttls: list[int]) -> Answer:
    authority = [(record, rrset.ttl) for rrset in message.authority for record in rrset]
    told = [min(ttl, record.minimum) for record, ttl in authority if isinstance(record, SOA)]
    ttl = min(told + ttls) if told else 0
    if rcode == dns.rcode.NXDOMAIN:
        return Answer(Failure.NXDOMAIN, ttl=ttl)
    referred = any(isinstance(record, NS) for record, _ in authority)
    if referred and not told and not message.answer:
        return Answer(Failure.REFERRAL)
    return Answer(Failure.NODATA, ttl=ttl)
