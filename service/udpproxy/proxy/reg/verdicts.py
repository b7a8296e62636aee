"""From the policy to verdicts: what an engine is told about the first datagram of a session.

The answer for (listener, client, address and port written to) is kept until the configuration or a
name changes or the clock passes the next boundary of a time condition, so that a resolver's
thousandth question costs no look at the rules. What was decided by a client's name is not kept.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address

from udpproxy.config.addresses import is_one_host
from udpproxy.config.model import Address, Name
from udpproxy.proxy.config.model import KEEP, Config, Rule, Server
from udpproxy.proxy.config.names import server_names
from udpproxy.proxy.engine import dscp, sockets
from udpproxy.proxy.engine.interface import ListenerSocket, PendingName, Verdict
from udpproxy.proxy.policy.rules import (
    Choice,
    NameView,
    Places,
    Policy,
    Question,
    Unresolved,
    endpoint_of,
    mirrors_for,
    server_for,
)
from udpproxy.proxy.reg.members import MemberNumbers, key_of
from udpproxy.proxy.session.balance import Candidate, identity
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.limits import budget
from udpproxy.proxy.session.peers import network_bounds

_MOST_KEPT = 65_536
_FAR = timedelta(days=1)
_LONGEST = 10.0
_NO_LINK = (1 << 31) - 1
"""In the place of an interface's number: no interface has it."""

Key = tuple[int, str, str, int]
Answer = tuple[Rule | None, Verdict | PendingName | None]


