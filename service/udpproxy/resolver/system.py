"""The system's name servers, for a `[resolver]` that names none."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path

from udpproxy.config.model import NameServer, Resolver
from udpproxy.errors import UnitError

RESOLV_CONF = Path("/etc/resolv.conf")
_SERVERS = 3
"""The C library's MAXNS: the system itself does not ask the fourth either."""
_OCTETS = 65536


@dataclass(frozen=True, slots=True)
class System:
    servers: tuple[NameServer, ...]
    search: tuple[str, ...]


def parse(text: str) -> System:
    """resolv.conf(5): nameserver, search and domain (the last of these two holds).

    Options are not taken over: `[resolver]` has limits of its own. A line that is wrong counts
    as absent, as in the C library.
    """
    servers: list[NameServer] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        # A comment mark counts only at the start of a word.
        words = line.partition(" #")[0].partition(" ;")[0].split()
        match words:
            case ["nameserver", address, *_]:
                servers += _server(address)
            case ["search", *domains]:
                search = tuple(domains)
            case ["domain", domain, *_]:
                search = (domain,)
    return System(tuple(servers[:_SERVERS]), search)


def complete(resolver: Resolver, path: Path = RESOLV_CONF) -> Resolver:
    """The same with the system's servers where none are given; UnitError: there are none.

    The system's search list comes along with its servers, unless one is given.
    """
    if resolver.servers:
        return resolver
    try:
        with path.open("rb") as file:
            text = file.read(_OCTETS).decode("utf-8", "replace")
    except OSError as error:
        raise UnitError("resolver", _advice(f"{path}: {error.strerror}")) from error
    system = parse(text)
    if not system.servers:
        raise UnitError("resolver", _advice(f"{path} names no name server"))
    return replace(resolver, servers=system.servers, search=resolver.search or system.search)


def _server(address: str) -> list[NameServer]:
    try:
        return [NameServer(address=ipaddress.ip_address(address))]
    except ValueError:
        return []


def _advice(trouble: str) -> str:
    return f"no name servers: [resolver] gives none and {trouble}"
