"""What names do to sessions: those that waited begin or end, and those to the server of a name
that has other addresses stay, follow or end, with a log line.

The sessions are gone through in parts, so that datagrams get their turn in between; changes that
come meanwhile wait in line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from udpproxy.process import messages
from udpproxy.process.logs import Logs, RateLimit
from udpproxy.process.loop import Reactor
from udpproxy.proxy.config.model import Rule
from udpproxy.proxy.config.names import names, rules_with, server_names
from udpproxy.proxy.engine.interface import Engine
from udpproxy.proxy.policy.rules import NameView
from udpproxy.proxy.reg.host import RelayHost
from udpproxy.proxy.reg.name_cache import NameChange
from udpproxy.proxy.reg.pending import PendingSession
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import Table
from udpproxy.resolver.resolved import Resolved, text

_PART = 128
"""Sessions looked at in one go."""
_QUIET = 0.2
"""Seconds between two lines on one name: ACR itself is never so quick."""


@dataclass(slots=True)
class _Counts:
    numbers: dict[str, int] = field(default_factory=lambda: {"pin": 0, "follow": 0, "close": 0})


class NamedSessions:
    """All sessions of one engine, as far as names are their business."""

    def __init__(
        self,
        reactor: Reactor,
        logs: Logs,
        table: Table,
        engine: Engine,
        host: RelayHost,
        known: NameView,
    ) -> None:
        self._reactor = reactor
        self._logs = logs
        self._table = table
        self._engine = engine
        self._host = host
        self._known = known
        self._waiting: dict[str, NameChange] = {}
        """By name, so that a name that changes all the time takes one place in line."""
        self._sweeping: Iterator[None] | None = None
        self._busy = False
        self._rate_limit = RateLimit(_QUIET)
        self._closed = False

    def changed(self, change: NameChange) -> None:
        """For new sessions now, for those that there are as soon as changes before are done."""
        if self._closed:
            return
        self._host.verdicts.forget()
        self._engine.forget_decisions()
        waits = self._waiting.get(change.name)
        if waits and waits.before is not None:
            change = replace(change, before=waits.before)
        self._waiting[change.name] = change
        if not self._busy:
            self._work()

    def look(self) -> None:
        """Names may have changed while nobody looked after the sessions."""
        for name in names(self._host.verdicts.config):
            if addresses := self._known.addresses(name):
                self.changed(NameChange(Resolved(name, addresses), before=None))

    def begin(self, waiter: PendingSession) -> None:
        """Its name is there, or counts as no match."""
        if not self._closed:
            datagrams = list(waiter.datagrams)
            self._engine.inject(waiter.listener.number, waiter.client, waiter.arrival, datagrams)

    def give_up(self, waiter: PendingSession) -> None:
        """Its server has no address."""
        if not self._closed:
            self._host.unresolved(waiter)

    def close(self) -> None:
        """The engine is gone."""
        self._closed = True

    def _work(self) -> None:
        """One part of one change; the rest when the loop has turned."""
        self._busy = False
        if self._closed:
            return
        if self._sweeping is None:
            self._sweeping = self._sweep(self._waiting.pop(next(iter(self._waiting))))
        if next(self._sweeping, True):
            self._sweeping = None
        if self._sweeping or self._waiting:
            self._busy = True
            self._reactor.call_later(0, self._work)

    def _sweep(self, change: NameChange) -> Iterator[None]:
        counts = _Counts()
        rules = self._host.verdicts.config.rules
        numbers = {number for number, rule in enumerate(rules) if change.name in server_names(rule)}
        slots = self._table.of_rules(numbers) if numbers else []
        for start in range(0, len(slots), _PART):
            for slot in slots[start : start + _PART]:
                record = self._table.read(slot)
                if record is not None:
                    self._judge(record, change.name, counts)
            yield
        if change.before is not None and set(change.before) != set(change.now.addresses):
            self._say(change, counts)

    def _judge(self, record: Record, name: str, counts: _Counts) -> None:
        verdicts = self._host.verdicts
        if not verdicts.has_rule(record):
            return
        rule = verdicts.config.rules[record.rule_number]
        addresses = self._known.addresses(name)
        if verdicts.server_name(record, rule) != name or ip_address(record.server[0]) in addresses:
            return
        counts.numbers[self._treat(record, rule, gone=not addresses)] += 1

    def _treat(self, record: Record, rule: Rule, *, gone: bool) -> str:
        """What was done."""
        if rule.resolve_policy == "close":
            self._engine.kill(record.id, Reason.UNRESOLVED if gone else Reason.POLICY)
            return "close"
        server = self._host.verdicts.followed(record, rule)
        if rule.resolve_policy == "follow" and server is not None:
            self._engine.redirect(record.id, server, record.member)
            return "follow"
        return "pin"

    def _say(self, change: NameChange, counts: _Counts) -> None:
        held = self._rate_limit.allow(change.name)
        if held is None:
            return
        rules = ", ".join(rules_with(self._host.verdicts.config, change.name)) or "-"
        old, new, ttl = text(change.before or ()), text(change.now.addresses), change.now.ttl
        stay, follow, end = counts.numbers.values()
        self._logs.say(
            messages.NAME_CHANGED, change.name, new, old, ttl, rules, stay, follow, end,
            held,
            NAME=change.name, OLD=old, NEW=new, TTL=f"{ttl:g}", RULES=rules,
            SESSIONS=stay + follow + end,
        )  # fmt: skip
