"""One [[session-acl]]: its keys, and what must hold between them.

With `deny` every action key is read for its spelling and then has no effect, so that a rule can be
switched off without being emptied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from udpproxy.config import addresses, values
from udpproxy.config.model import Address, Name, Network
from udpproxy.config.table import Table
from udpproxy.proxy.config import endpoints, periods, sections
from udpproxy.proxy.config.model import (
    CLIENTS_PORT,
    KEEP,
    ExtensionName,
    Group,
    Limits,
    Rule,
    Server,
    SessionType,
)

_TYPES = {kind.value: kind for kind in SessionType}
_REPLY_PORTS = values.choice({"same": False, "any": True})
_UNREACHABLE = values.choice({"ignore": False, "close": True})
_EVERYWHERE = IPv4Address("255.255.255.255")

MOST_MIRRORS = 8
"""Receivers of copies that a rule may have; the native engine has room for so many."""
MOST_SOURCES = 64
"""Addresses of source-address; the native engine has room for so many."""


def session_rule(table: Table, base: Limits, groups: Mapping[str, Group]) -> Rule:
    take = table.take
    target = take("plug-to", _target(groups), None)
    accept = take("action", values.choice({"accept": True, "deny": False}), default=True)
    sources, fallback = take("source-address", _source_addresses, ((), True))
    kind = take("type", values.choice(_TYPES), SessionType.NORMAL)
    rule = Rule(
        name=table.need("name", values.label, ""),
        source=table.many("from", endpoints.source),
        destinations=table.many("to", endpoints.destination),
        time=table.many("time", periods.period),
        not_time=table.many("not-time", periods.period),
        transparent=take("transparent", values.flag, None),
        accept=accept,
        type=kind,
        server=target if isinstance(target, Server) else None,
        group=target if isinstance(target, Group) else None,
        sources=sources,
        fallback=fallback,
        source_port=take("source-port", _source_port, 0),
        broadcast_network=take("broadcast-network", _broadcast_network, None),
        reply_any_port=take("reply-port", _REPLY_PORTS, default=False),
        unreachable_close=take("unreachable", _UNREACHABLE, default=False),
        resolve_policy=take("resolve-policy", values.one_of("pin", "follow", "close"), "pin"),
        reload_policy=take("reload-policy", values.one_of("close", "follow", "keep"), "close"),
        header=take("proxy-protocol", values.one_of("v2", "spp"), ""),
        mirrors=table.many("mirror-to", endpoints.mirror) or (),
        dscp=take("dscp", _dscp, 0),
        limits=_limits(table.table("limits"), base, one_way=kind is SessionType.ONE_WAY and accept),
        extension=_extension(table),
        line=table.line,
    )
    if accept and table.sound("action", "type", "plug-to"):
        _accepted(table, rule)
    table.done()
    return rule


def _target(groups: Mapping[str, Group]) -> values.Parser[Server | Group]:
    """`plug-to`: a server, or "@" and the name of a group."""

    def parse(value: object) -> Server | Group:
        word = values.text(value)
        if not word.startswith("@"):
            return endpoints.server(value)
        if word[1:] not in groups:
            there = ", ".join(f"@{name}" for name in groups) or "none"
            raise ValueError(
                f"no [[servers]] has the name {values.said(word[1:])}; there is {there}"
            )
        return groups[word[1:]]

    return parse


def _limits(table: Table, base: Limits, *, one_way: bool) -> Limits:
    """Of a session that nobody may answer nobody expects an answer, whatever [limits] says."""
    found = sections.limits(
        table, base if not one_way else replace(base, silent=0.0, amplification=0)
    )
    for key, given in (("silent", found.silent), ("amplification", found.amplification)):
        if one_way and given:
            table.wrong(key, 'has no meaning with type = "one-way": nobody may answer')
    return found


def _extension(table: Table) -> ExtensionName | None:
    """Only the spelling: what is installed is none of this package's business."""
    found = table.take("extension", values.class_name, None)
    if found is None:
        return None
    path = (*table.path, "extension")
    return ExtensionName(
        module=found[0], attribute=found[1], path=path, line=table.notes.line(path)
    )


