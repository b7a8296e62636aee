"""A Config as TOML that reads back as the same Config.

`[limits]` has gone into each rule when it was read, so it is shown there.
"""

from __future__ import annotations

from dataclasses import fields

from udpproxy.config import writer
from udpproxy.config.model import InstanceConfig, Log, Name, Network, Ports
from udpproxy.config.writer import Entry
from udpproxy.proxy.config.model import (
    BALANCES,
    CLIENTS_PORT,
    DOWN_SESSIONS,
    Config,
    Destination,
    Group,
    Health,
    Limits,
    Listen,
    Pattern,
    Probe,
    Rule,
    SessionType,
)

_ELSEWHERE = ("listen", "rules", "groups", "resolver", "log", "warnings", "ports", "ports_each")


def render(config: Config, *, defaults: bool) -> str:
    """The file's text; without defaults only what differs from them."""
    blocks = [writer.block("", _top(config), defaults=defaults)]
    blocks += [
        writer.block("[[listen]]", _listen(listener), defaults=True) for listener in config.listen
    ]
    for group in config.groups:
        blocks.append(writer.block("[[servers]]", _group(group), defaults=defaults))
        blocks.append(writer.block("[servers.health]", _health(group.health), defaults=defaults))
    for rule in config.rules:
        blocks.append(writer.block("[[session-acl]]", _acl(rule), defaults=defaults))
        blocks.append(
            writer.block(
                "[session-acl.limits]", writer.plain(rule.limits, Limits()), defaults=defaults
            )
        )
    blocks.append(writer.block("[resolver]", writer.resolver(config.resolver), defaults=defaults))
    blocks.append(writer.block("[log]", writer.plain(config.log, Log()), defaults=defaults))
    return "\n".join(filter(None, blocks))


def words(limits: Limits) -> str:
    """The limits in one line, for people."""
    shown = writer.plain(limits, Limits())
    given = [
        f"{key} {writer.literal(key, value)}".replace('"', "") for key, value, _ in shown if value
    ]
    return ", ".join(given) or "none"


def _top(config: Config) -> list[Entry]:
    default = Config(max_sessions=0, listen=())
    overflow = {False: "refuse", True: "evict-idlest"}
    on_death = {False: "restart", True: "stop"}
    special = {
        "evict_idlest": ("overflow", overflow),
        "stop_on_child_death": ("on-child-death", on_death),
    }
    entries: list[Entry] = []
    common = fields(InstanceConfig)
    names = {field.name for field in common}
    for field in (*(each for each in fields(config) if each.name not in names), *common):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if field.name in _ELSEWHERE:
            continue
        if field.name in special:
            key, words_of = special[field.name]
            entries.append((key, words_of[value], words_of[usual]))
        else:
            entries.append((field.name.replace("_", "-"), value, usual))
    return entries


def _listen(listener: Listen) -> list[Entry]:
    ports = tuple(map(_ports, listener.ports))
    versions = {address.version for address in listener.addresses}
    senders = tuple(map(_network, listener.header_from)) or None
    entries: list[Entry] = [
        ("port", ports if len(ports) > 1 else ports[0], None),
        ("multicast", tuple(map(str, listener.groups)) or None, None),
        ("proxy-protocol", "v2" if senders else None, None),
        ("proxy-protocol-from", senders, None),
    ]
    entries.append(("transparent", listener.transparent or None, None))
    version = versions.pop() if len(versions) == 1 else None
    if listener.interface:
        return [("interface", listener.interface, None), ("version", version, None), *entries]
    if len(listener.addresses) > 1:
        return entries
    return [("address", str(listener.addresses[0]), None), *entries]


def _ports(ports: Ports) -> int | str:
    return ports.first if len(ports) == 1 else str(ports)


def _acl(rule: Rule) -> list[Entry]:
    broadcast = rule.type is SessionType.BROADCAST or rule.reply_any_port
    return [
        ("name", rule.name, None),
        ("from", rule.source and tuple(map(_network, rule.source)), None),
        ("to", rule.destinations and tuple(map(_destination, rule.destinations)), None),
        ("transparent", rule.transparent, None),
        ("time", rule.time and tuple(period.text for period in rule.time), None),
        ("not-time", rule.not_time and tuple(period.text for period in rule.not_time), None),
        ("action", "accept" if rule.accept else "deny", "accept"),
        ("type", rule.type.value, SessionType.NORMAL.value),
        ("plug-to", _target(rule), None),
        ("source-address", _sources(rule) or None, None),
        ("source-port", _source_port(rule), None),
        ("broadcast-network", rule.broadcast_network and str(rule.broadcast_network), None),
        # Where it has no meaning it may not even be written.
        ("reply-port", ("any" if rule.reply_any_port else "same") if broadcast else None, "same"),
        ("unreachable", "close" if rule.unreachable_close else "ignore", "ignore"),
        ("resolve-policy", rule.resolve_policy, "pin"),
        ("reload-policy", rule.reload_policy, "close"),
        ("proxy-protocol", rule.header or None, None),
        ("mirror-to", tuple(map(str, rule.mirrors)) or None, None),
        ("dscp", rule.dscp, 0),
        ("extension", rule.extension and str(rule.extension), None),
    ]


def _sources(rule: Rule) -> tuple[str, ...]:
    found = tuple("client" if source is None else str(source) for source in rule.sources)
    return found if rule.fallback else (*found, "no-fallback")


def _source_port(rule: Rule) -> str | int | None:
    return "client" if rule.source_port == CLIENTS_PORT else rule.source_port or None


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


def _target(rule: Rule) -> str | None:
    if rule.group:
        return f"@{rule.group.name}"
    return str(rule.server) if rule.server else None


def _group(group: Group) -> list[Entry]:
    return [
        ("name", group.name, None),
        ("members", tuple(map(str, group.members)), None),
        ("weights", group.weights, (1,) * len(group.members)),
        ("standby", tuple(map(str, group.standby)) or None, None),
        ("balance", group.balance, BALANCES[0]),
        ("down-sessions", group.down_sessions, DOWN_SESSIONS[0]),
    ]


def _health(health: Health) -> list[Entry]:
    plain = Health()
    return [
        ("passive", health.passive, plain.passive),
        ("fall", health.fall, plain.fall),
        ("rise", health.rise, plain.rise),
        ("retry", health.retry, plain.retry),
        ("probe", _probe(health.probe) if health.probe else None, None),
    ]


def _probe(probe: Probe) -> dict[str, object]:
    words: dict[str, object] = {
        "send": probe.send and _payload(probe.send),
        "expect": probe.expect and _payload(probe.expect),
        "dns": probe.dns,
        "ntp": probe.ntp,
        "interval": probe.interval,
        "timeout": probe.timeout,
    }
    return {key: value for key, value in words.items() if value}


def _payload(payload: bytes) -> str:
    plain = payload.isascii() and payload.decode().isprintable()
    return f"text:{payload.decode()}" if plain else f"hex:{payload.hex()}"
