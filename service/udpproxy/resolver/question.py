"""What to ask for a name or an address: the whole names in their order, and the record types."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

import dns.exception
import dns.name
import dns.reversename

from udpproxy.config.model import Address
from udpproxy.resolver.result import Family, Kind

_HOST_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,63}")
_KINDS = {
    Family.BOTH: (Kind.A, Kind.AAAA),
    Family.V4: (Kind.A,),
    Family.V6: (Kind.AAAA,),
}
_LOOPBACK = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """One look-up to be: candidates empty and nothing known means the name is impossible."""

    text: str
    candidates: tuple[dns.name.Name, ...]
    kinds: tuple[Kind, ...]
    known: tuple[Address, ...] = ()


def is_host(name: dns.name.Name) -> bool:
    """Letters, digits, hyphen, underscore: what may be logged, matched and asked for."""
    labels = [label for label in name.labels if label]
    return bool(labels) and all(_HOST_LABEL.fullmatch(label) for label in labels)


def forward(text: str, search: Iterable[str], family: Family) -> Wanted:
    """The addresses of a name.

    A final dot: only as it is. A dot inside: as it is, then with the search list. No dot: the
    search list first, as the C library does (ndots:1).
    """
    kinds = _KINDS[family]
    name = _parse(text)
    if name is None:
        return Wanted(text, (), kinds)
    if name.relativize(dns.name.root).labels[-1].lower() == b"localhost":
        return Wanted(text, (), kinds, _loopback(kinds))
    if name.is_absolute():
        return Wanted(text, (name,), kinds)
    whole = _joined(name, ".")
    searched = [_joined(name, domain) for domain in search]
    order = [whole, *searched] if len(name.labels) > 1 else [*searched, whole]
    unique = dict.fromkeys(candidate for candidate in order if candidate is not None)
    return Wanted(text, tuple(unique), kinds)


def reverse(address: Address) -> Wanted:
    """The names of an address."""
    bare = str(address).partition("%")[0]
    return Wanted(bare, (dns.reversename.from_address(bare),), (Kind.PTR,))


def _parse(text: str) -> dns.name.Name | None:
    try:
        name = dns.name.from_text(text, origin=None)
    except (dns.exception.DNSException, ValueError):
        return None
    return name if is_host(name) else None


def _joined(name: dns.name.Name, domain: str) -> dns.name.Name | None:
    """None: together they are too long, or the domain is none."""
    try:
        return name.concatenate(dns.name.from_text(domain))
    except (dns.exception.DNSException, ValueError):
        return None


def _loopback(kinds: tuple[Kind, ...]) -> tuple[Address, ...]:
    # RFC 6761: nobody is asked, since a server that answers otherwise is wrong or hostile.
    versions = {Kind.A: 4, Kind.AAAA: 6}
    wanted = {versions[kind] for kind in kinds}
    return tuple(address for address in _LOOPBACK if address.version in wanted)
