"""Sessions of the Python engine whose datagrams are looked at before their limits are: the host
treats them, one by one, as they come, or their clients send too many."""

from __future__ import annotations

from abc import abstractmethod

from udpproxy.proxy.engine.continuity import Continuity
from udpproxy.proxy.engine.relayed import Relayed
from udpproxy.proxy.session import layout
from udpproxy.proxy.session.reasons import Reason


class Handing(Continuity):
    """Idle time begins with what comes; counters and limits see what leaves, but for a client's
    rate, which keeps the host from what is too much."""

    @abstractmethod
    def _download(self, session: Relayed, data: bytes, now: int, *, screened: bool = False) -> bool:
        """To the client, within its limits. False: the session is gone."""

    def _may_send(self, session: Relayed, now: int) -> bool:
        """One more datagram of the session's client; else it is dropped and counted."""
        pace, rule = session.budget.datagrams, session.verdict.rule
        if session.meter is None:
            session.meter = self._meters.hold(session.client, rule, now)
        meter = session.meter
        if meter is None or not pace.allows(meter.sent, now):
            self._drop(session, "dropped-rate")
            return False
        meter.sent = pace.pay(meter.sent, now)
        return True

    def _drop(self, session: Relayed, counter: str) -> None:
        self._words[session.at + layout.DROPPED] += 1
        self._table.count(counter)

    def _screen(self, session: Relayed, data: bytes, now: int) -> bytes | None:
        """What of a server's datagram goes on; None: nothing, and the session may be gone."""
        if session.one_way:
            self._close(session, Reason.UNEXPECTED_REPLY)
            return None
        return self._treat(session, "download", data, now)

    def _treat(self, session: Relayed, direction: str, data: bytes, now: int) -> bytes | None:
        """What the host lets go on in that direction; None: nothing."""
        came = layout.LAST_UPLOAD if direction == "upload" else layout.LAST_DOWNLOAD
        self._words[session.at + came] = now
        treatment = self._host.handed(session.verdict, session.slot, session.id, direction, data)
        if treatment is None:
            return None
        if isinstance(treatment, Reason):
            self._close(session, treatment)
            return None
        whither, payload = treatment
        if whither == direction:
            return payload
        self._download(session, payload, now, screened=True)
        return None
