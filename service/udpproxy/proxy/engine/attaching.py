"""How the Python engine's sessions come by their ends towards servers, and leave them."""

from __future__ import annotations

import socket

from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.engine import fixed, sockets
from udpproxy.proxy.engine.ends import Claim, OwnEnds
from udpproxy.proxy.engine.interface import Host
from udpproxy.proxy.engine.pool import ANYWHERE, Pool, Sources
from udpproxy.proxy.engine.relayed import Relayed
from udpproxy.proxy.engine.spent import SpentSlots
from udpproxy.proxy.session.index import SessionIndex
from udpproxy.proxy.session.peers import Endpoint
from udpproxy.proxy.session.table import PORTED, SOURCED, Table


class Attaching:
    """What Lifecycle and Continuity do with a session's socket, and with its slot after that."""

    def __init__(self, table: Table, pool: Pool, host: Host, book: SessionIndex) -> None:
        self._words = table.words
        self._pool = pool
        self._book = book
        self._own = OwnEnds()
        self._spent = SpentSlots(book, pool.kept, host.spent)

    def _attach(self, session: Relayed, kind: SessionType) -> Endpoint:
        server = session.rule.server
        if self._keeps(session.sock):
            return self._rejoin(session, server, connected=session.plain)
        sources = self._sources(session)
        if session.fixed_port:
            self._words[PORTED] = 1
            aim = fixed.Aim(
                server, sources, session.fixed_port, broadcast=kind is SessionType.BROADCAST
            )
            return fixed.bind(session.sock, aim, self._claim(session))
        if session.plain:
            return self._pool.connect(session.sock, server, sources)
        broadcast = kind is SessionType.BROADCAST
        return self._pool.bind(session.sock, server, sources, broadcast=broadcast)

    def _keeps(self, sock: socket.socket) -> bool:
        """Has it a port that it cannot give back?"""
        return bool(self._words[PORTED]) and sockets.keeps_port(sock)

    def _claim(self, session: Relayed) -> Claim:
        """On what is to be its end towards the server that it has now."""
        server, client = session.rule.server, session.ends[0]
        session.claim = Claim(self._own, server, client, alone=not session.plain)
        return session.claim

    def _rejoin(self, session: Relayed, peer: Endpoint, *, connected: bool) -> Endpoint:
        return fixed.rejoin(session.sock, peer, self._claim(session), connected=connected)

    def _note_own(self, session: Relayed) -> None:
        """It has its end."""
        if session.claim is None:
            self._own.add(session.own)

    def _forget_own(self, session: Relayed) -> None:
        """It has it no longer."""
        if session.claim is None:
            self._own.discard(session.own)
        else:
            session.claim.give_back()
            session.claim = None

    def _let_go(self, session: Relayed) -> None:
        """Its socket is nobody's from now on, and then its end."""
        if self._keeps(session.sock):
            sockets.park(session.sock)
        else:
            self._pool.reset(session.sock, plain=session.plain, port=session.own[1])
        self._forget_own(session)

    def _is_spent(self, slot: int) -> bool:
        return bool(self._words[PORTED]) and bool(self._pool.kept(slot))

    def _give_back(self, slot: int) -> None:
        """A slot that was taken but got no session."""
        spent = self._is_spent(slot)
        self._book.give_back(slot, spent=spent)
        if spent:
            self._spent.add([slot])

    def _sources(self, session: Relayed) -> Sources:
        """From where its server is written to."""
        verdict = session.verdict
        if not verdict.sources and verdict.fallback and not self._words[SOURCED]:
            return ANYWHERE
        named = session.sources()
        if named:
            self._words[SOURCED] = 1
        free = [address for address in named if not self._own.is_full(address)]
        if session.fixed_port:
            free = named
        return Sources(
            free,
            verdict.fallback,
            unbind=bool(self._words[SOURCED]),
            used_up=len(free) < len(named),
        )
