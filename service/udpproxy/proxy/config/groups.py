"""One [[servers]]: several servers for one rule, and how it is known which of them live."""

from __future__ import annotations

from collections.abc import Iterable

from udpproxy.config import values
from udpproxy.config.model import Name
from udpproxy.config.table import Table
from udpproxy.proxy.config import endpoints
from udpproxy.proxy.config.model import (
    BALANCES,
    DOWN_SESSIONS,
    Group,
    Health,
    Probe,
    Server,
)

MOST_SERVERS = 64
"""In a group; the native engine has room for so many."""
MOST_IN_ALL = 4000
"""In all of them; the engines have room for twice as many, for those before a reload."""
_MOST_WEIGHT = 1000
_LONGEST = 1200
"""Bytes of a probe: it passes every network whole."""
_TYPES = ("A", "AAAA", "NS", "SOA", "TXT", "MX", "SRV", "PTR", "CNAME")


def group(table: Table) -> Group:
    members = table.many("members", _member) or ()
    if not table.has("members"):
        table.wrong("members", 'must be given, such as ["10.2.0.2:53", "10.2.0.3:53"]')
    weights = table.many("weights", values.whole(1, _MOST_WEIGHT))
    standby = table.many("standby", _member) or ()
    plain, take = Group(name="", members=(), weights=()), table.take
    found = Group(
        name=table.need("name", _name, ""),
        members=members,
        weights=weights or (1,) * len(members),
        standby=standby,
        balance=take("balance", values.one_of(*BALANCES), plain.balance),
        down_sessions=take("down-sessions", values.one_of(*DOWN_SESSIONS), plain.down_sessions),
        health=_health(table.table("health"), (*members, *standby)),
        line=table.line,
    )
    if table.sound("members", "weights") and len(found.weights) != len(members):
        table.wrong("weights", f"{len(found.weights)} for {len(members)} members: give one each")
    if len(found.servers) > MOST_SERVERS:
        table.wrong("members", f"{len(found.servers)} with standby: at most {MOST_SERVERS}")
    _once(table, members, standby)
    table.done()
    return found


def _once(table: Table, members: Iterable[Server], standby: Iterable[Server]) -> None:
    seen: set[Server] = set()
    for key, servers in (("members", members), ("standby", standby)):
        for server in servers:
            if server in seen:
                table.wrong(key, f"{server} is in the group twice: see weights")
            seen.add(server)


def _name(value: object) -> str:
    word = values.label(value)
    if word.startswith("@") or " " in word:
        raise ValueError(
            f'expected a name without "@" and spaces, which rules use as "@NAME", '
            f"found {values.said(word)}"
        )
    return word


def _member(value: object) -> Server:
    found = endpoints.server(value)
    if found.ports is not None and len(found.ports) > 1:
        raise ValueError(f"a server of a group has one port, found {found.ports}")
    if not isinstance(found.host, Name) and endpoints.is_for_many(found.host):
        raise ValueError(f"{found.host} is not one host")
    return found


def _health(table: Table, servers: tuple[Server, ...]) -> Health:
    plain, take = Health(), table.take
    found = Health(
        passive=take("passive", values.flag, plain.passive),
        fall=take("fall", values.whole(1, 1000), plain.fall),
        rise=take("rise", values.whole(1, 1000), plain.rise),
        retry=take("retry", values.positive_duration, plain.retry),
        probe=_probe(table.table("probe"), servers) if table.has("probe") else None,
    )
    table.done()
    return found


def _probe(table: Table, servers: tuple[Server, ...]) -> Probe:
    plain, take = Probe(), table.take
    kinds = [key for key in ("send", "dns", "ntp") if table.has(key)]
    found = Probe(
        send=take("send", _payload, b""),
        expect=take("expect", _payload, b""),
        dns=take("dns", _question, ""),
        ntp=take("ntp", values.flag, default=False),
        interval=take("interval", values.positive_duration, plain.interval),
        timeout=take("timeout", values.positive_duration, plain.timeout),
    )
    if len(kinds) != 1 or (kinds == ["ntp"] and not found.ntp):
        table.wrong("send", "must be given: one of send, dns and ntp = true")
    if table.has("expect") and not table.has("send"):
        table.wrong("expect", "is only used with send")
    if found.timeout > found.interval:
        table.wrong("timeout", f"{found.timeout:g} s is longer than the interval")
    for server in servers:
        if server.ports is None:
            table.wrong("send", f"{server} has no port that could be asked: give it one")
    table.done()
    return found


def _payload(value: object) -> bytes:
    """ "text:" and the text, or "hex:" and digits."""
    word = values.text(value)
    kind, _, rest = word.partition(":")
    try:
        found = {"text": str.encode, "hex": bytes.fromhex}[kind](rest)
    except (KeyError, ValueError):
        raise ValueError(
            f'expected "text:..." or "hex:..." with two digits a byte, found {values.said(word)}'
        ) from None
    if not 1 <= len(found) <= _LONGEST:
        raise ValueError(f"expected 1 to {_LONGEST} bytes, found {len(found)}")
    return found


def _question(value: object) -> str:
    """A name and a type."""
    word = values.text(value)
    name, _, kind = word.partition(" ")
    if not values.is_name(name) or kind.upper() not in _TYPES:
        raise ValueError(
            f'expected a name and a type such as "example.org A" (types: {", ".join(_TYPES)}), '
            f"found {values.said(word)}"
        )
    return f"{name.lower().rstrip('.')} {kind.upper()}"
