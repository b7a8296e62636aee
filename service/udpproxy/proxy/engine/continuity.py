"""Sessions that go on: over the death of REG, a change of the rules, of a name or of the way to
their server, and a wait for a name or a socket."""

from __future__ import annotations

import errno
import os
import socket
import time
from abc import abstractmethod
from typing import cast

from udpproxy.proxy.engine import dscp, sockets
from udpproxy.proxy.engine.adopting import Stock
from udpproxy.proxy.engine.interface import Arrival
from udpproxy.proxy.engine.reachability import Reachability
from udpproxy.proxy.engine.relayed import Relayed, came
from udpproxy.proxy.session import layout
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.limits import TRIED
from udpproxy.proxy.session.peers import Endpoint
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.sense import Damaged
from udpproxy.proxy.session.table import MARKED

_FOLLOW = "follow a server to its new address"
_MOST_READS = range(16)
"""Bursts of datagrams that are taken from a socket before it is connected afresh: what is left is
lost."""


class Continuity(Reachability):
    """What adopt(), reconsider(), inject(), redirect(), reconnect(), extend() and lack() of the
    interface do."""

    @abstractmethod
    def _upload(self, session: Relayed, data: bytes, now: int) -> None:
        """A client's datagram, with all that its session wants to know of it."""

    def reconsider(self) -> int:
        """The rules have changed: ask the host about every session; how many ended."""
        ended = 0
        for session in self._sessions():
            try:
                verdict = self._host.decided(self._table.live(session.slot, session.id))
            except Damaged as problem:
                self._table.count("sessions-lost")
                self._host.lost(session.slot, str(problem))
                self._close(session, Reason.ERROR)
                ended += 1
                continue
            if verdict is None:
                self._close(session, Reason.POLICY)
                ended += 1
                continue
            self._release_meter(session)
            session.judge_by(verdict)
            self._give(session, verdict.member)
            session.be_careful(watched=self._watched)
            self._table.set_rule(session.slot, verdict.rule_number, verdict.generation)
            self._wait_for_nothing(session)
            if self._mark(session):
                self._reactor.remove_reader(session.sock.fileno())
                self._reactor.add_reader(session.sock.fileno(), self._reader(session))
            self._book.replan(session)
            self._plan(time.monotonic_ns())
        return ended

    def inject(
        self, listener: int, client: tuple[str, int], arrival: Arrival, datagrams: list[bytes]
    ) -> None:
        """Datagrams that waited for a name, as if they came now."""
        listening = self._listeners.get(listener)
        now = time.monotonic_ns()
        for data in datagrams if listening else ():
            assert listening
            key = listening.key(client, arrival)
            session = cast("Relayed | None", listening.sessions.get(key)) or self._open(
                listening, key, client, now, data, arrival, waited=True
            )
            if session is not None:
                session.keep(arrival.tos)
                self._upload(session, data, now)

    def extend(self, carriers: list[socket.socket], slots: int) -> None:
        """Those that waited for sockets go on."""
        self._pool.extend(carriers)
        self._table.grown = slots
        self._book.extend(slots)
        self._lacks = None
        self._go_on()
        self._look_for_more()

    def replace(self, fresh: list[tuple[int, int, socket.socket]]) -> None:
        """Those that waited for sockets go on."""
        for family, slot, sock in fresh:
            if self._spent.came(family, slot):
                self._pool.replace(family, slot, sock)
            else:
                sock.close()
        self._lacks = None
        self._spent.look()
        self._go_on()

    def lack(self, problem: int) -> None:
        """Those that waited for sockets are refused."""
        self._lacks = OSError(problem, os.strerror(problem))
        self._book.lack()
        self._go_on()

    def _go_on(self) -> None:
        for listener, client, arrival, data in self._waiting.take():
            self.inject(listener, client, arrival, [data])

    def redirect(self, number: int, server: Endpoint, member: int = 0) -> bool:
        """The session goes on to another server; after a crash in between the next engine connects
        it there."""
        session = cast("Relayed | None", self._book.get(number))
        if session is None:
            return False
        packed = sockets.pack(server[0])
        if session.slot >= self._pool.size(sockets.family_of(packed)):
            problem = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            self._host.failed(_FOLLOW, problem, session.slot, session.id)
            self._close(session, Reason.ERROR)
            return True
        lost = sockets.drops(session.sock) - self._words[session.at + layout.DROPS_BASE]
        packed = sockets.pack(server[0])
        try:
            self._table.redirect(
                session.slot, (packed, server[1]), (b"", 0), sockets.scope_of(server)
            )
        except Damaged:
            self._close(session, Reason.ERROR)
            return True
        self._give(session, member)
        self._reactor.remove_reader(session.sock.fileno())
        session.unmark()
        self._let_go(session)
        session.aim(self._pool.get(sockets.family_of(packed), session.slot), server)
        self._words[session.at + layout.DROPS_BASE] = (
            sockets.drops(session.sock) - lost
        ) & 0xFFFFFFFF
        self._mark(session)
        self._reactor.add_reader(session.sock.fileno(), self._reader(session))
        try:
            session.own = self._attach(session, session.rule.type)
        except OSError as problem:
            self._host.failed(_FOLLOW, problem, session.slot, session.id)
            self._close(session, Reason.ERROR)
            return True
        self._note_own(session)
        session.be_careful(watched=self._watched)
        source = (sockets.pack(session.own[0]), session.own[1])
        self._table.set_source(session.slot, source)
        return True

    def _give(self, session: Relayed, member: int) -> None:
        """It is that member's from now on."""
        if session.member != member:
            self._members.leave(session.member)
            self._members.join(member)
            session.member = member
            self._table.set_member(session.slot, member)

    def adopt(self) -> int:
        """Go on with the sessions in the table; how many there were."""
        stock = Stock(self._table, self._pool, self._host, self._clear)
        found = stock.take()
        taken = {slot for slot, _ in found}
        spent = [slot for slot in range(self._table.grown) if self._is_spent(slot)]
        spent = [slot for slot in spent if slot not in taken]
        self._book.reserve(taken, set(spent))
        self._look_for_more()
        self._spent.add(spent)
        for slot, record in found:
            try:
                self._resume(stock, slot, record)
            except (ValueError, OSError) as problem:
                stock.lose(slot, str(problem))
                self._give_back(slot)
        return self.sessions

    def _clear(self, slot: int) -> None:
        """Nobody's session is here any more."""
        for family in sockets.FAMILIES:
            if slot < self._pool.size(family):
                sock = self._pool.get(family, slot)
                sockets.reset(sock)
                if self._words[MARKED]:
                    dscp.reset(sock)
        self._table.free(slot)

    def _resume(self, stock: Stock, slot: int, record: Record) -> None:
        listening = self._listeners.get(record.listener)
        verdict = self._host.decided(record) if listening else None
        if listening is None or verdict is None:
            self._table.add(record)
            self._host.ended(record, "-", Reason.POLICY)
            self._clear(slot)
            self._give_back(slot)
            return
        if len((record.via or record.client)[0]) != len(listening.given.address.packed):
            raise Damaged("its listener is of another family")
        if record.member != verdict.member:
            record.member = verdict.member
            self._table.set_member(slot, verdict.member)
        stock.join(slot, record, verdict)
        client, arrival = came(record)
        key = listening.key(client, arrival)
        session = self._relayed(slot, listening, key, client, verdict, record)
        session.own = (sockets.unpack(record.source[0]), record.source[1])
        session.uploads, session.upload_bytes = record.uploads, record.upload_bytes
        session.downloads, session.download_bytes = record.downloads, record.download_bytes
        session.answered = record.downloads > 0
        session.be_careful(watched=False)
        if record.peer is not None:
            session.pin(sockets.server_of(record.peer, record.server_scope))
        self._table.set_rule(slot, verdict.rule_number, verdict.generation)
        self._wait_for_nothing(session)
        if self._keeps(session.sock):
            self._claim(session).take(session.own)
        if self._words[MARKED]:
            session.see_socket()
        self._mark(session)
        self._start(session, keyed=record.state is State.OPEN)

    def _wait_for_nothing(self, session: Relayed) -> None:
        """Nobody will note the answer without the limit: with another one the wait begins anew."""
        if not session.awaited:
            self._words[session.at + layout.ASKED] = 0

    def reconnect(self, slot: int, number: int) -> bool:
        """The session goes on from what the system gives now; the slot is of no use here."""
        session = cast("Relayed | None", self._book.get(number))
        if session is None or not (session.plain or session.peer) or not self._read_all(session):
            return False
        if self._connect_afresh(session) is None:
            self._host.rerouted(session.slot, session.id, session.verdict.rule)
        return True

    def _silent(self, session: Relayed) -> None:
        """An answer may have come while nobody looked: it is here, or there is none."""
        if not self._read_all(session):
            return
        at = session.at + layout.ASKED
        if self._words[at] & TRIED:
            self._close(session, Reason.SILENT)
            return
        if self._words[at]:
            self._words[at] |= TRIED
            self._connect_afresh(session)
            self._host.silent(session.slot, session.id, session.verdict.rule)
        self._book.replan(session)

    def _read_all(self, session: Relayed) -> bool:
        """What waits in its socket is carried. False: the session has ended by it."""
        for _ in _MOST_READS:
            if not sockets.waits(session.sock):
                break
            self._reader(session)()
            if self._book.get(session.id) is not session:
                return False
        return True

    def _reconnect(self, session: Relayed, problem: OSError) -> OSError | None:
        """Our end of the way to the server is of no use any more: the session goes on from what
        the system gives now. Else why it gives nothing; or the problem as before, where a socket
        without a peer has chosen for each datagram anyway."""
        if not session.plain and session.peer is None:
            return problem
        why = self._connect_afresh(session)
        if why is None:
            self._host.rerouted(session.slot, session.id, session.verdict.rule)
        return why

    def _connect_afresh(self, session: Relayed) -> OSError | None:
        """Another port, and whatever address there is; what waits in the socket is lost. Why the
        system gives nothing: then the session has no end of ours, and its next datagram tries."""
        sock, peer = session.sock, session.peer
        sources, kept = self._sources(session), self._keeps(session.sock)
        self._forget_own(session)
        # Whoever comes after a crash in between connects it himself.
        self._table.set_source(session.slot, (b"", 0))
        try:
            if peer is None:
                if not kept:
                    self._pool.reset(sock, plain=session.plain, port=session.own[1])
                session.own = self._attach(session, session.rule.type)
            elif kept:
                session.own = self._rejoin(session, peer, connected=True)
            else:
                sockets.disconnect(sock)
                if sources.addresses or sources.unbind:
                    self._pool.connect(sock, peer, sources)
                self._pool.pin(sock, peer)
                session.own = sock.getsockname()[:2]
        except OSError as why:
            session.own = ("", 0)
            return why
        self._note_own(session)
        self._table.set_source(session.slot, (sockets.pack(session.own[0]), session.own[1]))
        return None
