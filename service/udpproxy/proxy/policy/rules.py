"""The session ACLs: the first whose conditions all hold decides; none: refused.

Conditions are asked from the cheapest to the dearest; an answer depends on nothing but the
configuration, the question, the time and what is known of names. So it may be kept until
`next_change` or until a name changes; one that looked at the client's name, not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Protocol

from udpproxy.config.addresses import is_one_host
from udpproxy.config.model import Address, Name, Network, Ports
from udpproxy.proxy.config.model import Config, Destination, Pattern, Rule, Server
from udpproxy.proxy.policy import times
from udpproxy.proxy.policy.hosts import NetSet


@dataclass(frozen=True, slots=True)
class Question:
    """A datagram that belongs to no session: who sent it, and to which address and port."""

    client: Address
    addressed: Address
    port: int
    place: int = 0
    """The port is its listener's how many-th, from 0 on; see Places."""
    transparent: bool = False
    """It was sent to another host, and redirected to us."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one ACL on the way to the answer."""

    rule: Rule
    holds: bool
    why: str


class NameView(Protocol):
    """What is known of names at this moment; asking makes nobody wait."""

    def addresses(self, name: str) -> tuple[Address, ...]:
        """Of a name in the configuration; none: it is not resolved and matches nothing."""

    def names_of(self, client: Address) -> tuple[str, ...] | None:
        """The client's verified names; None: nobody has told yet."""


class Unresolved:
    """NameView where no name has an address and no client a name."""

    def addresses(self, name: str) -> tuple[Address, ...]:
        """None."""
        return ()

    def names_of(self, client: Address) -> tuple[str, ...] | None:
        """None, and that is certain."""
        return ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The deciding ACL; `pending`: the ACL that decides if the client's name fits, which is not
    known yet; `by_name`: the client's name was looked at."""

    rule: Rule | None
    pending: bool = False
    by_name: bool = False


class Policy:
    """The ACLs of one configuration, made ready to be asked."""

    def __init__(self, config: Config) -> None:
        self._rules = [_Rule(rule) for rule in config.rules]
        self._periods = [
            period for rule in config.rules for period in (rule.time or ()) + (rule.not_time or ())
        ]

    def decide(self, question: Question, at: datetime, known: NameView) -> Choice:
        by_name = False
        for rule in self._rules:
            failing = rule.failing(question, at, known)
            if failing == _NAME:
                by_name = True
                names = known.names_of(question.client)
                if names is None:
                    return Choice(rule.rule, pending=True, by_name=True)
                if rule.fits(names):
                    failing = None
            if failing is None:
                return Choice(rule.rule, by_name=by_name)
        return Choice(None, by_name=by_name)

    def explain(self, question: Question, at: datetime, known: NameView) -> list[Step]:
        """Every ACL that was asked, up to and with the one that decides."""
        steps: list[Step] = []
        for rule in self._rules:
            failing = rule.failing(question, at, known)
            names = known.names_of(question.client) if failing == _NAME else ()
            if failing is None or (names and rule.fits(names)):
                steps.append(Step(rule.rule, holds=True, why="every condition holds"))
                break
            steps.append(Step(rule.rule, holds=False, why=_why(failing, question, at, names)))
        return steps

    def bits(self, client: Address, known: NameView) -> int:
        """All clients whose addresses begin with so many bits of this one's have the same answer,
        unless their names were looked at."""
        return max((rule.bits(client, known) for rule in self._rules), default=0)

    def next_change(self, at: datetime) -> datetime | None:
        """When an answer given now must be asked for anew; None: never."""
        return times.next_change(self._periods, at)


class Places:
    """Which of its listener's ports a port is, for servers that have as many."""

    def __init__(self, config: Config) -> None:
        servers = [server for rule in config.rules for server in rule.servers]
        wanted = any(server.ports and len(server.ports) > 1 for server in servers)
        self._listens = config.listen if wanted else ()

    def of(self, addressed: Address, port: int) -> int:
        """From 0 on; 0 where nobody needs it. An address's own listener goes before one for all."""
        found = [listen for listen in self._listens if listen.has(port)]
        for listen in found:
            if any(address.packed == addressed.packed for address in listen.addresses):
                return listen.place_of(port)
        for listen in found:
            if any(address.version == addressed.version for address in listen.addresses):
                return listen.place_of(port)
        return 0


def server_for(
    rule: Rule, question: Question, known: NameView, versions: tuple[int, ...] = (4, 6)
) -> tuple[Address, int] | None:
    """Where a session of this ACL goes, the first place of several; None: its server's name is not
    resolved. The client's own family is wanted first; `versions` are those that there are sockets
    for."""
    if not rule.accept:
        raise ValueError(f"{rule.name} has no server: it denies")
    if rule.to_addressed:
        return question.addressed, question.port
    found = (endpoint_of(server, question, known, versions) for server in rule.servers)
    return next(filter(None, found), None)


