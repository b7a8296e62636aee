"""Births and deaths of the Python engine's sessions, and what happens to them in between.

Order matters for whoever comes after a crash: the record is written as OPENING before the socket
gets a port, so that a socket in use always has a record; the log has the session's record before
the table says that it ends, so that at worst it is there twice.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import cast

from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.attaching import Attaching
from udpproxy.proxy.engine.growing import WaitingForSockets
from udpproxy.proxy.engine.interface import (
    Arrival,
    Host,
    ListenerSocket,
    PendingName,
    Reactor,
    Timer,
    Verdict,
)
from udpproxy.proxy.engine.listened import Listened, Listening
from udpproxy.proxy.engine.pool import Pool
from udpproxy.proxy.engine.relayed import Relayed, peer_rule, sender_of
from udpproxy.proxy.session import layout
from udpproxy.proxy.session.balance import Candidate, Member, Members
from udpproxy.proxy.session.index import SOON, Session, SessionIndex
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.limits import (
    CHANCES_AT_ONCE,
    EVICTIONS_AT_ONCE,
    NS_PER_CHANCE,
    NS_PER_EVICTION,
    Allowance,
    Pace,
)
from udpproxy.proxy.session.meters import Meters, counted_as
from udpproxy.proxy.session.peers import Endpoint
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import MARKED, Table

TYPES = list(SessionType)
"""A type's place in here is its number in the table."""

_UNANSWERED = (Reason.IDLE, Reason.LIFETIME, Reason.SILENT)
_SECOND = 1_000_000_000
_SOONEST = 10_000_000
"""Nanoseconds until the next look at who is idle: it costs datagrams."""
_MOST_ENDED = 256
"""Sessions ended in one go before datagrams get their turn again."""


