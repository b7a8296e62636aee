"""A name has other addresses: what that means for the sessions to its server, and the log line.

The sessions are gone through in parts, so that datagrams get their turn in between; changes that
come meanwhile wait in line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from udpproxy.config.model import Acl, Address
from udpproxy.config.names import rules_with, server_name
from udpproxy.engine.interface import Engine
from udpproxy.policy.acl import Known
from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.process.loop import Reactor
from udpproxy.reg.verdicts import Verdicts, question
from udpproxy.session.reasons import Reason
from udpproxy.session.table import Record, Table

_PART = 128
"""Sessions looked at in one go."""


@dataclass(frozen=True, slots=True)
class Change:
    """As ACR or APR tells it; `old` None: nobody has to be told."""

    name: str
    old: tuple[Address, ...] | None
    new: tuple[Address, ...]
    ttl: float


@dataclass(slots=True)
class _Counts:
    numbers: dict[str, int] = field(default_factory=lambda: {"pin": 0, "follow": 0, "close": 0})


class Changes:
    """`verdicts` and `port` (of a listener by its number) are asked anew for each session."""

    def __init__(
        self,
        reactor: Reactor,
        logs: Logs,
        table: Table,
        engine: Engine,
        known: Known,
        *,
        verdicts: Callable[[], Verdicts],
        port: Callable[[int], int | None],
    ) -> None:
        self._reactor = reactor
        self._logs = logs
        self._table = table
        self._engine = engine
        self._known = known
        self._verdicts = verdicts
        self._port = port
        self._waiting: deque[Iterator[None]] = deque()
        self._closed = False

    def apply(self, change: Change) -> None:
        """As soon as those before are done."""
        self._waiting.append(self._sweep(change))
        if len(self._waiting) == 1:
            self._work()

    def close(self) -> None:
        """The engine is gone."""
        self._closed = True

    def _work(self) -> None:
        while self._waiting and not self._closed:
            try:
                next(self._waiting[0])
            except StopIteration:
                self._waiting.popleft()
            else:
                self._reactor.call_later(0, self._work)
                return

    def _sweep(self, change: Change) -> Iterator[None]:
        counts = _Counts()
        acls = self._verdicts().config.acls
        numbers = {number for number, acl in enumerate(acls) if server_name(acl) == change.name}
        slots = self._table.of_rules(numbers) if numbers else []
        for start in range(0, len(slots), _PART):
            for slot in slots[start : start + _PART]:
                record = self._table.read(slot)
                if record is not None:
                    self._judge(record, change.name, counts)
            yield
        if change.old is not None:
            self._say(change, counts)

    def _judge(self, record: Record, name: str, counts: _Counts) -> None:
        verdicts, port = self._verdicts(), self._port(record.listener)
        if record.generation != verdicts.generation or port is None:
            return
        acl = verdicts.config.acls[record.acl]
        addresses = self._known.addresses(name)
        if server_name(acl) != name or ip_address(record.server[0]) in addresses:
            return
        counts.numbers[self._treat(record, acl, port, gone=not addresses)] += 1

    def _treat(self, record: Record, acl: Acl, port: int, *, gone: bool) -> str:
        """What was done."""
        if acl.resolve_policy == "close":
            self._engine.kill(record.id, Reason.UNRESOLVED if gone else Reason.POLICY)
            return "close"
        server = self._verdicts().server(acl, question(record, port))
        if acl.resolve_policy == "follow" and server is not None:
            self._engine.redirect(record.id, server)
            return "follow"
        return "pin"

    def _say(self, change: Change, counts: _Counts) -> None:
        rules = ", ".join(rules_with(self._verdicts().config, change.name)) or "-"
        old, new = _text(change.old or ()), _text(change.new)
        stay, follow, end = counts.numbers.values()
        self._logs.say(
            messages.NAME_CHANGED, change.name, new, old, change.ttl, rules, stay, follow, end,
            NAME=change.name, OLD=old, NEW=new, TTL=f"{change.ttl:g}", RULES=rules,
            SESSIONS=stay + follow + end,
        )  # fmt: skip


def _text(addresses: tuple[Address, ...]) -> str:
    return ", ".join(map(str, addresses)) or "none"
