"""What clients have used of their rates, and all of them of the instance's (SPEC 3). Pure.

Rules. Each rule counts for itself, for one may allow a thousand a second and the next one an hour:
a client has a meter for each rule with a rate that it uses, whatever becomes of its sessions. A
meter is kept as long as it says anything or a session has it, so nobody makes another's be
forgotten; where there is no room for one more, a newcomer is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv6Address

from udpproxy.proxy.session.limits import Budget, Pace

MOST_RESTING = 1 << 16
"""Meters beside one for each session."""
_LOOKS = range(8)
"""Meters looked at for each new one, whether they still say anything."""

Key = tuple[Hashable, str]


def counted_as(client: str, prefix6: int) -> Hashable:
    """As which client an address counts: IPv6 by so many bits. Those of a link all begin with the
    same ones, so they count each for itself."""
    if ":" not in client:
        return client
    address = IPv6Address(client.partition("%")[0])
    return int(address) if address.is_link_local else int(address) >> (128 - prefix6)


class Meter:
    """Until when a client has paid by a rule: for sessions opened, for datagrams sent."""

    __slots__ = ("key", "opened", "sent", "sessions")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.opened = self.sent = self.sessions = 0

    def is_over(self, now: int) -> bool:
        """It says nothing any more."""
        return not self.sessions and max(self.opened, self.sent) <= now


class Meters:
    """All meters of one relay that can hold so many sessions."""

    def __init__(self, sessions: int) -> None:
        self._most = sessions + MOST_RESTING
        self._meters: OrderedDict[Key, Meter] = OrderedDict()
        self._all = Pace()
        self._paid = 0

    def __len__(self) -> int:
        return len(self._meters)

    def limit(self, pace: Pace) -> None:
        """How fast sessions may open, all together; Pace(): as fast as they like."""
        self._all = pace

    def may_come(self, now: int) -> bool:
        """Whether any session may open, before anybody is asked about it."""
        return not self._all or self._all.allows(self._paid, now)

    def admit(self, client: Hashable, rule: str, budget: Budget, now: int) -> bool:
        """One more session of a client, which has nothing else against it: it is paid for. So that
        it does not open for nothing, its first datagram must be allowed as well."""
        new, sent = budget.new_sessions, budget.datagrams
        meter = self._take((client, rule), now) if new or sent else None
        if meter is None and (new or sent):
            return False
        if meter and not (new.allows(meter.opened, now) and sent.allows(meter.sent, now)):
            return False
        if meter and new:
            meter.opened = new.pay(meter.opened, now)
        if self._all:
            self._paid = self._all.pay(self._paid, now)
        return True

    def hold(self, client: Hashable, rule: str, now: int) -> Meter | None:
        """The meter of a session's datagrams, until it is released; None: there is no room."""
        meter = self._take((client, rule), now)
        if meter is not None:
            meter.sessions += 1
        return meter

    def release(self, meter: Meter) -> None:
        """The session has it no more."""
        meter.sessions -= 1

    def _take(self, key: Key, now: int) -> Meter | None:
        meter = self._meters.get(key)
        if meter is not None:
            return meter
        self._look(now)
        if len(self._meters) >= self._most:
            return None
        meter = self._meters[key] = Meter(key)
        return meter

    def _look(self, now: int) -> None:
        """At some, in turns, so that all are looked at before many more have come."""
        for _ in _LOOKS:
            if not self._meters:
                return
            key, meter = self._meters.popitem(last=False)
            if not meter.is_over(now):
                self._meters[key] = meter