def _accepted(table: Table, rule: Rule) -> None:
    """What an ACL that accepts must have."""
    if rule.to_addressed and rule.transparent is not True:
        table.wrong(
            "plug-to",
            "must be given: an ACL that accepts needs a server, but for transparent = true",
        )
    _mirrored(table, rule)
    if rule.type is SessionType.BROADCAST:
        if rule.group:
            table.wrong("plug-to", 'type = "broadcast" needs an address, found a group')
        _broadcast(table, rule.server, rule.broadcast_network)
        return
    for key in ("broadcast-network", "reply-port"):
        if table.has(key) and table.sound(key):
            table.wrong(key, f'is only used with type = "broadcast", which is "{rule.type.value}"')
    hosts = [server.host for server in rule.servers if not isinstance(server.host, Name)]
    for host in hosts:
        fitting = [one for one in rule.sources if one is None or one.version == host.version]
        if rule.sources and not fitting:
            table.wrong("source-address", f"none is of version {host.version}, as {host} is")
            break
    target = rule.server.host if rule.server is not None else None
    if target is not None and not isinstance(target, Name) and endpoints.is_for_many(target):
        table.wrong(
            "plug-to",
            f'{target} is not one host: it needs type = "broadcast", which is "{rule.type.value}"',
        )


def _mirrored(table: Table, rule: Rule) -> None:
    """Nobody gets the same datagram twice."""
    if len(rule.mirrors) > MOST_MIRRORS:
        table.wrong(
            "mirror-to", f"expected at most {MOST_MIRRORS} receivers, found {len(rule.mirrors)}"
        )
    for place, mirror in enumerate(rule.mirrors):
        if mirror in rule.mirrors[:place]:
            table.wrong("mirror-to", f"{mirror} is in the list twice")
        if mirror == rule.server:
            table.wrong("mirror-to", f"{mirror} is the server of plug-to")


def _broadcast(table: Table, server: Server | None, network: Network | None) -> None:
    if not table.has("broadcast-network"):
        table.wrong("broadcast-network", 'must be given with type = "broadcast"')
    if server is None or network is None:
        return
    target = server.host
    if isinstance(target, Name):
        table.wrong("plug-to", f'type = "broadcast" needs an address, found the name {target}')
    elif not (target in (_EVERYWHERE, network.broadcast_address) or _is_group(target)):
        table.wrong(
            "plug-to",
            f'type = "broadcast" sends to {network.broadcast_address}, 255.255.255.255 or an IPv4 '
            f"multicast group, found {target}",
        )


def _is_group(address: Address) -> bool:
    return address.version == 4 and address.is_multicast


def _broadcast_network(value: object) -> Network:
    found = addresses.network(value)
    if not isinstance(found, IPv4Network):
        raise ValueError(f"expected an IPv4 network: IPv6 has no broadcast, found {found}")
    if found.prefixlen > 30:
        raise ValueError(f"expected a network that has a broadcast address, found {found}")
    return found


_code_point = values.whole(0, 63)


def _dscp(value: object) -> int | str:
    if value == KEEP:
        return KEEP
    try:
        return _code_point(value)
    except ValueError:
        raise ValueError(
            f'expected "{KEEP}" or a number from 0 to 63, found {values.said(value)}'
        ) from None


def _source_addresses(value: object) -> tuple[tuple[Address | None, ...], bool]:
    """The addresses, None for the client's own, and whether another will do."""
    if not isinstance(value, list) or not value:
        raise ValueError(
            'expected a list of "client", addresses and "no-fallback", '
            f"found {'an empty list' if value == [] else values.said(value)}"
        )
    items = [item for item in value if item != "no-fallback"]
    if not items:
        raise ValueError('"no-fallback" needs an address, or "client", that it is about')
    found: list[Address | None] = []
    for item in items:
        source = None if item == "client" else addresses.own_address(item)
        if source is not None and (source.is_unspecified or source.is_multicast):
            raise ValueError(f"{source} is no address that datagrams can come from")
        if source in found:
            raise ValueError(f"{values.said(item)} is in the list twice")
        found.append(source)
    if len(found) > MOST_SOURCES:
        raise ValueError(f"expected at most {MOST_SOURCES} addresses, found {len(found)}")
    return tuple(found), len(items) == len(value)


def _source_port(value: object) -> int:
    if value == "client":
        return CLIENTS_PORT
    if isinstance(value, str) and not re.fullmatch("[0-9]+", value):
        raise ValueError(f'expected "client" or a number, found {values.said(value)}')
    return addresses.port(value)
