"""Which names a configuration has, and whose work they make."""

from __future__ import annotations

from collections.abc import Iterator

from udpproxy.config.model import Name
from udpproxy.proxy.config.model import Config, Pattern, Rule


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


def server_name(rule: Rule) -> str | None:
    """The name of the ACL's server; None where it has an address or none is used."""
    if rule.accept and rule.server is not None and isinstance(rule.server.host, Name):
        return rule.server.host.text
    return None


def asks(config: Config) -> bool:
    """Can a datagram need a look-up: of its client's names, or of its server's addresses?"""
    return bool(patterns(config)) or any(server_name(rule) for rule in config.rules)


def needed(config: Config) -> tuple[str, ...]:
    """The processes that have work: ACR for any name, APR where somebody asks."""
    return (*(("acr",) if names(config) else ()), *(("apr",) if asks(config) else ()))


def _of(rule: Rule) -> Iterator[str]:
    for item in rule.source or ():
        if isinstance(item, Name):
            yield item.text
    for destination in rule.destinations or ():
        if isinstance(destination.host, Name):
            yield destination.host.text
    server = server_name(rule)
    if server is not None:
        yield server
