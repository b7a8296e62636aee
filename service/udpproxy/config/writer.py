"""Writing a file of ours so that it reads back as the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from udpproxy.config.addresses import endpoint
from udpproxy.config.model import Address, NameServer, Rate, Resolver

# A key, what it is, and what it would be if it were not given.
Entry = tuple[str, object, object]

_DURATIONS = {
    *("idle", "lifetime", "silent", "interval", "stop_timeout", "crash_window", "conf_timeout"),
    *(
        "initial_timeout",
        "timeout",
        "tcp_connect_timeout",
        "min_ttl",
        "max_ttl",
        "retry",
        "negative_ttl",
        "stale",
    ),
}


def block(header: str, entries: Iterable[Entry], *, defaults: bool) -> str:
    """One table; one that would say nothing is left out, but never one of many."""
    shown = [
        f"{key} = {literal(key, value)}\n"
        for key, value, default in entries
        if value is not None and (defaults or value != default)
    ]
    if not shown and not header.startswith("[["):
        return ""
    return "".join([f"{header}\n" if header else "", *shown])


def literal(key: str, value: object) -> str:
    """The value as TOML has it; durations, which the key tells, with their unit."""
    match value:
        case bool():
            return "true" if value else "false"
        case float() if key.replace("-", "_") in _DURATIONS:
            return _duration(value)
        case tuple():
            return f"[{', '.join(literal('', item) for item in value)}]"
        case dict():
            return f"{{ {', '.join(f'{name} = {literal(name, value[name])}' for name in value)} }}"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case Rate():
            return f'"{value}"' if value else "0"
        case _:
            return str(value)


def _duration(seconds: float) -> str:
    """In the largest unit that leaves no rest; a part of a second can only be a number."""
    if seconds % 1:
        return repr(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f'"{int(seconds) // length}{unit}"'
    return f'"{int(seconds)}s"'


def plain(found: Any, default: Any) -> list[Entry]:
    """The fields of a dataclass whose keys are their names."""
    return [
        (field.name.replace("_", "-"), getattr(found, field.name), getattr(default, field.name))
        for field in fields(found)
    ]


def resolver(resolver: Resolver) -> list[Entry]:
    """`[resolver]`."""
    default = Resolver()
    entries: list[Entry] = [("servers", tuple(map(_name_server, resolver.servers)), ())]
    for field in fields(resolver)[1:]:
        value = getattr(resolver, field.name)
        entries.append((field.name.replace("_", "-"), value, getattr(default, field.name)))
    return entries


def _name_server(server: NameServer) -> str:
    return host(server.address) if server.port == 53 else endpoint(server.address, server.port)


def host(address: Address) -> str:
    """An address alone, where a port could follow."""
    return f"[{address}]" if address.version == 6 else str(address)
