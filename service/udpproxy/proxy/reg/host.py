"""What an engine asks and tells, answered from the rules and said in the log."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterator

from udpproxy.process import messages
from udpproxy.process.logs import Logs, RateLimit
from udpproxy.process.loop import Reactor
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import (
    SEGMENTATION_REST,
    Arrival,
    ExtensionResult,
    ListenerSocket,
    PendingName,
    Verdict,
)
from udpproxy.proxy.reg.chatter import Chatter
from udpproxy.proxy.reg.extensions import Extensions
from udpproxy.proxy.reg.pending import PendingSession
from udpproxy.proxy.reg.senders import HeaderSenders
from udpproxy.proxy.reg.servers import Servers
from udpproxy.proxy.reg.unanswered import Unanswered
from udpproxy.proxy.reg.verdicts import Verdicts
from udpproxy.proxy.session import record as session_record
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import Table

_ROOM = {
    "refused-table-full": "all sessions are in use (max-sessions)",
    "refused-per-client": "the client has as many as it may (max-sessions-per-client)",
    "refused-rate": "too many open in too short a time (new-sessions, new-sessions-per-client, "
    "datagrams-per-client)",
    "refused-ports-kept": "the host keeps its other ports (use-all-ports)",
    "refused-own-socket": "it comes from a socket of this proxy",
}
_PRESSURE_ON, _PRESSURE_OFF = 0.90, 0.75

Keep = Callable[[PendingName, ListenerSocket, tuple[str, int], Arrival, bytes], None]


Target = tuple[tuple[str, int], int]
"""A server, and its number in its group."""


class RelayHost:
    """See engine.interface.Host. `verdicts` changes with a reload; `keep` takes the datagrams
    that wait for a name."""

    def __init__(
        self, reactor: Reactor, logs: Logs, table: Table, verdicts: Verdicts, keep: Keep
    ) -> None:
        self.verdicts = verdicts
        self.extensions = Extensions(logs, table)
        self.extensions.configure(verdicts.config)
        self._keep = keep
        self._logs = logs
        self._table = table
        self._rate_limit = RateLimit()
        self._chatter = Chatter(reactor)
        self._unanswered = Unanswered(logs)
        self.servers = Servers(logs)
        self.senders = HeaderSenders()
        self._pressed = False
        self.more: Callable[[], object] = lambda: None
        """Asks for sockets for more slots."""
        self.spend: Callable[[list[tuple[int, int]]], object] = lambda sockets: None
        """Asks for others in the place of these, by family and slot."""
        self.choose: Callable[[Verdict, Record], Target | None] = lambda verdict, record: None
        """Which server of its group a session gets."""
        self._followers: dict[int, tuple[Record, tuple[str, int]]] = {}
        """Sessions, by number, and the servers that they have yet to go on to."""
        self.led = dict.fromkeys(("close", "follow", "keep"), 0)
        """How many sessions of rules that lead elsewhere end, follow or stay."""

    def wait(
        self,
        waiting: PendingName,
        listener: ListenerSocket,
        client: tuple[str, int],
        arrival: Arrival,
        data: bytes,
    ) -> None:
        """A datagram whose session needs a name."""
        self._keep(waiting, listener, client, arrival, data)

    def unresolved(self, waiter: PendingSession) -> None:
        """A session that ends before it began, for its server's name has no address: its record,
        with the number 0."""
        wait, now = waiter.wait, time.monotonic_ns()
        via = waiter.arrival.via
        record = Record(
            client=(sockets.pack(waiter.client[0]), waiter.client[1]),
            via=(sockets.pack(via[0]), via[1]) if via else None,
            server=(b"", wait.port),
            opened=now - round((time.monotonic() - waiter.since) * 1e9),
        )
        fields = session_record.fields(record, wait.rule, Reason.UNRESOLVED, now)
        fields |= {
            "SERVER": wait.name,
            "BYTES_CIN": str(waiter.volume),
            "DATAGRAMS_CIN": str(waiter.came),
        }
        if self._unanswered.tells(wait.rule, Reason.UNRESOLVED, answered=False):
            self._logs.record(session_record.text(fields), fields)
        self._table.count("sessions-opened")
        self._table.add(record)

    def load(self, sessions: int) -> None:
        """So many sessions there are; asked now and then."""
        self._unanswered.look()
        most = min(self._table.capacity, self.verdicts.config.ports or self._table.capacity)
        if not self._pressed and sessions >= most * _PRESSURE_ON:
            self._pressed = True
            self._logs.say(messages.PRESSURE_ON, sessions, most)
        elif self._pressed and sessions <= most * _PRESSURE_OFF:
            self._pressed = False
            self._logs.say(messages.PRESSURE_OFF, sessions, most)
        if self._pressed:
            self._unanswered.pressed()

    def decide(
        self, listener: ListenerSocket, client: str, addressed: str, port: int
    ) -> Verdict | PendingName | None:
        """None: refused, counted and logged."""
        rule, verdict = self.verdicts.decide(listener, client, addressed, port)
        name = rule.name if rule else "-"
        if isinstance(verdict, PendingName):
            return verdict
        if verdict is not None and not self.extensions.refuses(name):
            self._accepted(client, name)
            return verdict
        self._refused(client, f"{addressed} port {port}", name, 1)
        return None

    def _accepted(self, client: str, name: str) -> None:
        if not self._logs.seen(messages.ACCEPTED):
            return
        held = self._chatter.allow(("accepted", name), pressed=self._pressed)
        if held is not None:
            self._logs.say(messages.ACCEPTED, client, name, held, CLIENT_ADDR=client, RULE=name)

    def lasting(
        self, listener: ListenerSocket, client: str, addressed: str, port: int
    ) -> tuple[int, int]:
        """See engine.interface.DecisionCacheHost; at level debug each session is asked for, and
        logged, as long as they are few."""
        if self._logs.seen(messages.ACCEPTED) and not self._chatter.crowded:
            return 0, 0
        return self.verdicts.lasting(listener, client, addressed, port)

    def denied(
        self, listener: ListenerSocket, client: str, addressed: str, port: int, count: int
    ) -> None:
        """So many more datagrams were refused, as decide() had said of others."""
        rule, _ = self.verdicts.decide(listener, client, addressed, port)
        name = rule.name if rule else "-"
        self._refused(client, f"{addressed} port {port}", name, count)

    def _refused(self, client: str, where: str, name: str, count: int) -> None:
        self._table.count("refused-by-acl", count)
        held = self._rate_limit.allow(("refused", name), count)
        if held is not None:
            why = "no rule matches" if name == "-" else f"rule {name}"
            self._logs.say(
                messages.REFUSED, client, where, why, held, CLIENT_ADDR=client, RULE=name
            )

    def decided(self, record: Record) -> Verdict | None:
        """The verdict for a session found in the table; None: no longer accepted."""
        if not self.senders.allow(record):
            return None
        verdict = self.verdicts.again(record)
        if verdict is None or self.extensions.refuses(verdict.rule):
            return None
        if not self.verdicts.has_rule(record) and self._led(record, verdict) == "close":
            return None
        self.extensions.judged(record, verdict)
        return verdict

    def _led(self, record: Record, verdict: Verdict) -> str:
        """What becomes of a session whose rule leads to another server since a reload; "": it does
        not."""
        rule = self.verdicts.config.rules[verdict.rule_number]
        server = self.verdicts.elsewhere(record, rule)
        if server is None:
            return ""
        self.led[rule.reload_policy] += 1
        if rule.reload_policy == "follow":
            self._followers[record.id] = record, server
        return rule.reload_policy

    def target(self, record: Record) -> Target | None:
        """Which server of its group the session would get now; None: its rule has no group."""
        verdict = self.verdicts.afresh(record)
        return self.choose(verdict, record) if verdict and verdict.candidates else None

    @property
    def has_followers(self) -> bool:
        """Are there sessions that are still to go on to another server?"""
        return bool(self._followers)

    def take_followers(self, most: int) -> Iterator[tuple[int, Target]]:
        """So many of them, and where to. One after the other: each counts for its server before
        the next one's is chosen."""
        for number in list(itertools.islice(self._followers, most)):
            record, server = self._followers.pop(number)
            yield number, self.target(record) or (server, 0)

    def handed(
        self, verdict: Verdict, slot: int, number: int, direction: str, payload: bytes
    ) -> ExtensionResult:
        """A datagram that an extension treats."""
        return self.extensions.handed(verdict, slot, number, direction, payload)

    def opened(
        self, number: int, rule: str, client: tuple[str, int], server: tuple[str, int]
    ) -> None:
        """A session was opened."""
        if not self._logs.seen(messages.OPENED):
            return
        held = self._chatter.allow(("opened", rule), pressed=self._pressed)
        if held is not None:
            self._logs.say(
                messages.OPENED,
                number,
                f"{client[0]} port {client[1]}",
                rule,
                f"{server[0]} port {server[1]}",
                held,
                SESSION=number,
                CLIENT_ADDR=client[0],
                RULE=rule,
            )

    def ended(self, record: Record, rule: str, reason: Reason) -> None:
        """A session ended: its record."""
        if self._unanswered.tells(rule, reason, answered=record.downloads > 0):
            fields = session_record.fields(record, rule, reason, time.monotonic_ns())
            self._logs.record(session_record.text(fields), fields)
        self.extensions.ended(record.id, reason)

    def tells(self, rule: str, reason: Reason, *, answered: bool) -> bool:
        """See engine.interface.DecisionCacheHost."""
        return self._unanswered.tells(rule, reason, answered=answered)

    def finish(self) -> None:
        """The last session has ended, or goes on without us."""
        self._unanswered.finish()

    def lost(self, slot: int, why: str) -> None:
        """A session that was found in the table is none."""
        held = self._rate_limit.allow("lost")
        if held is not None:
            self._logs.say(messages.RECORD_LOST, slot, why, held)

    def wants_texts(self) -> bool:
        """See engine.interface.DecisionCacheHost."""
        return self._logs.writes_lines

    def ended_texts(self, texts: list[str]) -> None:
        """See engine.interface.DecisionCacheHost."""
        self._logs.record_lines(texts)

    def refused(
        self,
        counter: str,
        client: tuple[str, int],
        listener: ListenerSocket,
        problem: OSError | None = None,
        count: int = 1,
    ) -> None:
        """New sessions were refused for want of something, this client's first."""
        held = self._rate_limit.allow((counter, problem and problem.errno), count)
        if held is not None and counter == "bad-header":
            where, why = f"{client[0]} port {client[1]}", self.senders.why(listener, client[0])
            self._logs.say(messages.BAD_HEADER, where, why, held)
        elif held is not None:
            why = _why_not_opened(problem) if problem else _ROOM[counter]
            self._logs.say(messages.NO_ROOM, client[0], why, held, CLIENT_ADDR=client[0])

    def strayed(self, number: int, rule: str, sender: tuple[str, int]) -> None:
        """A reply from somebody who may not reply was ignored."""
        held = self._rate_limit.allow(("stray", rule))
        if held is not None:
            where = f"{sender[0]} port {sender[1]}"
            self._logs.say(messages.UNEXPECTED_REPLY, where, rule, held, SESSION=number, RULE=rule)

    def rerouted(self, slot: int, number: int, rule: str) -> None:
        """One line a second for each rule: a lost address concerns all its sessions."""
        record = self._table.read(slot)
        if record is None or record.id != number:
            return
        held = self._rate_limit.allow(("rerouted", rule))
        if held is not None:
            client, server = self._ends(record)
            source = session_record.endpoint_text(*record.source)
            self._logs.say(
                messages.REROUTED, number, client, server, rule, source, held,
                SESSION=number, RULE=rule,
            )  # fmt: skip

    def silent(self, slot: int, number: int, rule: str) -> None:
        """One line a second for each rule: so many clients of a server may wait."""
        record = self._table.read(slot)
        if record is None or record.id != number:
            return
        held = self._rate_limit.allow(("silent", rule))
        if held is not None:
            client, server = self._ends(record)
            source = session_record.endpoint_text(*record.source) if record.source[1] else "nowhere"
            self._logs.say(
                messages.SERVER_SILENT, server, rule, client, number, source, held,
                SERVER=server, SESSION=number, RULE=rule,
            )  # fmt: skip

    def unreachable(self, slot: int, number: int, rule: str, problem: int) -> None:
        """ICMP errors of a session begin."""
        record = self._table.read(slot)
        if record is not None and record.id == number:
            self.servers.unreachable(record, rule, problem)

    def answers(self, slot: int, number: int, rule: str) -> None:
        """Its server, or another's for which somebody waits, answers."""
        record = self._table.read(slot)
        if record is not None and record.id == number:
            self.servers.answers(record, rule)

    @staticmethod
    def _ends(record: Record) -> tuple[str, str]:
        """The session's client and server, as people write them."""
        server = record.peer or record.server
        return session_record.endpoint_text(*record.client), session_record.endpoint_text(*server)

    def failed(self, what: str, problem: OSError, slot: int = 0, number: int = 0) -> None:
        """A datagram was lost to the system: one line a second for each kind."""
        held = self._rate_limit.allow(("failed", what, problem.errno))
        if held is None:
            return
        why, whose = problem.strerror or str(problem), ""
        record = self._table.read(slot) if number else None
        if record is not None and record.id == number:  # it may have ended meanwhile
            client, server = self._ends(record)
            whose = f", session {number} from {client} to {server}"
        self._logs.say(messages.CARRY_FAILED, what, why, whose, held)

    def not_copied(
        self, rule: str, receiver: tuple[str, int], problem: OSError, count: int = 1
    ) -> None:
        """Copies were lost to the system: one line a second for each receiver of a rule."""
        held = self._rate_limit.allow(("copy", rule, receiver), count)
        if held is not None:
            where = session_record.endpoint_text(sockets.pack(receiver[0]), receiver[1])
            why = problem.strerror or str(problem)
            self._logs.say(messages.NOT_COPIED, where, rule, why, held, RULE=rule)

    def unsegmented(self, sessions: int) -> None:
        """A device cannot cut runs of datagrams: for a while all go singly."""
        self._logs.say(messages.UNSEGMENTED, sessions, SEGMENTATION_REST // 60_000_000_000)

    def scarce(self) -> None:
        """Few slots with sockets are left."""
        self.more()

    def spent(self, sockets: list[tuple[int, int]]) -> None:
        """These keep a port that sessions have had."""
        self.spend(sockets)

    def datagram(self, number: int, direction: str, payload: memoryview) -> None:
        """At level full only."""
        text = payload.hex()
        self._logs.say(messages.PAYLOAD, number, direction, len(payload), text, SESSION=number)


def _why_not_opened(problem: OSError) -> str:
    if problem.errno == errno.EAGAIN:
        return "the system has no port for it (net.ipv4.ip_local_port_range)"
    why = f"the system cannot open it: {problem.strerror}"
    if problem.errno == errno.EACCES:
        why += " (source-port below net.ipv4.ip_unprivileged_port_start, or the route forbids it)"
    return why
