"""What must hold between the parts of a file that are right by themselves.

Each check notes what it finds; nothing here changes what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

from udpproxy.config.addresses import endpoint
from udpproxy.config.lines import Path
from udpproxy.config.model import Address, Name, Ports
from udpproxy.config.table import Notes
from udpproxy.proxy.config import source_ports
from udpproxy.proxy.config.groups import MOST_IN_ALL
from udpproxy.proxy.config.model import (
    CLIENTS_PORT,
    Config,
    Destination,
    Group,
    Listen,
    Rule,
    Server,
)
from udpproxy.proxy.config.names import probed

SHARE = 90
"""Per cent of the ephemeral ports that sessions may have."""

Listens = list[tuple[Path, Listen]]
Rules = list[tuple[Path, Rule]]
Groups = list[tuple[Path, Group]]


@dataclass(frozen=True, slots=True)
class KernelPorts:
    """Those that the kernel hands out by itself, but for the reserved ones among them."""

    ephemeral: Ports
    reserved: tuple[Ports, ...] = ()
    free_from: int = 1024
    """Ports below need a right (net.ipv4.ip_unprivileged_port_start)."""

    @property
    def count(self) -> int:
        """How many it can hand out."""
        kept = {
            port
            for ports in self.reserved
            if (shared := overlap(ports, self.ephemeral))
            for port in range(shared.first, shared.last + 1)
        }
        return self.ephemeral.last - self.ephemeral.first + 1 - len(kept)

    def for_sessions(self, config: Config) -> int:
        """How many of them sessions may have, the host keeps the others; 0: all. IPv4 and IPv6
        together: a program's socket for both needs a port that is free in both. Each source
        address has ports of its own, and a client's, as its address, are none of this host's."""
        clients = any(
            None in rule.sources or rule.source_port == CLIENTS_PORT for rule in _accepting(config)
        )
        if config.use_all_ports or clients:
            return 0
        return self.for_each() * self.sources(config)

    def for_each(self) -> int:
        """The same, of one source address."""
        return max(1, self.count * SHARE // 100)

    def sources(self, config: Config) -> int:
        """How many addresses towards servers there are, each with the same ports."""
        named = {source for rule in _accepting(config) for source in rule.sources}
        others = any(not rule.sources for rule in _accepting(config))
        return max(1, len(named) + others)

    def taken(self, ports: Ports) -> Ports | None:
        """Those of `ports` that it may hand out, from the first on; None: it does none."""
        shared = overlap(ports, self.ephemeral)
        if shared is None:
            return None
        first = shared.first
        for kept in sorted(self.reserved, key=lambda kept: kept.first):
            if kept.first <= first <= kept.last:
                first = kept.last + 1
        if first > shared.last:
            return None
        later = [kept.first for kept in self.reserved if first < kept.first <= shared.last]
        return Ports(first=first, last=min(later, default=shared.last + 1) - 1)


def _accepting(config: Config) -> list[Rule]:
    return [rule for rule in config.rules if rule.accept]


def together(
    config: Config,
    listens: Listens,
    rules: Rules,
    kernel: KernelPorts,
    is_own: Callable[[Address], bool],
    notes: Notes,
) -> None:
    """Every check over more than one table."""
    _overlaps(listens, notes)
    _ephemeral_ranges(listens, kernel, notes)
    _names(rules, notes)
    if config.workers > 1 and config.engine == "python":
        notes.wrong(("workers",), 'more than one needs the native engine: engine is "python"')
    for path, rule in rules:
        if rule.accept:
            each = [listener for _, listener in listens]
            for key, server in _servers(path, rule):
                _at_itself(key, server, rule, each, is_own, notes)
        if rule.accept and rule.server is not None:
            _ranges(path, rule, [listener for _, listener in listens], notes)
        if rule.accept:
            each = [listener for _, listener in listens]
            source_ports.remarks(path, rule, each, kernel.free_from, notes)
    _remarks(config, listens, rules, kernel, notes)


def groups(groups: Groups, rules: Rules, notes: Notes) -> None:
    """Those of a name are one group."""
    seen: dict[str, int] = {}
    count = sum(len(group.servers) for _, group in groups)
    if count > MOST_IN_ALL:
        notes.wrong(("servers",), f"{count} servers in all groups: at most {MOST_IN_ALL}")
    used = {rule.group.name for _, rule in rules if rule.group}
    for path, group in groups:
        if group.name in seen:
            notes.wrong(
                (*path, "name"), f'"{group.name}" is already the name of line {seen[group.name]}'
            )
        elif group.name:
            seen[group.name] = group.line
            if group.name not in used:
                notes.warn((*path, "name"), f'no rule has plug-to = "@{group.name}"')


def unprobed(config: Config) -> str:
    """What a single process, which has no ACR, does not do of it; "": there are no probes."""
    lacks = "a single process sends no probes: only their sessions tell whether servers live"
    return lacks if probed(config) else ""


def overlap(one: Ports, other: Ports) -> Ports | None:
    """The ports that are in both."""
    first, last = max(one.first, other.first), min(one.last, other.last)
    return Ports(first=first, last=last) if first <= last else None


def _overlaps(listens: Listens, notes: Notes) -> None:
    for (_, early), (path, late) in combinations(listens, 2):
        shared = _shared(early.ports, late.ports)
        if shared is not None and _same_place(early, late):
            notes.wrong(
                path,
                f"port {shared} of {late} is already listened on: see line {early.line} ({early})",
            )


def _same_place(one: Listen, other: Listen) -> bool:
    """An address beside the interface that may have it is not: the kernel gives each datagram to
    the one that fits best."""
    if one.interface and other.interface:
        versions = {address.version for address in other.addresses}
        shared = any(address.version in versions for address in one.addresses)
        return one.interface == other.interface and shared
    beside = bool(one.interface) != bool(other.interface)
    for a in one.addresses:
        for b in other.addresses:
            if a.version != b.version:
                continue
            if beside:
                if a.is_unspecified and b.is_unspecified:
                    return True
            elif a == b or a.is_unspecified or b.is_unspecified:
                return True
    return False


def _shared(some: tuple[Ports, ...], others: tuple[Ports, ...]) -> Ports | None:
    """The first ports that are in both."""
    pairs = (overlap(one, other) for one in some for other in others)
    return next(filter(None, pairs), None)


def _ephemeral_ranges(listens: Listens, kernel: KernelPorts, notes: Notes) -> None:
    """One port can be kept free by its listener; in a range some will be taken by others."""
    for path, listener in listens:
        for ports in listener.ports:
            taken = kernel.taken(ports) if len(ports) > 1 else None
            if taken is not None:
                notes.wrong(
                    (*path, "port"),
                    f"the range {ports} overlaps the kernel's ephemeral ports "
                    f"{kernel.ephemeral}: reserve {taken} with sysctl "
                    "net.ipv4.ip_local_reserved_ports",
                )


def _names(rules: Rules, notes: Notes) -> None:
    seen: dict[str, int] = {}
    for path, rule in rules:
        if rule.name in seen:
            notes.wrong(
                (*path, "name"), f'"{rule.name}" is already the name of line {seen[rule.name]}'
            )
        elif rule.name:
            seen[rule.name] = rule.line


def _servers(path: Path, rule: Rule) -> Iterator[tuple[Path, Server]]:
    """Whoever is sent clients' datagrams, and where that stands."""
    for server in rule.servers:
        yield (*path, "plug-to"), server
    for place, mirror in enumerate(rule.mirrors):
        yield (*path, "mirror-to", place), mirror


