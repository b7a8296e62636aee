"""Which ACL decides for a client, and why none before it did: for people and for programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from udpproxy.config import addresses
from udpproxy.config.model import Address, Name
from udpproxy.errors import InvalidArgument
from udpproxy.proxy.config import show as shown
from udpproxy.proxy.config.model import CLIENTS_PORT, KEEP, Config, Listen, Rule, Server
from udpproxy.proxy.policy.rules import (
    NameView,
    Places,
    Policy,
    Question,
    endpoint_of,
    mirrors_for,
)

T = TypeVar("T")

_HEADERS = {
    "v2": "v2, each datagram begins with the client and the address it wrote to",
    "spp": "spp, each datagram begins with the client and the address it wrote to",
}


_DSCP = "keep, of each datagram, both ways"


@dataclass(frozen=True, slots=True)
class Explanation:
    """`rule` "-": none decides; server, type, limits and extension only of accepted
    sessions."""

    rule: str
    action: str
    passed: tuple[str, ...]
    why: str
    server: str = ""
    type: str = ""
    limits: str = ""
    extension: str = ""
    header: str = ""
    source_port: str = ""
    mirrors: str = ""
    dscp: str = ""

    def lines(self) -> list[str]:
        """The deciding ACL first: programs read that line alone."""
        return [
            self.rule,
            f"action: {self.action}",
            *(f"not {each}" for each in self.passed),
            f"why: {self.why}",
            *(f"{name}: {value}" for name, value in self.parts().items()),
        ]

    def parts(self) -> dict[str, str]:
        """What there is to say of an accepted session."""
        parts = {
            "server": self.server,
            "type": self.type,
            "limits": self.limits,
            "extension": self.extension,
            "proxy-protocol": self.header,
            "source-port": self.source_port,
            "mirror-to": self.mirrors,
            "dscp": self.dscp,
        }
        return {name: value for name, value in parts.items() if value}


def explanation(config: Config, question: Question, at: datetime, known: NameView) -> Explanation:
    """The answer; `at` is local time."""
    steps = Policy(config).explain(question, at, known)
    told = [f"{step.rule.name} (line {step.rule.line}): {step.why}" for step in steps]
    if not steps or not steps[-1].holds:
        return Explanation("-", "deny", tuple(told), "no ACL matches, so it is refused")
    rule = steps[-1].rule
    passed, why = tuple(told[:-1]), told[-1]
    if not rule.accept:
        return Explanation(rule.name, "deny", passed, why)
    server = _server(rule, question, known)
    return Explanation(
        rule.name,
        "accept",
        passed,
        why,
        server,
        rule.type.value,
        shown.words(rule.limits),
        str(rule.extension or ""),
        _HEADERS.get(rule.header, ""),
        _source_port(rule),
        _mirrors(rule, question),
        _DSCP if rule.dscp == KEEP else str(rule.dscp or ""),
    )


def _source_port(rule: Rule) -> str:
    if rule.source_port == CLIENTS_PORT:
        return "the client's"
    return str(rule.source_port or "")


def _server(rule: Rule, question: Question, known: NameView) -> str:
    if rule.to_addressed:
        return addresses.endpoint(question.addressed, question.port)
    each = [_endpoint_of(server, question, known) for server in rule.servers]
    if rule.group is None:
        return each[0]
    standby = each[len(rule.group.members) :]
    shown = ", ".join(each[: len(rule.group.members)])
    if standby:
        shown += f"; while none of them is up {', '.join(standby)}"
    return f"@{rule.group.name}, one of {shown} (balance {rule.group.balance})"


def _endpoint_of(server: Server, question: Question, known: NameView) -> str:
    found = endpoint_of(server, question, known)
    name = server.host.text if isinstance(server.host, Name) else ""
    if found is None:
        return f"{name}, which is not resolved"
    return addresses.endpoint(*found) + (f" ({name})" if name else "")


def _mirrors(rule: Rule, question: Question) -> str:
    return ", ".join(addresses.endpoint(*where) for where in mirrors_for(rule, question.port))


def question(
    config: Config, client_text: str, to: str | None, is_own: Callable[[Address], bool]
) -> Question:
    """The question, with what is not given taken from the listeners where they leave no choice;
    `is_own`: is that address this host's?"""
    client, _ = _endpoint("--from", client_text)
    address, port = (None, None) if to is None else _endpoint("--to", to)
    if address is not None and address.version != client.version:
        raise InvalidArgument(f"--to {to}: a client of {client} cannot write to {address}")
    found = _takers(config, client, address, port)
    if address is None and not any(listener.transparent for listener in found):
        own = {each for listener in found for each in listener.addresses}
        address = None if any(each.header_from for each in found) else _only(own)
        if address is None or address.is_unspecified:
            _must_not_matter(config.rules, "an address", by_address=True)
            address = IPv4Address(0) if client.version == 4 else IPv6Address(0)
    if address is None:
        raise InvalidArgument(
            "--to with an address is needed: a listener takes what was sent to other hosts"
        )
    if port is None:
        ranges = [ports for listener in found for ports in listener.ports]
        numbers = {number for each in ranges for number in (each.first, each.last)}
        port = None if any(each.header_from for each in found) else _only(numbers)
        if port is None:
            _must_not_matter(config.rules, "a port", by_address=False)
    place = Places(config).of(address, port or 0)
    taken = any(listener.transparent for listener in found)
    foreign = taken and addresses.is_one_host(address) and not is_own(address)
    return Question(client, address, port or 0, place, transparent=foreign)


def takers(config: Config, question: Question) -> list[Listen]:
    """The listeners to which such a datagram can come; behind a PROXY header it may have been sent
    anywhere."""
    address = None if question.addressed.is_unspecified else question.addressed
    return _takers(config, question.client, address, question.port or None)


def _takers(
    config: Config, client: Address, address: Address | None, port: int | None
) -> list[Listen]:
    return [
        listener
        for listener in config.listen
        if listener.header_from
        or (
            any(
                own.version == client.version
                and (address is None or address == own or own.is_unspecified)
                for own in listener.addresses
            )
            and (port is None or listener.has(port))
        )
    ]


def _must_not_matter(rules: tuple[Rule, ...], what: str, *, by_address: bool) -> None:
    """Refuse to guess what an ACL looks at."""
    for rule in rules:
        items = rule.destinations or ()
        if by_address:
            looks = any(item.host is not None for item in items)
        else:
            servers = [*((rule.server,) if rule.server else ()), *rule.mirrors]
            looks = any(item.ports is not None for item in items) or (
                any(server.ports is None or len(server.ports) > 1 for server in servers)
            )
        if looks:
            raise InvalidArgument(
                f"--to with {what} is needed: ACL {rule.name} depends on it "
                "and the listeners leave it open"
            )


def _only(found: set[T]) -> T | None:
    return found.pop() if len(found) == 1 else None


def _endpoint(option: str, given: str) -> tuple[Address, int | None]:
    try:
        host, port = addresses.split(given)
        return addresses.address(host), None if port is None else addresses.port(port)
    except ValueError as error:
        raise InvalidArgument(f"{option} {given}: {error}") from None


def moment(at: str | None, now: datetime) -> datetime:
    """Local time, as the ACLs mean it; a time zone that is given is converted."""
    if at is None:
        return now
    try:
        given = datetime.fromisoformat(at)
        if not 1970 <= given.year <= 9000:
            raise ValueError
    except ValueError:
        raise InvalidArgument(
            f"--at {at}: expected a time such as 2030-12-24T08:30 (ISO 8601, local time)"
        ) from None
    return given.astimezone().replace(tzinfo=None) if given.tzinfo else given
