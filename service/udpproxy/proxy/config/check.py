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
from udpproxy.proxy.config.model import Config, Destination, Listen, Rule

SHARE = 90
"""Per cent of the ephemeral ports that sessions may have."""

Listens = list[tuple[Path, Listen]]
Rules = list[tuple[Path, Rule]]


@dataclass(frozen=True, slots=True)
class KernelPorts:
    """Those that the kernel hands out by itself, but for the reserved ones among them."""

    ephemeral: Ports
    reserved: tuple[Ports, ...] = ()

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
        together: a program's socket for both needs a port that is free in both."""
        return 0 if config.use_all_ports else max(1, self.count * SHARE // 100)

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
        if rule.accept and rule.server is not None:
            _at_itself(path, rule, [listener for _, listener in listens], is_own, notes)
    _remarks(config, listens, rules, kernel, notes)


def overlap(one: Ports, other: Ports) -> Ports | None:
    """The ports that are in both."""
    first, last = max(one.first, other.first), min(one.last, other.last)
    return Ports(first=first, last=last) if first <= last else None


def _overlaps(listens: Listens, notes: Notes) -> None:
    for (_, early), (path, late) in combinations(listens, 2):
        a, b = early.address, late.address
        same = a.version == b.version and (a == b or a.is_unspecified or b.is_unspecified)
        shared = overlap(early.ports, late.ports)
        if same and shared is not None:
            notes.wrong(
                path, f"port {shared} of {b} is already listened on: see line {early.line} ({a})"
            )


def _ephemeral_ranges(listens: Listens, kernel: KernelPorts, notes: Notes) -> None:
    """One port can be kept free by its listener; in a range some will be taken by others."""
    for path, listener in listens:
        ports = listener.ports
        taken = kernel.taken(ports) if ports.first < ports.last else None
        if taken is not None:
            notes.wrong(
                (*path, "port"),
                f"the range {ports} overlaps the kernel's ephemeral ports {kernel.ephemeral}: "
                f"reserve {taken} with sysctl net.ipv4.ip_local_reserved_ports",
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


def _at_itself(
    path: Path,
    rule: Rule,
    listeners: list[Listen],
    is_own: Callable[[Address], bool],
    notes: Notes,
) -> None:
    """A datagram sent to one of our own sockets would come round again and again."""
    assert rule.server is not None
    target, port = rule.server.host, rule.server.port
    if isinstance(target, Name):
        return  # what it resolves to will be seen; the engine refuses what comes from ourselves
    targets = [Ports(first=port, last=port)] if port else list(_addressed(rule, listeners))
    for listener in listeners:
        shared = next(filter(None, (overlap(ports, listener.ports) for ports in targets)), None)
        if shared is not None and _reaches(target, listener.address, is_own):
            notes.wrong(
                (*path, "plug-to"),
                f"{endpoint(target, shared.first)} is the proxy itself: see line {listener.line} "
                f"({listener.address})",
                # Addresses can go to another host, as with keepalived.
                passing=target != listener.address and not target.is_loopback,
            )
            return


def _reaches(target: Address, listening: Address, is_own: Callable[[Address], bool]) -> bool:
    if listening.is_unspecified:
        return target.version == listening.version and (target.is_loopback or is_own(target))
    return target == listening


def _addressed(rule: Rule, listeners: list[Listen]) -> Iterator[Ports]:
    """The ports that a client of this ACL may have written to."""
    for listener in listeners:
        if rule.destinations is None:
            yield listener.ports
            continue
        for item in rule.destinations:
            ports = listener.ports if item.ports is None else overlap(listener.ports, item.ports)
            if ports is not None and _may_be_addressed(listener.address, item):
                yield ports


def _may_be_addressed(listening: Address, item: Destination) -> bool:
    if item.host is None or isinstance(item.host, Name):
        return True
    if listening.is_unspecified:
        return listening.version == item.host.version
    return listening in item.host


def _remarks(
    config: Config, listens: Listens, rules: Rules, kernel: KernelPorts, notes: Notes
) -> None:
    """What is allowed but will surprise."""
    available = f"the kernel's {kernel.count} ephemeral ports ({kernel.ephemeral})"
    ports = kernel.for_sessions(config)
    if ports and config.max_sessions > ports:
        notes.warn(
            ("max-sessions",),
            f"{config.max_sessions} is more than {ports} of {available}, the host keeps the "
            "others; sessions that get no port are refused; see use-all-ports",
        )
    elif config.max_sessions > kernel.count:
        notes.warn(
            ("max-sessions",),
            f"{config.max_sessions} is more than {available}; "
            "sessions that get no port are refused",
        )
    if not rules:
        notes.warn(("session-acl",), "there is none: every datagram is refused")
    for path, listener in listens:
        if listener.address.is_multicast:
            notes.warn(
                (*path, "address"),
                f"{listener.address} is a multicast group, which the proxy does not join itself",
            )
