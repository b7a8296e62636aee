"""A Config as TOML that reads back as the same Config.

`[limits]` has gone into each ACL when it was read, so it is shown there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields

from udpproxy.config.addresses import endpoint
from udpproxy.config.model import Address, Log, Name, NameServer, Network, Ports, Resolver
from udpproxy.proxy.config.model import (
    Acl,
    Config,
    Destination,
    Limits,
    Listen,
    Pattern,
    Server,
    SessionType,
)

# A key, what it is, and what it would be if it were not given.
Entry = tuple[str, object, object]

_DURATIONS = {
    *("idle", "lifetime", "stop_timeout", "crash_window", "conf_timeout", "initial_timeout"),
    *("timeout", "tcp_connect_timeout", "min_ttl", "max_ttl", "retry", "negative_ttl", "stale"),
}


def render(config: Config, *, defaults: bool) -> str:
    """The file's text; without defaults only what differs from them."""
    blocks = [_block("", _top(config), defaults=defaults)]
    blocks += [_block("[[listen]]", _listen(listener), defaults=True) for listener in config.listen]
    for acl in config.acls:
        blocks.append(_block("[[session-acl]]", _acl(acl), defaults=defaults))
        blocks.append(
            _block("[session-acl.limits]", _plain(acl.limits, Limits()), defaults=defaults)
        )
    blocks.append(_block("[resolver]", _resolver(config.resolver), defaults=defaults))
    blocks.append(_block("[log]", _plain(config.log, Log()), defaults=defaults))
    return "\n".join(filter(None, blocks))


def words(limits: Limits) -> str:
    """The limits in one line, for people."""
    shown = _plain(limits, Limits())
    given = [f"{key} {_literal(key, value)}".replace('"', "") for key, value, _ in shown if value]
    return ", ".join(given) or "none"


def _block(header: str, entries: Iterable[Entry], *, defaults: bool) -> str:
    """One table; one that would say nothing is left out, but never one of many."""
    shown = [
        f"{key} = {_literal(key, value)}\n"
        for key, value, default in entries
        if value is not None and (defaults or value != default)
    ]
    if not shown and not header.startswith("[["):
        return ""
    return "".join([f"{header}\n" if header else "", *shown])


def _literal(key: str, value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if key.replace("-", "_") in _DURATIONS:
            return _duration(value)
        case tuple():
            return f"[{', '.join(_literal('', item) for item in value)}]"
        case str():
            return json.dumps(value, ensure_ascii=False)
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


def _plain(found: Limits | Log, default: Limits | Log) -> list[Entry]:
    """The fields of an object whose keys are their names."""
    return [
        (field.name.replace("_", "-"), getattr(found, field.name), getattr(default, field.name))
        for field in fields(found)
    ]


def _top(config: Config) -> list[Entry]:
    default = Config(max_sessions=0, listen=())
    overflow = {False: "refuse", True: "evict-idlest"}
    on_death = {False: "restart", True: "stop"}
    special = {
        "evict_idlest": ("overflow", overflow),
        "stop_on_child_death": ("on-child-death", on_death),
    }
    entries: list[Entry] = []
    for field in fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if field.name in ("listen", "acls", "resolver", "log", "warnings", "ports"):
            continue
        if field.name in special:
            key, names = special[field.name]
            entries.append((key, names[value], names[usual]))
        else:
            entries.append((field.name.replace("_", "-"), value, usual))
    return entries


def _listen(listener: Listen) -> list[Entry]:
    return [("address", str(listener.address), None), ("port", _ports(listener.ports), None)]


def _ports(ports: Ports) -> int | str:
    return ports.first if ports.first == ports.last else str(ports)


def _acl(acl: Acl) -> list[Entry]:
    broadcast = acl.type is SessionType.BROADCAST or acl.reply_any_port
    return [
        ("name", acl.name, None),
        ("from", acl.source and tuple(map(_network, acl.source)), None),
        ("to", acl.destinations and tuple(map(_destination, acl.destinations)), None),
        ("time", acl.time and tuple(period.text for period in acl.time), None),
        ("not-time", acl.not_time and tuple(period.text for period in acl.not_time), None),
        ("action", "accept" if acl.accept else "deny", "accept"),
        ("type", acl.type.value, SessionType.NORMAL.value),
        ("plug-to", acl.server and _server(acl.server), None),
        ("broadcast-network", acl.broadcast_network and str(acl.broadcast_network), None),
        # Where it has no meaning it may not even be written.
        ("reply-port", ("any" if acl.reply_any_port else "same") if broadcast else None, "same"),
        ("unreachable", "close" if acl.unreachable_close else "ignore", "ignore"),
        ("resolve-policy", acl.resolve_policy, "pin"),
        ("reload-policy", acl.reload_policy, "close"),
        ("extension", acl.extension and str(acl.extension), None),
    ]


def _resolver(resolver: Resolver) -> list[Entry]:
    default = Resolver()
    entries: list[Entry] = [("servers", tuple(map(_name_server, resolver.servers)), ())]
    for field in fields(resolver)[1:]:
        value = getattr(resolver, field.name)
        entries.append((field.name.replace("_", "-"), value, getattr(default, field.name)))
    return entries


def _network(network: Network | Name | Pattern) -> str:
    if isinstance(network, Name | Pattern):
        return str(network)
    alone = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if alone else str(network)


def _destination(item: Destination) -> str:
    if item.host is None:
        return f":{item.ports}"
    host = _network(item.host)
    if item.ports is None:
        return host
    return f"[{host}]:{item.ports}" if ":" in host else f"{host}:{item.ports}"


def _server(server: Server) -> str:
    if isinstance(server.host, Name):
        return str(server.host) if server.port is None else f"{server.host}:{server.port}"
    return _host(server.host) if server.port is None else endpoint(server.host, server.port)


def _name_server(server: NameServer) -> str:
    return _host(server.address) if server.port == 53 else endpoint(server.address, server.port)


def _host(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)