def endpoint_of(
    server: Server, question: Question, known: NameView, versions: tuple[int, ...] = (4, 6)
) -> tuple[Address, int] | None:
    """The same, of one server."""
    port = server.port(question.port, question.place)
    if not isinstance(server.host, Name):
        return server.host, port
    found = [
        address
        for address in known.addresses(server.host.text)
        if address.version in versions and is_one_host(address)
    ]
    found.sort(key=lambda address: address.version != question.client.version)
    return (found[0], port) if found else None


def mirrors_for(rule: Rule, port: int) -> tuple[tuple[Address, int], ...]:
    """Who gets copies of what a client sends that wrote to that port."""
    return tuple(
        (mirror.host, mirror.port(port, 0))
        for mirror in rule.mirrors
        if not isinstance(mirror.host, Name)
    )


_NAME = "name"
"""Everything else holds; the client's name decides."""


class _Rule:
    """One ACL with its lists made quick."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._source = None if rule.source is None else _Hosts(rule.source)
        self._patterns = [item for item in rule.source or () if isinstance(item, Pattern)]
        self._destinations = None if rule.destinations is None else _by_ports(rule.destinations)

    def failing(self, question: Question, at: datetime, known: NameView) -> str | None:
        """The key of the first condition that does not hold, or _NAME."""
        rule = self.rule
        is_from = self._source is None or self._source.has(question.client, known)
        if not is_from and not self._patterns:
            return "from"
        if self._destinations is not None and not self._is_for(question, known):
            return "to"
        if rule.transparent is not None and rule.transparent != question.transparent:
            return "transparent"
        if rule.time is not None and not any(times.holds(period, at) for period in rule.time):
            return "time"
        if rule.not_time is not None and any(times.holds(period, at) for period in rule.not_time):
            return "not-time"
        return None if is_from else _NAME

    def bits(self, client: Address, known: NameView) -> int:
        """Of the client's address that this rule looks at."""
        return self._source.bits(client, known) if self._source else 0

    def fits(self, names: tuple[str, ...]) -> bool:
        """One of the client's names is meant."""
        return any(pattern.fits(name) for pattern in self._patterns for name in names)

    def _is_for(self, question: Question, known: NameView) -> bool:
        return any(
            (ports is None or question.port in ports)
            and (hosts is None or hosts.has(question.addressed, known))
            for ports, hosts in self._destinations or ()
        )


class _Hosts:
    """Networks, and names by their addresses."""

    def __init__(self, items: Iterable[Network | Name | Pattern]) -> None:
        items = list(items)
        self._networks = NetSet(item for item in items if not isinstance(item, Name | Pattern))
        self._names = [item.text for item in items if isinstance(item, Name)]

    def has(self, address: Address, known: NameView) -> bool:
        """Patterns are no business of ours."""
        return address in self._networks or any(
            address in known.addresses(name) for name in self._names
        )

    def bits(self, address: Address, known: NameView) -> int:
        """See NetSet.bits."""
        named = NetSet(ip_network(found) for name in self._names for found in known.addresses(name))
        return max(self._networks.bits(address), named.bits(address))


def _by_ports(items: tuple[Destination, ...]) -> tuple[tuple[Ports | None, _Hosts | None], ...]:
    """Items with the same ports share one set of hosts; one without a host is any."""
    grouped: dict[Ports | None, list[Destination]] = {}
    for item in items:
        grouped.setdefault(item.ports, []).append(item)
    found: list[tuple[Ports | None, _Hosts | None]] = []
    for ports, group in grouped.items():
        hosts = [item.host for item in group if item.host is not None]
        found.append((ports, _Hosts(hosts) if len(hosts) == len(group) else None))
    return tuple(found)


def _why(failing: str, question: Question, at: datetime, names: tuple[str, ...] | None) -> str:
    match failing:
        case "from":
            return f"from: {question.client} is in none of its networks"
        case "name":
            called = "has no name that is known" if not names else f"is {', '.join(names)}"
            return f"from: {question.client} {called}, which fits none of its patterns"
        case "to":
            return f"to: {question.addressed} port {question.port} is none of its items"
        case "transparent":
            another = "another host" if question.transparent else "this host"
            return f"transparent: {question.addressed} is {another}'s"
        case "time":
            return f"time: {at:%a %Y-%m-%d %H:%M} is in none of its periods"
        case _:
            return f"not-time: {at:%a %Y-%m-%d %H:%M} is in one of its periods"
