"""What a new engine finds in the table: which sessions can go on, and which cannot.

The memory outlives whoever wrote it, so every record is looked at before anything is made of it:
alone, beside the others, and beside its socket, which knows best where it leads.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.engine import fixed, sockets
from udpproxy.proxy.engine.ends import Claim, OwnEnds
from udpproxy.proxy.engine.interface import Host, Verdict
from udpproxy.proxy.engine.pool import Pool, Sources
from udpproxy.proxy.engine.relayed import named_sources, port_of
from udpproxy.proxy.session.layout import GOING_ON, Record, State
from udpproxy.proxy.session.peers import Endpoint
from udpproxy.proxy.session.sense import Damaged
from udpproxy.proxy.session.table import PORTED, SOURCED, Table

_TYPES = list(SessionType)
_PLAIN = (SessionType.NORMAL, SessionType.ONE_WAY)

Found = list[tuple[int, Record]]


class Stock:
    """What is there; `clear` makes a slot as good as new."""

    def __init__(
        self, table: Table, pool: Pool, host: Host, clear: Callable[[int], object]
    ) -> None:
        self._table = table
        self._pool = pool
        self._host = host
        self._clear = clear
        self._loose: set[int] = set()
        """Slots of sessions that have no end of ours."""
        self._ends: OwnEnds | None = None
        """Of the others, once they are asked for."""
        self._found: Found = []

    def take(self) -> Found:
        """Sessions that can go on, oldest first: in this order newcomers may evict them."""
        now = time.monotonic_ns()
        found: Found = []
        numbers: set[int] = set()
        for slot in range(self._table.grown):
            try:
                record = self._look(slot, now)
                if record is not None:
                    if record.id in numbers:
                        raise Damaged("another session has its number")
                    self._check_socket(slot, record)
            except Damaged as problem:
                self.lose(slot, str(problem))
            else:
                if record is not None:
                    numbers.add(record.id)
                    found.append((slot, record))
        self._table.repair_ids(max(numbers, default=0))
        self._found = sorted(found, key=lambda item: item[1].id)
        return self._found

    def lose(self, slot: int, why: str) -> None:
        """That session, and no other."""
        self._table.count("sessions-lost")
        self._host.lost(slot, why)
        self._clear(slot)

    def _look(self, slot: int, now: int) -> Record | None:
        state = self._table.state(slot)
        if state is State.FREE:
            return None
        if state not in GOING_ON:
            self._clear(slot)  # somebody died while he opened or closed a session here
            return None
        self._table.repair(slot, now)
        record = self._table.read(slot)
        if record is None:
            raise Damaged(self._table.why(slot))
        if record.opened > now:
            raise Damaged("it opened in the future")
        return record

    def _check_socket(self, slot: int, record: Record) -> None:
        family = sockets.family_of(record.server[0])
        if slot >= self._pool.size(family):
            raise Damaged("there is no socket for it")
        sock = self._pool.get(family, slot)
        port = sock.getsockname()[1]
        if not record.source[1] or not port:
            # Somebody died between two servers, or the socket is a new one.
            self._loose.add(slot)
            return
        if port != record.source[1]:
            raise Damaged("its socket has another port")
        wanted = record.peer or (record.server if _TYPES[record.type] in _PLAIN else None)
        if wanted is None:
            return
        try:
            peer = sock.getpeername()
        except OSError:
            raise Damaged("its socket leads nowhere") from None
        if (sockets.pack(peer[0]), peer[1]) != wanted:
            raise Damaged("its socket leads elsewhere")

    def join(self, slot: int, record: Record, verdict: Verdict) -> None:
        """The session that take() has found goes on under that verdict: where it has no end of
        ours it gets one. Damaged, where it cannot have one."""
        if slot not in self._loose:
            return
        self._loose.remove(slot)
        for family in sockets.FAMILIES:
            if slot < self._pool.size(family):
                sockets.reset(self._pool.get(family, slot))
        try:
            own = self._connect(slot, record, verdict)
        except OSError as problem:
            raise Damaged(f"its server cannot be reached again: {problem.strerror}") from None
        record.source = sockets.pack(own[0]), own[1]
        self._table.set_source(slot, record.source)

    def _connect(self, slot: int, record: Record, verdict: Verdict) -> Endpoint:
        sock = self._pool.get(sockets.family_of(record.server[0]), slot)
        server = sockets.server_of(record.server, record.server_scope)
        kind = _TYPES[record.type]
        plain, many = kind in _PLAIN, kind is SessionType.BROADCAST
        named = named_sources(verdict, record.client[0], server)
        if named:
            self._table.words[SOURCED] = 1
        unbind = bool(self._table.words[SOURCED])
        sources = Sources(named, verdict.fallback, unbind=unbind)
        port = port_of(verdict, record.client)
        kept = sockets.keeps_port(sock)
        if port or kept:
            claim = Claim(self._others(), server, record.client, alone=not plain)
            if kept:
                own = fixed.rejoin(sock, server, claim, connected=plain)
            else:
                self._table.words[PORTED] = 1
                own = fixed.bind(sock, fixed.Aim(server, sources, port, broadcast=many), claim)
        elif plain:
            own = self._pool.connect(sock, server, sources)
        else:
            own = self._pool.bind(sock, server, sources, broadcast=many)
        if record.peer and not plain:
            self._pool.pin(sock, sockets.server_of(record.peer, record.server_scope))
        return own

    def _others(self) -> OwnEnds:
        """Whose ends cannot be had again. Those that the system has chosen are among them: it keeps
        others from these itself."""
        if self._ends is None:
            self._ends = OwnEnds()
            for slot, record in self._found:
                if slot not in self._loose and record.source[1]:
                    server = sockets.server_of(record.server, record.server_scope)
                    plain = _TYPES[record.type] in _PLAIN
                    self._ends.claim(record.source, server if plain else None, record.client)
        return self._ends