class Lifecycle(Attaching, ABC):
    """Everything about sessions that is not done for each datagram."""

    def __init__(
        self,
        reactor: Reactor,
        table: Table,
        pool: Pool,
        host: Host,
        *,
        per_client: int,
        prefix6: int,
        evict: bool,
    ) -> None:
        self._reactor = reactor
        self._table = table
        self._host = host
        book = SessionIndex(
            table.grown,
            table.capacity,
            per_client=per_client,
            evict=evict,
            last=self._last,
            asked=self._asked,
        )
        super().__init__(table, pool, host, book)
        self._prefix6 = prefix6
        self._meters = Meters(table.capacity)
        self._waiting = WaitingForSockets()
        self._members = Members()
        table.make_balance_key()
        self._lacks: OSError | None = None
        """Why there are no sockets for more slots."""
        self._evictions = Allowance(EVICTIONS_AT_ONCE, NS_PER_EVICTION)
        self._chances = Allowance(CHANCES_AT_ONCE, NS_PER_CHANCE)
        self._listeners = Listened(reactor)
        self._next_second = 0
        self._planned = 0
        self._timer: Timer | None = None
        self._watched = False
        self._announces = True
        self._awaiting = False

    @abstractmethod
    def _reader(self, session: Relayed) -> Callable[[], None]:
        """What to call when the session's socket has something."""

    @abstractmethod
    def _silent(self, session: Relayed) -> None:
        """Its server does not answer, and its patience has come to an end, for the first time or
        for good."""

    def _asked(self, session: Session) -> int:
        return self._words[cast(Relayed, session).at + layout.ASKED]

    def _last(self, session: Session) -> int:
        words, at = self._words, cast(Relayed, session).at
        return max(words[at + layout.LAST_UPLOAD], words[at + layout.LAST_DOWNLOAD])

    def _enter(self, listener: ListenerSocket) -> Listening:
        known = self._listeners.get(listener.number) is not None
        listening = self._listeners.enter(listener)
        for session in self._sessions() if known else ():
            if session.listener is listening:
                session.reply = listening.reply
        return listening

    def announce(self, *, openings: bool) -> None:
        """Whether the host is told of each session that opens."""
        self._announces = openings

    def await_answers(self, *, on: bool) -> None:
        """Whether the host is told of each session's first reply."""
        self._awaiting = on

    @property
    def sessions(self) -> int:
        """How many there are now."""
        return len(self._book)

    def limit_ports(self, most: int, each: int) -> None:
        """How many of the host's ports sessions may have; 0: no limit."""
        self._book.limit(most or self._table.capacity)
        self._own.each = each
        self._look_for_more()

    def limit_openings(self, pace: Pace) -> None:
        """How fast sessions may open, all together."""
        self._meters.limit(pace)

    def _look_for_more(self) -> None:
        """Ahead of need: sessions come faster than sockets can be had one by one."""
        if self._book.scarce():
            self._host.scarce()

    def remove_listener(self, number: int) -> int:
        """Its sessions end as `policy`; how many."""
        listening = self._listeners.pop(number)
        its = [session for session in self._sessions() if session.listener is listening]
        for session in its:
            self._close(session, Reason.POLICY)
        self._listeners.let_go(listening)
        return len(its)

    def _sessions(self) -> list[Relayed]:
        return [cast(Relayed, session) for session in self._book]

    def _open(
        self,
        listening: Listening,
        key: Hashable,
        client: tuple[str, int],
        now: int,
        data: bytes,
        arrival: Arrival,
        *,
        waited: bool = False,
    ) -> Relayed | None:
        """The first datagram: decide, take a slot, connect its socket, write its record. None:
        refused, or it waits: the host keeps `data` until it knows a name, or we until there is a
        socket; `waited`: it has."""
        given = listening.given
        sender = arrival.via or client
        if self._is_own(listening, sender, arrival.local):
            self._refuse("refused-own-socket", sender, listening)
            return None
        # First: a decision may need names, which are dear, and a flood has many.
        if not self._meters.may_come(now):
            self._refuse("refused-rate", client, listening)
            return None
        who = counted_as(client[0], self._prefix6)
        room = self._book.room(who)
        if room == SOON or (self._waiting and not waited):
            self._waiting.put(given.number, client, arrival, data)
            return None
        if isinstance(room, Session):
            if self._evictions.allows(now) and (waited or self._chances.allows(now)):
                self._chances.pay(now)
            else:
                room = self._book.full
        if isinstance(room, str):
            problem = self._lacks if room == "refused-no-port" else None
            self._refuse(room, client, listening, problem)
            return None
        addressed = sockets.unpack(arrival.addressed)
        verdict = self._host.decide(given, client[0], addressed, arrival.port)
        if isinstance(verdict, PendingName):
            self._host.wait(verdict, given, client, arrival, data)
        if not isinstance(verdict, Verdict):
            return None
        if not self._meters.admit(who, verdict.rule, verdict.budget, now):
            self._refuse("refused-rate", client, listening)
            return None
        chosen = self._choose(verdict, client, self._table.next_id())
        if chosen is None:
            self._refuse("refused-no-server", client, listening)
            return None
        if room is not None:
            self._evictions.pay(now)
            self._table.count("evicted")
            self._close(cast(Relayed, room), Reason.EVICTED)
        record = Record(
            state=State.OPENING,
            type=TYPES.index(verdict.type),
            rule_number=verdict.rule_number,
            generation=verdict.generation,
            listener=given.number,
            client=(sockets.pack(client[0]), client[1]),
            addressed=arrival.addressed,
            local=arrival.local,
            server=(sockets.pack(chosen.server[0]), chosen.server[1]),
            network=verdict.network,
            any_port=verdict.any_port,
            interface=arrival.interface,
            scope=sockets.scope_of(sender),
            addressed_port=arrival.port,
            via=(sockets.pack(sender[0]), sender[1]) if arrival.via else None,
            server_scope=sockets.scope_of(chosen.server),
            member=chosen.member,
            opened=now,
            opened_wall=time.time_ns(),
            last=now,
        )
        return self._begin(listening, key, client, verdict, record)

    def _choose(self, verdict: Verdict, client: tuple[str, int], number: int) -> Candidate | None:
        """The session's server; None: all of its group are drained."""
        if not verdict.candidates:
            return Candidate(verdict.server, 0, 1, verdict.member, standby=False)
        return self._members.choose(
            verdict.candidates,
            verdict.balance,
            self._table.balance_key(),
            (sockets.pack(client[0]), client[1]),
            number,
        )

    def choose(self, verdict: Verdict, record: Record) -> tuple[Endpoint, int] | None:
        """Which server the record's session would get now."""
        client = sockets.unpack(record.client[0]), record.client[1]
        chosen = self._choose(verdict, client, record.id)
        return (chosen.server, chosen.member) if chosen else None

    def set_member(self, number: int, state: int, *, trial: bool = False) -> None:
        """How a server of a group does from now on."""
        member = self._members[number]
        member.state, member.trial = state, trial

    def member(self, number: int) -> Member:
        """How it does."""
        return replace(self._members[number])

    def _begin(
        self,
        listening: Listening,
        key: Hashable,
        client: tuple[str, int],
        verdict: Verdict,
        record: Record,
    ) -> Relayed | None:
        slot = self._book.take_slot()
        self._look_for_more()
        self._spent.look()
        record.id = self._table.new_id()
        self._table.write(slot, record)
        session = self._relayed(slot, listening, key, client, verdict, record)
        # A slot has a socket for each family, and each of them counts on for ever.
        self._words[session.at + layout.DROPS_BASE] = sockets.drops(session.sock)
        try:
            session.own = self._attach(session, verdict.type)
        except OSError as problem:
            if not self._keeps(session.sock):
                self._pool.reset(session.sock, plain=session.plain)
            self._table.free(slot)
            self._give_back(slot)
            self._refuse("refused-no-port", client, listening, problem)
            return None
        self._mark(session)
        self._table.open(slot, (sockets.pack(session.own[0]), session.own[1]))
        self._table.count("sessions-opened")
        self._start(session)
        if self._announces:
            self._host.opened(session.id, verdict.rule, client, session.rule.server)
        return session

    def _mark(self, session: Relayed) -> bool:
        """See Relayed.mark_by_rule()."""
        if session.verdict.tos or session.verdict.keeps_dscp:
            self._words[MARKED] = 1
        return session.mark_by_rule()

    def _relayed(
        self,
        slot: int,
        listening: Listening,
        key: Hashable,
        client: tuple[str, int],
        verdict: Verdict,
        record: Record,
    ) -> Relayed:
        return Relayed(
            number=record.id,
            slot=slot,
            at=self._table.at(slot),
            listener=listening,
            key=key,
            client=counted_as(client[0], self._prefix6),
            address=sender_of(record) if record.via else client,
            ends=(record.client, (record.addressed, record.addressed_port)),
            local=record.local,
            interface=record.interface,
            opened=record.opened,
            verdict=verdict,
            rule=peer_rule(record, verdict),
            sock=self._pool.get(sockets.family_of(record.server[0]), slot),
            member=record.member,
        )

    def _start(self, session: Relayed, *, keyed: bool = True) -> None:
        self._note_own(session)
        self._members.join(session.member)
        self._book.open(session, answered=session.answered, keyed=keyed)
        self._plan(time.monotonic_ns())
        self._reactor.add_reader(session.sock.fileno(), self._reader(session))

    def _is_own(self, listening: Listening, client: tuple[str, int], local: bytes) -> bool:
        """A datagram that we sent ourselves: answering it would go round for ever."""
        address, port = client[0], client[1]
        if (address, port) in self._own:
            return True
        own = sockets.unpack(local or listening.given.address.packed)
        return self._listeners.has(address, port, own)

    def _refuse(
        self,
        counter: str,
        client: tuple[str, int],
        listening: Listening,
        problem: OSError | None = None,
    ) -> None:
        self._table.count(counter)
        self._host.refused(counter, client, listening.given, problem)

    def _pin(self, session: Relayed, peer: Endpoint) -> bool:
        """The first reply fixes the peer. False: it cannot be reached, so it was none."""
        try:
            self._pool.pin(session.sock, peer)
        except OSError as problem:
            self._lost(session, "fix the peer of a session", problem)
            return False
        session.pin(peer)
        self._table.pin(session.slot, (sockets.pack(peer[0]), peer[1]))
        return True

    def _close_upload(self, session: Relayed) -> None:
        self._book.close_upload(session)
        self._table.set_state(session.slot, State.UPLOAD_CLOSED)

    def _lost(self, session: Relayed, what: str, problem: OSError) -> None:
        self._words[session.at + layout.SEND_ERRORS] += 1
        self._table.count("send-errors")
        self._host.failed(what, problem, session.slot, session.id)

    def _close(self, session: Relayed, reason: Reason) -> None:
        slot, at, table = session.slot, session.at, self._table
        self._reactor.remove_reader(session.sock.fileno())
        self._leave(session, reason)
        record = table.read(slot)
        if record is None or record.id != session.id:
            record = Record(id=session.id, opened=session.opened)
        base = self._words[at + layout.DROPS_BASE]
        record.drops = (sockets.drops(session.sock) - base) & 0xFFFFFFFF
        self._host.ended(record, session.verdict.rule, reason)
        table.set_state(slot, State.CLOSING)
        table.add(record)
        session.unmark()
        self._let_go(session)
        spent = self._is_spent(slot)
        self._book.close(session, spent=spent)
        self._release_meter(session)
        table.free(slot)
        if spent:
            self._spent.add([slot])

    def _leave(self, session: Relayed, reason: Reason) -> None:
        """Its server has one less, and may not have answered it, where an answer was expected."""
        silent = not session.answered and not session.unreachable and session.uploads
        if session.member and silent and not session.one_way and reason in _UNANSWERED:
            self._members[session.member].unanswered += 1
        self._members.leave(session.member)

    def _release_meter(self, session: Relayed) -> None:
        """Its client's meter: it has ended, or other rules hold for it."""
        if session.meter is not None:
            self._meters.release(session.meter)
            session.meter = None

    def kill(self, number: int, reason: Reason = Reason.KILLED) -> bool:
        """End one session; False: there is none of that number."""
        session = self._book.get(number)
        if session is None:
            return False
        self._close(cast(Relayed, session), reason)
        return True

    def end(self, slot: int, number: int) -> bool:
        """The same; the slot is of no use here."""
        return self.kill(number)

    def work(self, now: int) -> int | None:
        """Expire what is due; once a second see what the kernel dropped."""
        for _ in range(_MOST_ENDED):
            due = self._book.due(now)
            if due is None:
                break
            session, reason = cast(Relayed, due[0]), due[1]
            if reason is None or reason is Reason.SILENT:
                self._silent(session)
            else:
                self._close(session, reason)
        if now >= self._next_second:
            self._next_second = now + _SECOND
            for new in self._listeners.new_drops():
                self._table.count("drops-listeners", new)
            self._spent.look(all_of_them=True)
        self._plan(now)
        moment = self._book.next_due()
        return self._next_second if moment is None else min(moment, self._next_second)

    def _plan(self, now: int) -> None:
        """Whoever calls work() now and then knows nothing of sessions that began meanwhile."""
        moment = self._book.next_due()
        if moment is None or now < self._planned <= moment:
            return
        if self._timer:
            self._timer.cancel()
        self._planned = max(moment, now + _SOONEST)
        self._timer = self._reactor.call_later((self._planned - now) / 1e9, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.work(time.monotonic_ns())

    def figures(self) -> dict[str, int]:
        """Sessions now, and all totals with what the live sessions have carried so far."""
        return {
            "sessions": len(self._book),
            **self._table.figures(),
            "waiting-dropped": self._waiting.dropped,
        }

    def close(self) -> None:
        """Stop carrying datagrams; the sessions stay in the table for the next one."""
        if self._timer:
            self._timer.cancel()
        for session in self._sessions():
            self._reactor.remove_reader(session.sock.fileno())
        self._listeners.close()
        self._pool.close()
