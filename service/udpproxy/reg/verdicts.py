"""From the policy to verdicts: what an engine is told about the first datagram of a session.

The answer for (listener, client, addressed address) is kept until the configuration changes or
the clock passes the next boundary of a time condition, so that a resolver's thousandth question
costs no look at the rules.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import ip_address

from udpproxy.config.model import Acl, Address, Config
from udpproxy.engine.interface import ListenerSocket, Verdict
from udpproxy.policy.acl import Policy, Question, server_for
from udpproxy.session.limits import budget
from udpproxy.session.peers import network_bounds
from udpproxy.session.table import Record

_MOST_KEPT = 65_536
_LONGEST_KEPT = timedelta(minutes=1)
"""So long a change of the clock or of the time zone may go unnoticed."""

Key = tuple[int, str, str]


class Verdicts:
    """One configuration's answers; `generation` names it in the table's records."""

    def __init__(self, config: Config, generation: int) -> None:
        self.generation = generation
        self._config = config
        self._policy = Policy(config)
        self._budgets = [budget(acl.limits) for acl in config.acls]
        self._numbers = {acl.name: number for number, acl in enumerate(config.acls)}
        self._kept: dict[Key, tuple[Acl | None, Verdict | None]] = {}
        self._since = self._until = datetime.min

    def decide(
        self, listener: ListenerSocket, client: str, addressed: str
    ) -> tuple[Acl | None, Verdict | None]:
        """The deciding ACL, None where none matched, and the verdict, None where refused."""
        now = datetime.now()
        if not self._since <= now < self._until:
            self._kept.clear()
            self._since, longest = now, now + _LONGEST_KEPT
            self._until = min(self._policy.next_change(now) or longest, longest)
        key = (listener.number, client, addressed)
        answer = self._kept.get(key)
        if answer is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            question = Question(
                client=ip_address(client.partition("%")[0]),
                addressed=ip_address(addressed),
                port=listener.port,
            )
            answer = self._kept[key] = self._ask(question, now)
        return answer

    def again(self, record: Record, port: int) -> Verdict | None:
        """For a session that exists: nothing is asked while its configuration is the same."""
        if record.generation == self.generation:
            acl = self._config.acls[record.acl]
            question = _question(record, port)
            return self._verdict(acl, question) if acl.server else None
        return self._ask(_question(record, port), datetime.now())[1]

    def rule(self, record: Record) -> str:
        """The name of the session's ACL, as far as it is still known."""
        if record.generation == self.generation:
            return self._config.acls[record.acl].name
        return "-"

    def _ask(self, question: Question, now: datetime) -> tuple[Acl | None, Verdict | None]:
        acl = self._policy.decide(question, now)
        if acl is None or not acl.accept:
            return acl, None
        return acl, self._verdict(acl, question)

    def _verdict(self, acl: Acl, question: Question) -> Verdict:
        number = self._numbers[acl.name]
        address, port = server_for(acl, question)
        network = acl.broadcast_network
        return Verdict(
            acl=number,
            generation=self.generation,
            rule=acl.name,
            type=acl.type,
            server=(str(address), port),
            budget=self._budgets[number],
            any_port=acl.reply_any_port,
            network=network_bounds(network) if network else None,
            close_on_unreachable=acl.unreachable_close,
        )


def _question(record: Record, port: int) -> Question:
    client: Address = ip_address(record.client[0])
    return Question(client=client, addressed=ip_address(record.addressed), port=port)
