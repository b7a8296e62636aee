"""From the policy to verdicts: what an engine is told about the first datagram of a session.

The answer for (listener, client, addressed address) is kept until the configuration or a name
changes or the clock passes the next boundary of a time condition, so that a resolver's thousandth
question costs no look at the rules. What was decided by a client's name is not kept.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from ipaddress import ip_address

from udpproxy.config.model import Address, Name
from udpproxy.proxy.config.model import Acl, Config
from udpproxy.proxy.config.names import server_name
from udpproxy.proxy.engine.interface import ListenerSocket, Verdict, Wait
from udpproxy.proxy.policy.acl import Choice, NameView, Policy, Question, Unresolved, server_for
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.limits import budget
from udpproxy.proxy.session.peers import network_bounds
from udpproxy.proxy.session.record import address_text

_MOST_KEPT = 65_536
_FAR = timedelta(days=1)
_LONGEST = 10.0

Key = tuple[int, str, str]
Answer = tuple[Acl | None, Verdict | Wait | None]


class Verdicts:
    """One configuration's answers; `generation` names it in the table's records."""

    def __init__(
        self,
        config: Config,
        generation: int,
        known: NameView,
        versions: tuple[int, ...],
        before: Verdicts | None = None,
    ) -> None:
        """`versions` of IP that there are sockets for; `before`: what ruled until now."""
        self.generation = generation
        self.config = config
        self._known = known
        self._versions = versions
        self._policy = Policy(config)
        self._budgets = [budget(acl.limits) for acl in config.acls]
        self._numbers = {acl.name: number for number, acl in enumerate(config.acls)}
        self._before = (before.generation, before.config.acls) if before else (-1, ())
        self._kept: dict[Key, Answer] = {}
        self._since = self._until = datetime.min

    def decide(self, listener: ListenerSocket, client: str, addressed: str) -> Answer:
        """The deciding ACL, None where none matched, and the verdict, None where refused."""
        now = datetime.now()
        if not self._since <= now < self._until:  # a clock may be set back, too
            self._kept.clear()
            self._since = now
            self._until = self._policy.next_change(now) or now + _FAR
        key = (listener.number, client, addressed)
        answer = self._kept.get(key)
        if answer is not None:
            return answer
        question = Question(
            client=ip_address(client.partition("%")[0]),
            addressed=ip_address(addressed),
            port=listener.port,
        )
        choice = self._policy.decide(question, now, self._known)
        answer = choice.acl, self._answer(choice, question)
        if not choice.by_name and not isinstance(answer[1], Wait):
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = answer
        return answer

    def lasting(self, listener: ListenerSocket, client: str, addressed: str) -> tuple[int, int]:
        """See engine.interface.Lasting. Never for long, so that a clock that is set does no
        harm."""
        if (listener.number, client, addressed) not in self._kept:
            return 0, 0
        left = (self._until - datetime.now()).total_seconds()
        until = time.monotonic_ns() + max(0, round(min(left, _LONGEST) * 1e9))
        return self._policy.bits(ip_address(client.partition("%")[0]), self._known), until

    def forget(self) -> None:
        """A name has changed."""
        self._kept.clear()

    def again(self, record: Record, port: int) -> Verdict | None:
        """For a session that exists: nothing is asked while its configuration is the same, and
        its server stays what it is."""
        server = address_text(record.server[0]), record.server[1]
        if self.has_rule(record):
            acl = self.config.acls[record.acl]
            return self._verdict(acl, server) if acl.server else None
        found = self._choose_again(record, question(record, port))
        return self._verdict(found, server) if found and found.accept else None

    def elsewhere(self, record: Record, acl: Acl, port: int) -> tuple[str, int] | None:
        """Where the rule sends sessions now, if the file has another server in it than when this
        one began; None: that is not so, or the new server's name is not resolved."""
        generation, acls = self._before
        if generation == record.generation and record.acl < len(acls):
            if acls[record.acl].server == acl.server:
                return None  # what a name stands for is resolve-policy's business
        elif acl.server is None or isinstance(acl.server.host, Name):
            return None  # nobody knows what it was
        server = self.server(acl, question(record, port))
        same = (address_text(record.server[0]), record.server[1])
        return server if server != same else None

    def server(self, acl: Acl, asked: Question) -> tuple[str, int] | None:
        """Where a session of the ACL would go now; None: its server's name is not resolved."""
        found = server_for(acl, asked, self._known, self._versions)
        return (str(found[0]), found[1]) if found else None

    def rule(self, record: Record) -> str:
        """The name of the session's ACL, as far as it is still known."""
        return self.config.acls[record.acl].name if self.has_rule(record) else "-"

    def has_rule(self, record: Record) -> bool:
        """Is the record's number one of this configuration's rules?"""
        return record.generation == self.generation and record.acl < len(self.config.acls)

    def _choose_again(self, record: Record, asked: Question) -> Acl | None:
        """A session must not end because its client's name is not known at this moment: the ACL
        that has opened it is believed."""
        now = datetime.now()
        choice = self._policy.decide(asked, now, self._known)
        if choice.pending:
            generation, acls = self._before
            known = generation == record.generation and record.acl < len(acls)
            opened_by = acls[record.acl].name if known else "-"
            if choice.acl and choice.acl.name == opened_by:
                return choice.acl
            choice = self._policy.decide(asked, now, _Nameless(self._known))
        return choice.acl

    def _answer(self, choice: Choice, asked: Question) -> Verdict | Wait | None:
        acl = choice.acl
        if acl is None or not (acl.accept or choice.pending):
            return None
        if choice.pending:
            return self._wait("client", str(asked.client), acl, asked)
        server = self.server(acl, asked)
        if server is None:
            return self._wait("server", server_name(acl) or "", acl, asked)
        return self._verdict(acl, server)

    def _wait(self, kind: str, name: str, acl: Acl, asked: Question) -> Wait:
        return Wait(
            kind=kind,
            name=name,
            acl=self._numbers[acl.name],
            generation=self.generation,
            rule=acl.name,
            type=acl.type,
            port=(acl.server.port if acl.server else None) or asked.port,
        )

    def _verdict(self, acl: Acl, server: tuple[str, int]) -> Verdict:
        number = self._numbers[acl.name]
        network = acl.broadcast_network
        return Verdict(
            acl=number,
            generation=self.generation,
            rule=acl.name,
            type=acl.type,
            server=server,
            budget=self._budgets[number],
            any_port=acl.reply_any_port,
            network=network_bounds(network) if network else None,
            close_on_unreachable=acl.unreachable_close,
            handed=acl.extension is not None,
        )


class _Nameless(Unresolved):
    """Names as they are known, but no client has one."""

    def __init__(self, known: NameView) -> None:
        self._known = known

    def addresses(self, name: str) -> tuple[Address, ...]:
        """As they are known."""
        return self._known.addresses(name)


def question(record: Record, port: int) -> Question:
    """What the session's first datagram asked."""
    client: Address = ip_address(record.client[0])
    return Question(client=client, addressed=ip_address(record.addressed), port=port)
