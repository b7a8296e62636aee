"""Which names and probes a configuration has, and whose work they make."""

from __future__ import annotations

from collections.abc import Iterator

from udpproxy.config.model import Name
from udpproxy.proxy.config.model import Config, Group, Pattern, Rule


def names(config: Config) -> tuple[str, ...]:
    """Every name, once, in the order of the file; patterns are none."""
    return tuple(dict.fromkeys(name for rule in config.rules for name in _of(rule)))


def rules_with(config: Config, name: str) -> tuple[str, ...]:
    """The ACLs in which the name stands."""
    return tuple(rule.name for rule in config.rules if name in _of(rule))


def patterns(config: Config) -> tuple[str, ...]:
    """Every pattern, as it is written."""
    found = (item for rule in config.rules for item in rule.source or ())
    return tuple(dict.fromkeys(str(item) for item in found if isinstance(item, Pattern)))


def server_names(rule: Rule) -> tuple[str, ...]:
    """Of the ACL's servers, as far as they are not addresses."""
    return tuple(server.host.text for server in rule.servers if isinstance(server.host, Name))


def asks(config: Config) -> bool:
    """Can a datagram need a look-up: of its client's names, or of its server's addresses?"""
    return bool(patterns(config)) or any(server_names(rule) for rule in config.rules)


def looks_up(config: Config) -> bool:
    """Is there anything to ask a name server for?"""
    return bool(names(config)) or asks(config)


def probed(config: Config) -> tuple[Group, ...]:
    """The groups whose servers are asked whether they live: some rule leads there."""
    used = {rule.group.name for rule in config.rules if rule.accept and rule.group}
    return tuple(group for group in config.groups if group.name in used and group.health.probe)


def needed(config: Config) -> tuple[str, ...]:
    """The processes that have work: ACR for any name or probe, APR where somebody asks."""
    acr = names(config) or probed(config)
    return (*(("acr",) if acr else ()), *(("apr",) if asks(config) else ()))


def _of(rule: Rule) -> Iterator[str]:
    for item in rule.source or ():
        if isinstance(item, Name):
            yield item.text
    for destination in rule.destinations or ():
        if isinstance(destination.host, Name):
            yield destination.host.text
    yield from server_names(rule)