def _at_itself(
    path: Path,
    server: Server,
    rule: Rule,
    listeners: list[Listen],
    is_own: Callable[[Address], bool],
    notes: Notes,
) -> None:
    """A datagram sent to one of our own sockets would come round again and again."""
    target, given = server.host, server.ports
    if isinstance(target, Name):
        return  # what it resolves to will be seen; the engine refuses what comes from ourselves
    targets = (given,) if given else tuple(_addressed(rule, listeners))
    for listener in listeners:
        shared = _shared(targets, listener.ports)
        if shared is not None and _reaches(target, listener, is_own):
            notes.wrong(
                path,
                f"{endpoint(target, shared.first)} is the proxy itself: see line {listener.line} "
                f"({listener})",
                # Addresses can go to another host, as with keepalived.
                passing=target not in listener.addresses and not target.is_loopback,
            )
            return


def _reaches(target: Address, listener: Listen, is_own: Callable[[Address], bool]) -> bool:
    for listening in listener.addresses:
        if listening.is_unspecified and target.version == listening.version:
            # What this host sends to itself comes in by lo.
            if (target.is_loopback or is_own(target)) and listener.interface in ("", "lo"):
                return True
        elif target == listening:
            return True
    return False


def _ranges(path: Path, rule: Rule, listeners: list[Listen], notes: Notes) -> None:
    """Several ports of a server belong to those of the listener, one to one."""
    assert rule.server is not None
    ports = rule.server.ports
    if ports is None or len(ports) == 1:
        return
    for listener in listeners:
        if listener.header_from:
            notes.wrong(
                (*path, "plug-to"),
                f"{ports} are {len(ports)} ports, but what PROXY headers say of ports is about "
                f"another host (line {listener.line}): give one",
            )
            return
        if any(_addressed(rule, [listener])) and listener.count != len(ports):
            notes.wrong(
                (*path, "plug-to"),
                f"{ports} are {len(ports)} ports, but those of line {listener.line} are "
                f"{listener.count}: there must be as many, or one",
            )
            return