class Verdicts:
    """One configuration's answers; `generation` names it in the table's records."""

    def __init__(
        self,
        config: Config,
        generation: int,
        known: NameView,
        versions: tuple[int, ...],
        links: Mapping[str, int],
        own: Collection[bytes],
        numbers: MemberNumbers,
        before: Verdicts | None = None,
    ) -> None:
        """`versions` of IP that there are sockets for; `links`: the interfaces that servers are
        at, and their numbers, as they are at each moment; `numbers` are those of groups' servers;
        `before`: what ruled until now."""
        self.generation = generation
        self.config = config
        self._known = known
        self._versions = versions
        self._links = links
        self._own = own
        self._member_numbers = numbers
        self._transparent = {
            (ports, address.version)
            for listen in config.listen
            for ports in listen.ports
            for address in listen.addresses
            if listen.transparent
        }
        self._policy = Policy(config)
        self._places = Places(config)
        self._budgets = [budget(rule.limits) for rule in config.rules]
        self._numbers = {rule.name: number for number, rule in enumerate(config.rules)}
        self._before = (before.generation, before.config.rules) if before else (-1, ())
        self._kept: dict[Key, Answer] = {}
        self._since = self._until = datetime.min

    def decide(self, listener: ListenerSocket, client: str, addressed: str, port: int) -> Answer:
        """The deciding ACL, None where none matched, and the verdict, None where refused."""
        now = datetime.now()
        if not self._since <= now < self._until:  # a clock may be set back, too
            self._kept.clear()
            self._since = now
            self._until = self._policy.next_change(now) or now + _FAR
        key = (listener.number, client, addressed, port)
        answer = self._kept.get(key)
        if answer is not None:
            return answer
        question = Question(
            client=ip_address(client.partition("%")[0]),
            addressed=ip_address(addressed),
            port=port,
            place=self._places.of(ip_address(addressed), port),
            transparent=listener.place.transparent and self._is_foreign(ip_address(addressed)),
        )
        choice = self._policy.decide(question, now, self._known)
        answer = choice.rule, self._answer(choice, question)
        if not choice.by_name and not isinstance(answer[1], PendingName):
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = answer
        return answer

    def lasting(
        self, listener: ListenerSocket, client: str, addressed: str, port: int
    ) -> tuple[int, int]:
        """See engine.interface.DecisionCacheHost. Never for long, so that a clock that is set does
        no harm."""
        if (listener.number, client, addressed, port) not in self._kept:
            return 0, 0
        left = (self._until - datetime.now()).total_seconds()
        until = time.monotonic_ns() + max(0, round(min(left, _LONGEST) * 1e9))
        return self._policy.bits(ip_address(client.partition("%")[0]), self._known), until

    def forget(self) -> None:
        """A name has changed."""
        self._kept.clear()

    def again(self, record: Record) -> Verdict | None:
        """For a session that exists: nothing is asked while its configuration is the same, and
        its server stays what it is."""
        if self.has_rule(record):
            found: Rule | None = self.config.rules[record.rule_number]
        else:
            found = self._choose_again(record, self.question(record))
        if found is None or not found.accept:
            return None
        server = sockets.server_of(record.server, record.server_scope)
        verdict = self._verdict(found, server, record.addressed_port)
        return replace(verdict, member=self.member(record, found))

    def member(self, record: Record, rule: Rule) -> int:
        """The number of the session's server in the rule's group; 0: it is none of it."""
        if rule.group is None:
            return 0
        asked = self.question(record)
        for server in rule.group.servers:
            addresses = (
                {found.packed for found in self._known.addresses(server.host.text)}
                if isinstance(server.host, Name)
                else {server.host.packed}
            )
            same_port = server.port(asked.port, asked.place) == record.server[1]
            if same_port and record.server[0] in addresses:
                return self._member_numbers[key_of(rule.group, server)]
        return 0

    def server_name(self, record: Record, rule: Rule) -> str | None:
        """The name that the session's server has in the file; None: an address."""
        server = self._server_of(record, rule)
        return server.host.text if server and isinstance(server.host, Name) else None

    def followed(self, record: Record, rule: Rule) -> tuple[str, int] | None:
        """Where the session's server is by now; None: its name is not resolved."""
        server, asked = self._server_of(record, rule), self.question(record)
        if server is None:
            return self.server(rule, asked)
        found = endpoint_of(server, asked, self._known, self._versions)
        return self._endpoint(*found) if found else None

    def _server_of(self, record: Record, rule: Rule) -> Server | None:
        """As the file has it: the rule's only one, or of its group by the number."""
        if rule.group is None:
            return rule.server
        for server in rule.group.servers:
            if self._member_numbers[key_of(rule.group, server)] == record.member:
                return server
        return None

    def candidates(self, rule: Rule, asked: Question) -> tuple[Candidate, ...]:
        """The servers of the rule's group that have an address by now."""
        group, found = rule.group, []
        for place, server in enumerate(group.servers if group else ()):
            assert group
            where = endpoint_of(server, asked, self._known, self._versions)
            number = self._member_numbers[key_of(group, server)]
            if where and number:
                standby = place >= len(group.members)
                weight = 1 if standby else group.weights[place]
                drawn = identity(str(server))
                one = Candidate(self._endpoint(*where), drawn, weight, number, standby)
                found.append(one)
        return tuple(found)

    def afresh(self, record: Record) -> Verdict | None:
        """What a new session of the client would be told by the session's rule; None: it is no rule
        any more, or no server is resolved."""
        asked = self.question(record)
        if self.has_rule(record):
            rule: Rule | None = self.config.rules[record.rule_number]
        else:
            rule = self._choose_again(record, asked)
        server = self.server(rule, asked) if rule and rule.accept else None
        return self._verdict(rule, server, asked.port, asked) if rule and server else None

    def elsewhere(self, record: Record, rule: Rule) -> tuple[str, int] | None:
        """Where the rule sends sessions now, if the file has another server in it than when this
        one began; None: that is not so, or the new server's name is not resolved."""
        generation, rules = self._before
        if generation == record.generation and record.rule_number < len(rules):
            if rules[record.rule_number].servers == rule.servers:
                return None  # what a name stands for is resolve-policy's business
        elif rule.to_addressed or server_names(rule):
            return None  # nobody knows what it was
        if self.member(record, rule):
            return None  # still one of them
        server = self.server(rule, self.question(record))
        same = sockets.server_of(record.server, record.server_scope)
        return server if server != same else None

    def server(self, rule: Rule, asked: Question) -> tuple[str, int] | None:
        """Where a session of the ACL would go now; None: its server's name is not resolved."""
        found = server_for(rule, asked, self._known, self._versions)
        return self._endpoint(*found) if found else None

    def _can_be(self, source: Address, server: str) -> bool:
        """A source that is of the server's family and this host's. Where it need not be known
        whose it is, the system finds out."""
        same = len(source.packed) == len(sockets.pack(server))
        return same and (not self._own or source.packed in self._own)

    def _endpoint(self, host: Address, port: int) -> tuple[str, int]:
        zone = host.scope_id if isinstance(host, IPv6Address) else None
        scope = self._links.get(zone, _NO_LINK) if zone else 0
        return sockets.server_of((host.packed, port), scope)

    def question(self, record: Record) -> Question:
        """What the session's first datagram asked."""
        addressed = ip_address(record.addressed)
        return Question(
            client=ip_address(record.client[0]),
            addressed=addressed,
            port=record.addressed_port,
            place=self._places.of(addressed, record.addressed_port),
            transparent=record.via is None
            and self._is_foreign(addressed)
            and any(
                record.addressed_port in ports and version == addressed.version
                for ports, version in self._transparent
            ),
        )

    def _is_foreign(self, addressed: Address) -> bool:
        """Is it of another host, and of one alone?"""
        return not (
            addressed.packed in self._own or addressed.is_loopback or not is_one_host(addressed)
        )

    def rule(self, record: Record) -> str:
        """The name of the session's ACL, as far as it is still known."""
        return self.config.rules[record.rule_number].name if self.has_rule(record) else "-"

    def has_rule(self, record: Record) -> bool:
        """Is the record's number one of this configuration's rules?"""
        return record.generation == self.generation and record.rule_number < len(self.config.rules)

    def _choose_again(self, record: Record, asked: Question) -> Rule | None:
        """A session must not end because its client's name is not known at this moment: the ACL
        that has opened it is believed."""
        now = datetime.now()
        choice = self._policy.decide(asked, now, self._known)
        if choice.pending:
            generation, rules = self._before
            known = generation == record.generation and record.rule_number < len(rules)
            opened_by = rules[record.rule_number].name if known else "-"
            if choice.rule and choice.rule.name == opened_by:
                return choice.rule
            choice = self._policy.decide(asked, now, _Nameless(self._known))
        return choice.rule

    def _answer(self, choice: Choice, asked: Question) -> Verdict | PendingName | None:
        rule = choice.rule
        if rule is None or not (rule.accept or choice.pending):
            return None
        if choice.pending:
            return self._wait("client", str(asked.client), rule, asked)
        server = self.server(rule, asked)
        if server is None:
            return self._wait("server", server_names(rule)[0], rule, asked)
        return self._verdict(rule, server, asked.port, asked)

    def _wait(self, kind: str, name: str, rule: Rule, asked: Question) -> PendingName:
        return PendingName(
            kind=kind,
            name=name,
            rule_number=self._numbers[rule.name],
            generation=self.generation,
            rule=rule.name,
            type=rule.type,
            port=rule.servers[0].port(asked.port, asked.place) if rule.servers else asked.port,
        )

    def _verdict(
        self, rule: Rule, server: tuple[str, int], port: int, asked: Question | None = None
    ) -> Verdict:
        """`port`: the one that the client wrote to; `asked`: of a new session, which may go to any
        server of a group."""
        candidates = self.candidates(rule, asked) if asked else ()
        servers = [one.server[0] for one in candidates] or [server[0]]
        number = self._numbers[rule.name]
        network = rule.broadcast_network
        return Verdict(
            rule_number=number,
            generation=self.generation,
            rule=rule.name,
            type=rule.type,
            server=server,
            budget=self._budgets[number],
            any_port=rule.reply_any_port,
            sources=tuple(
                source.packed if source else b""
                for source in rule.sources
                if source is None or any(self._can_be(source, one) for one in servers)
            ),
            fallback=rule.fallback,
            source_port=rule.source_port,
            network=network_bounds(network) if network else None,
            close_on_unreachable=rule.unreachable_close,
            handed=rule.extension is not None,
            header=rule.header,
            candidates=candidates,
            balance=rule.group.balance if rule.group and candidates else "",
            mirrors=tuple(self._endpoint(*where) for where in mirrors_for(rule, port)),
            tos=0 if rule.dscp == KEEP else dscp.byte_of(int(rule.dscp)),
            keeps_dscp=rule.dscp == KEEP,
        )


class _Nameless(Unresolved):
    """Names as they are known, but no client has one."""

    def __init__(self, known: NameView) -> None:
        self._known = known

    def addresses(self, name: str) -> tuple[Address, ...]:
        """As they are known."""
        return self._known.addresses(name)
