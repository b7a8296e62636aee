"""Sessions of the Python engine that keep the DSCP of each datagram, and who may reply in those
that anybody could."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import cast

from udpproxy.proxy.engine import dscp, sockets
from udpproxy.proxy.engine.interface import Arrival
from udpproxy.proxy.engine.listened import Listening
from udpproxy.proxy.engine.mirroring import Mirroring
from udpproxy.proxy.engine.relayed import Relayed
from udpproxy.proxy.session import layout
from udpproxy.proxy.session.peers import Reply, judge

MOST_BURST = 32
"""Datagrams read from a session at a time."""
LISTENER_BATCH = range(64)
"""Datagrams read from a listener before the servers get their turn."""
MOST_IN_VAIN = 8
"""Of these that became no session: strangers cost most, and known sessions must not wait."""


class Marking(Mirroring):
    """Each datagram comes with what it tells of itself."""

    def tell_dscp(self, number: int, *, on: bool) -> None:
        """See ListenerSocket.tells_dscp."""
        listening = self._listeners[number]
        listening.given = replace(listening.given, tells_dscp=on)
        if not listening.given.absent:
            self._reactor.remove_reader(listening.given.socket.fileno())
        self._listen(listening)

    def _listen(self, listening: Listening) -> None:
        given = listening.given
        if given.absent:
            return
        dscp.tell(given.socket, on=given.tells_dscp)
        self._reactor.add_reader(given.socket.fileno(), self._client_reader(listening))

    @abstractmethod
    def _client_reader(self, listening: Listening) -> Callable[[], None]:
        """What to call when clients have sent something."""

    def _from_marked(self, listening: Listening) -> None:
        """Clients' datagrams, each with its DSCP."""
        sock = listening.given.socket
        get = cast("Callable[[Hashable], Relayed | None]", listening.sessions.get)
        now, vain = time.monotonic_ns(), 0
        for _ in LISTENER_BATCH:
            try:
                data, control, client = sockets.receive_with_destination(sock)
            except BlockingIOError:
                return
            except OSError as problem:
                self._host.failed("receive from clients", problem)
                return
            arrival = replace(listening.arrival, tos=dscp.told(control))
            if listening.wildcard:
                arrival = Arrival(
                    *sockets.addressed_to(control), listening.given.port, tos=arrival.tos
                )
            key = listening.key(client, arrival)
            session = get(key)
            if session is None:
                session = self._open(listening, key, client, now, data, arrival)
            if session is not None:
                session.keep(arrival.tos)
                self._upload(session, data, now)
            elif (vain := vain + 1) >= MOST_IN_VAIN:
                return

    def _from_marked_server(self, session: Relayed) -> None:
        now = time.monotonic_ns()
        for turn in range(MOST_BURST):
            try:
                data, control, sender = sockets.receive_with_destination(session.sock)
            except BlockingIOError as nothing:
                if not turn and not session.plain and self._is_icmp(session, nothing):
                    self._unreachable(session)
                return
            except OSError as problem:
                self._receive_failed(session, problem)
                return
            if not session.plain and not self._admits(session, sender):
                continue
            session.answer_with(dscp.told(control))
            if not self._download(session, data, now):
                return

    def _admits(self, session: Relayed, sender: tuple[str, int]) -> bool:
        """May he reply? The first who does may be its peer from now on."""
        endpoint = sockets.sender_of(sender)
        reply = judge(session.rule, session.peer, endpoint, sockets.pack(sender[0]))
        if reply is Reply.IGNORE:
            self._words[session.at + layout.STRAY] += 1
            self._host.strayed(session.id, session.verdict.rule, endpoint)
            return False
        return reply is not Reply.PIN or self._pin(session, endpoint)
