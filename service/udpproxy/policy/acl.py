"""The session ACLs: the first whose conditions all hold decides; none: refused.

Conditions are asked from the cheapest to the dearest; an answer depends on nothing but the
configuration, the question and the time, so it may be kept until `next_change`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from udpproxy.config.model import Acl, Address, Config, Destination, Ports
from udpproxy.policy import times
from udpproxy.policy.hosts import NetSet


@dataclass(frozen=True, slots=True)
class Question:
    """A datagram that belongs to no session: who sent it, and to which address and port."""

    client: Address
    addressed: Address
    port: int


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one ACL on the way to the answer."""

    acl: Acl
    holds: bool
    why: str


class Policy:
    """The ACLs of one configuration, made ready to be asked."""

    def __init__(self, config: Config) -> None:
        self._rules = [_Rule(acl) for acl in config.acls]
        self._periods = [
            period for acl in config.acls for period in (acl.time or ()) + (acl.not_time or ())
        ]

    def decide(self, question: Question, at: datetime) -> Acl | None:
        for rule in self._rules:
            if rule.failing(question, at) is None:
                return rule.acl
        return None

    def explain(self, question: Question, at: datetime) -> list[Step]:
        """Every ACL that was asked, up to and with the one that decides."""
        steps: list[Step] = []
        for rule in self._rules:
            failing = rule.failing(question, at)
            if failing is None:
                steps.append(Step(rule.acl, holds=True, why="every condition holds"))
                break
            steps.append(Step(rule.acl, holds=False, why=_why(failing, question, at)))
        return steps

    def next_change(self, at: datetime) -> datetime | None:
        """When an answer given now must be asked for anew; None: never."""
        return times.next_change(self._periods, at)


def server_for(acl: Acl, question: Question) -> tuple[Address, int]:
    """Where a session of this ACL goes."""
    if acl.server is None:
        raise ValueError(f"{acl.name} has no server: it denies")
    return acl.server.address, acl.server.port or question.port


class _Rule:
    """One ACL with its lists of networks made quick."""

    def __init__(self, acl: Acl) -> None:
        self.acl = acl
        self._source = None if acl.source is None else NetSet(acl.source)
        self._destinations = None if acl.destinations is None else _by_ports(acl.destinations)

    def failing(self, question: Question, at: datetime) -> str | None:
        """The key of the first condition that does not hold."""
        acl = self.acl
        if self._source is not None and question.client not in self._source:
            return "from"
        if self._destinations is not None and not self._is_for(question):
            return "to"
        if acl.time is not None and not any(times.holds(period, at) for period in acl.time):
            return "time"
        if acl.not_time is not None and any(times.holds(period, at) for period in acl.not_time):
            return "not-time"
        return None

    def _is_for(self, question: Question) -> bool:
        return any(
            (ports is None or question.port in ports)
            and (networks is None or question.addressed in networks)
            for ports, networks in self._destinations or ()
        )


def _by_ports(items: tuple[Destination, ...]) -> tuple[tuple[Ports | None, NetSet | None], ...]:
    """Items with the same ports share one set of networks; one without a network is any."""
    grouped: dict[Ports | None, list[Destination]] = {}
    for item in items:
        grouped.setdefault(item.ports, []).append(item)
    found: list[tuple[Ports | None, NetSet | None]] = []
    for ports, group in grouped.items():
        networks = [item.network for item in group if item.network is not None]
        found.append((ports, NetSet(networks) if len(networks) == len(group) else None))
    return tuple(found)


def _why(failing: str, question: Question, at: datetime) -> str:
    match failing:
        case "from":
            return f"from: {question.client} is in none of its networks"
        case "to":
            return f"to: {question.addressed} port {question.port} is none of its items"
        case "time":
            return f"time: {at:%a %Y-%m-%d %H:%M} is in none of its periods"
        case _:
            return f"not-time: {at:%a %Y-%m-%d %H:%M} is in one of its periods"
