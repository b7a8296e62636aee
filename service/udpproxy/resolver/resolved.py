"""What processes tell each other of names: one value, one form on a link, one set of bounds.

Rules. Whoever hears of names reads them here, the parent too. What does not fit costs that name
only and is never handed on:
- a name has at most 253 characters, a final dot aside, and 128 addresses; clients have at most 8
  names;
- a TTL is a number from 0; more than a week counts as a week;
- an address is that of one host: see config.addresses.is_one_host.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from udpproxy.config.addresses import is_one_host
from udpproxy.config.model import Address
from udpproxy.errors import LinkError
from udpproxy.process import wire
from udpproxy.process.wire import Plain
from udpproxy.resolver.bounds import MOST_NAMES

MOST_ADDRESSES = 128
"""64 of each family: as many as one answer is believed."""
LONGEST_NAME = 253
LONGEST_TTL = 604_800.0
"""A week: no answer of another process holds for longer."""
PART = 64_000
"""Bytes of names in one message: far below what a packet can carry, and quickly read."""

_SHOWN = 16
_LONGEST_ADDRESS = 45
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A name in the configuration, with no address where it has none. `ttl` is the seconds for
    which that was promised, 0 where nobody promised anything."""

    name: str
    addresses: tuple[Address, ...] = ()
    ttl: float = 0.0

    def plain(self) -> list[Plain]:
        """As it goes over a link: ACR tells many, APR answers with one."""
        return [self.name, [str(each) for each in self.addresses[:MOST_ADDRESSES]], self.ttl]


@dataclass(frozen=True, slots=True)
class ClientNames:
    """A client's verified names; it is certain that it has just these, perhaps none."""

    names: tuple[str, ...]
    ttl: float

    def plain(self) -> dict[str, Plain]:
        """As APR answers it."""
        return {"names": [*self.names[:MOST_NAMES]], "ttl": self.ttl}


@dataclass(slots=True)
class Heard:
    """The last word on each name; how many words did not fit, and why the first did not."""

    words: dict[str, Resolved] = field(default_factory=dict)
    refused: int = 0
    why: str = ""

    def refuse(self, why: object) -> None:
        """One more that does not fit."""
        self.why = self.why or str(why)
        self.refused += 1


def parts(words: Iterable[Resolved]) -> Iterator[list[Plain]]:
    """All of them, in messages of a bounded length."""
    part: list[Plain] = []
    length = 0
    for word in words:
        item = word.plain()
        size = len(wire.encode(wire.Tell("", {"": item})))
        if part and length + size > PART:
            yield part
            part, length = [], 0
        part.append(item)
        length += size
    if part:
        yield part


def read(told: Plain, wanted: Container[str] | None = None) -> Heard:
    """Names as another process tells them; None: whatever they are."""
    heard = Heard()
    if not isinstance(told, list):
        heard.refuse("no list of names")
        return heard
    for item in told:
        try:
            word = _word(item)
        except LinkError as problem:
            heard.refuse(problem)
            continue
        if wanted is None or word.name in wanted:
            heard.words[word.name] = word
        else:
            heard.refuse(f"{word.name!r:.100} is not asked for")
    return heard


def read_answer(name: str, value: Plain) -> Resolved:
    """APR's, for a server's name; LinkError where it is none to that name."""
    word = _word(value)
    if word.name != name:
        raise LinkError(f"{word.name!r:.100} is not asked for")
    return word


def read_client(value: Plain) -> ClientNames:
    """APR's answer for a client; LinkError where it is none."""
    match value:
        case {"names": list(names), "ttl": ttl} if len(names) <= MOST_NAMES:
            return ClientNames(tuple(map(_host, names)), _ttl(ttl))
        case _:
            raise LinkError(f"no list of at most {MOST_NAMES} names with a ttl")


def read_address(value: Plain) -> Address:
    """A single one, of whatever kind; LinkError where it is none."""
    if not isinstance(value, str) or len(value) > _LONGEST_ADDRESS:
        raise LinkError("no address")
    try:
        return ip_address(value)
    except ValueError:
        raise LinkError(f"{value!r} is no address") from None


def text(addresses: tuple[Address, ...]) -> str:
    """For the log: not all, where there are very many."""
    shown = ", ".join(map(str, addresses[:_SHOWN])) or "none"
    more = len(addresses) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _word(item: Plain) -> Resolved:
    match item:
        case [str(name), addresses, ttl] if 0 < len(name.removesuffix(".")) <= LONGEST_NAME:
            return Resolved(name, _addresses(addresses), _ttl(ttl))
        case _:
            raise LinkError("no name with addresses and a ttl")


def _addresses(value: Plain) -> tuple[Address, ...]:
    if not isinstance(value, list) or len(value) > MOST_ADDRESSES:
        raise LinkError(f"no list of at most {MOST_ADDRESSES} addresses")
    found = tuple(map(read_address, value))
    for address in found:
        if not is_one_host(address):
            raise LinkError(f"{address} is not the address of one host")
    return found


def _ttl(value: Plain) -> float:
    # NaN is not at least 0, and an integer may be too large to be a float.
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise LinkError("no ttl")
    return float(min(value, LONGEST_TTL))


def _host(value: Plain) -> str:
    if isinstance(value, str) and len(value) <= LONGEST_NAME and _HOST.fullmatch(value):
        return value.lower()
    raise LinkError("no name that a host can have")
