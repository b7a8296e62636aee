"""Whether a session's server can be reached: what ICMP errors say, and the reply that ends them."""

from __future__ import annotations

from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.lifecycle import Lifecycle
from udpproxy.proxy.engine.relayed import Relayed
from udpproxy.proxy.session import layout
from udpproxy.proxy.session.reasons import Reason


class Reachability(Lifecycle):
    """It counts errors, and tells the host of the first and of what comes after them."""

    def _is_icmp(self, session: Relayed, problem: OSError) -> bool:
        """Was that an error of an earlier datagram, which an ICMP message told of?"""
        count, number = int(isinstance(problem, ConnectionRefusedError)), problem.errno or 0
        if not session.plain and session.peer is None:
            count, number = sockets.take_errors(session.sock)
        self._count_icmp(session, count, number)
        return count > 0

    def _count_icmp(self, session: Relayed, count: int, number: int) -> None:
        """The host hears of the first since the last reply: a server may be gone for days."""
        self._words[session.at + layout.ICMP] += count
        if count and not session.unreachable:
            session.unreachable = True
            if session.member:
                self._members[session.member].errors += 1
            session.be_careful(watched=self._watched)
            self._host.unreachable(session.slot, session.id, session.verdict.rule, number)

    def _answers(self, session: Relayed) -> None:
        """The first reply of all, or since ICMP errors came."""
        told = session.unreachable or self._awaiting
        session.unreachable = False
        self._members.answers(session.member)
        if not session.answered:
            session.answered = True
            self._book.answered(session)
        session.be_careful(watched=self._watched)
        if told:
            self._host.answers(session.slot, session.id, session.verdict.rule)

    def _receive_failed(self, session: Relayed, problem: OSError) -> None:
        """It can only be an ICMP error, of whatever kind."""
        if not self._is_icmp(session, problem):
            self._count_icmp(session, 1, problem.errno or 0)
        self._unreachable(session)

    def _unreachable(self, session: Relayed) -> bool:
        """After an ICMP error; True: the session is gone."""
        if session.verdict.close_on_unreachable:
            self._close(session, Reason.UNREACHABLE)
            return True
        return False