def _addressed(rule: Rule, listeners: list[Listen]) -> Iterator[Ports]:
    """The ports that a client of this ACL may have written to."""
    for listener in listeners:
        if listener.header_from:
            # What a PROXY header says they wrote to is another host's, and may be any.
            yield from (item.ports for item in rule.destinations or () if item.ports is not None)
            continue
        if rule.destinations is None:
            yield from listener.ports
            continue
        for item in rule.destinations:
            if _may_be_addressed(listener, item):
                for ports in listener.ports:
                    shared = ports if item.ports is None else overlap(ports, item.ports)
                    if shared is not None:
                        yield shared


def may_serve(rule: Rule, listener: Listen) -> bool:
    """Can a datagram that comes in there be one of that rule?"""
    if listener.header_from or rule.destinations is None:
        return True
    return any(_addressed(rule, [listener]))


def _may_be_addressed(listener: Listen, item: Destination) -> bool:
    host = item.host
    if host is None or isinstance(host, Name):
        return True
    return any(
        listening.version == host.version if listening.is_unspecified else listening in host
        for listening in listener.addresses
    )


def _remarks(
    config: Config, listens: Listens, rules: Rules, kernel: KernelPorts, notes: Notes
) -> None:
    """What is allowed but will surprise."""
    available = f"the kernel's {kernel.count} ephemeral ports ({kernel.ephemeral})"
    ports, sources = kernel.for_sessions(config), kernel.sources(config)
    if sources > 1:
        available += f" at {sources} addresses each"
    if ports and config.max_sessions > ports:
        notes.warn(
            ("max-sessions",),
            f"{config.max_sessions} is more than {ports} of {available}, the host keeps the "
            "others; sessions that get no port are refused; see use-all-ports",
        )
    elif config.use_all_ports and config.max_sessions > kernel.count * sources:
        notes.warn(
            ("max-sessions",),
            f"{config.max_sessions} is more than {available}; "
            "sessions that get no port are refused",
        )
    if config.singleproc and (lacks := unprobed(config)):
        notes.warn(("singleproc",), lacks)
    if not rules:
        notes.warn(("session-acl",), "there is none: every datagram is refused")
    for path, listener in listens:
        for address in listener.addresses:
            if address.is_multicast and address not in listener.groups:
                notes.warn(
                    (*path, "address"),
                    f"{address} is a multicast group that is not joined: "
                    f'add multicast = ["{address}"]',
                )
        if any(network.prefixlen == 0 for network in listener.header_from):
            notes.warn(
                (*path, "proxy-protocol-from"),
                "everybody may send PROXY headers, and so be whom he likes",
            )
