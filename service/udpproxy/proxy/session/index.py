"""The book of sessions: which exist, whose they are, when they are due. Pure.

Rules. A key leads to the session that takes the client's datagrams; a session whose upload is
closed keeps its slot and its replies but not its key. Newcomers never end a session that had a
reply. Expiry costs nothing per datagram: each session has one entry in a heap, made from the
deadline as it was then, and looked at again when that moment comes.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterator

from udpproxy.proxy.session.limits import NEVER, Budget, deadline, expired, is_to_try
from udpproxy.proxy.session.reasons import Reason

_STALE_ENTRIES = 1024

SOON = "soon"
"""There will be room: sockets for more slots are on their way."""
FEW = 125
"""Slots with sockets, and a quarter of what there are if that is more: when fewer are left, more
are wanted. 10,000 new sessions a second take 12 ms for them, and the parent a third of that for
twice as many sockets (socket_pool.py)."""


class Session:
    """What the book knows of a session; an engine adds what it needs by inheriting."""

    __slots__ = ("budget", "client", "id", "key", "opened", "owner", "slot")

    def __init__(
        self,
        *,
        number: int,
        slot: int,
        owner: dict[Hashable, Session],
        key: Hashable,
        client: Hashable,
        budget: Budget,
        opened: int,
    ) -> None:
        """`owner` is the listener's map of keys, `client` as whom the cap counts it (see
        meters.counted_as)."""
        self.id = number
        self.slot = slot
        self.owner = owner
        self.key = key
        self.client = client
        self.budget = budget
        self.opened = opened


class SessionIndex:
    """All sessions of one relay; `last` tells when a session last carried a datagram, `asked` since
    when its client has been waiting for an answer (see limits)."""

    def __init__(
        self,
        slots: int,
        capacity: int,
        *,
        per_client: int,
        evict: bool,
        last: Callable[[Session], int],
        asked: Callable[[Session], int],
    ) -> None:
        """`slots` have sockets by now, of `capacity`; `per_client` 0 is no cap; `evict` lets
        newcomers replace unanswered sessions."""
        self._free: list[int] = []
        self._slots = 0
        self._capacity = self._most = capacity
        self._told = self._lacking = False
        self._spent = 0
        """Slots that wait for other sockets."""
        self._per_client = per_client
        self._evict = evict
        self._last = last
        self._asked = asked
        self._by_id: dict[int, Session] = {}
        self._clients: dict[Hashable, int] = {}
        # A dict looks for its first item past all that were before it, a hundred thousand maybe.
        self._unanswered: OrderedDict[int, Session] = OrderedDict()
        self._due: list[tuple[int, int]] = []
        self.extend(slots)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def limit(self, most: int) -> None:
        """So many sessions and no more, though there are slots for others."""
        self._most = most

    def extend(self, slots: int) -> None:
        """So many slots have sockets by now. Of all that are free the lowest is taken first."""
        self._free[:0] = range(slots - 1, self._slots - 1, -1)
        self._slots = max(slots, self._slots)
        self._told = self._lacking = False

    def lack(self) -> None:
        """There will be no more for now: nobody waits for them until extend()."""
        self._lacking = True

    def scarce(self) -> bool:
        """Are sockets for more slots wanted? True once until extend()."""
        free = len(self._free) + self._spent
        if self._told or free >= self.few or self._slots >= min(self._capacity, self._most):
            return False
        self._told = True
        return True

    def get(self, number: int) -> Session | None:
        """The session of that number, while it lives."""
        return self._by_id.get(number)

    def room(self, client: Hashable) -> str | Session | None:
        """May `client` open one more? None: yes; a session: after that one is evicted; SOON; any
        other str: no, and which of the table's counters says so."""
        if self._per_client and self._clients.get(client, 0) >= self._per_client:
            return "refused-per-client"
        if self._free and len(self._by_id) < self._most:
            return None
        if not self._free and not self._lacking and self._will_be_more():
            return SOON
        if self._evict and self._unanswered:
            return next(iter(self._unanswered.values()))
        return self.full

    def _will_be_more(self) -> bool:
        if self._spent and len(self._by_id) < self._most:
            return True
        return self._slots < min(self._capacity, self._most)

    @property
    def full(self) -> str:
        """The counter that says why there is no room."""
        if not self._free and self._spent and len(self._by_id) < self._most:
            return "refused-no-port"
        if self._free or self._slots >= self._most < self._capacity:
            return "refused-ports-kept"
        return "refused-table-full" if self._slots >= self._capacity else "refused-no-port"

    def take_slot(self) -> int:
        """A free slot; room() has said that there is one."""
        return self._free.pop()

    def give_back(self, slot: int, *, spent: bool = False) -> None:
        """A slot that was taken but got no session; `spent`: it waits for other sockets now."""
        if spent:
            self._spent += 1
        else:
            self._free.append(slot)

    def replaced(self, slot: int) -> None:
        """A spent slot has other sockets."""
        self._spent -= 1
        self._free.append(slot)
        self._lacking = False

    @property
    def is_low(self) -> bool:
        """Are so few slots free that those that are spent will be missed?"""
        return len(self._free) < max(1, self._slots // 8)

    @property
    def few(self) -> int:
        """So many slots are few, beside those that there are."""
        return max(FEW, self._slots // 4)

    def reserve(self, slots: set[int], spent: Container[int] = ()) -> None:
        """Take just these slots: sessions found in the table live there. `spent` of the others wait
        for other sockets."""
        others = [slot for slot in self._free if slot not in slots]
        self._free = [slot for slot in others if slot not in spent]
        self._spent = len(others) - len(self._free)

    def open(self, session: Session, *, answered: bool = False, keyed: bool = True) -> None:
        """Enter a session; `keyed` False: its upload was closed before."""
        self._by_id[session.id] = session
        if keyed:
            session.owner[session.key] = session
        self._clients[session.client] = self._clients.get(session.client, 0) + 1
        if not answered:
            self._unanswered[session.id] = session
        self._plan(session)

    def answered(self, session: Session) -> None:
        """A reply passed: newcomers can no longer evict it."""
        self._unanswered.pop(session.id, None)

    def close_upload(self, session: Session) -> None:
        """The client's next datagram finds no session."""
        if session.owner.get(session.key) is session:
            del session.owner[session.key]

    def replan(self, session: Session) -> None:
        """Its limits have changed, or its patience: a deadline may have come nearer."""
        self._plan(session)

    def close(self, session: Session, *, spent: bool = False) -> None:
        """Forget it; its heap entry is recognised as stale later. `spent`: see give_back()."""
        self.close_upload(session)
        del self._by_id[session.id]
        self._unanswered.pop(session.id, None)
        left = self._clients[session.client] - 1
        if left:
            self._clients[session.client] = left
        else:
            del self._clients[session.client]
        self.give_back(session.slot, spent=spent)

    def next_due(self) -> int | None:
        """The moment to call due() again at the latest."""
        return self._due[0][0] if self._due else None

    def due(self, now: int) -> tuple[Session, Reason | None] | None:
        """The next session whose time is over, for the caller to close; None: none is. Without a
        reason it is to be connected afresh, and then replan() is called."""
        while self._due and self._due[0][0] <= now:
            _, number = heapq.heappop(self._due)
            session = self._by_id.get(number)
            if session is None:
                continue
            last, asked = self._last(session), self._asked(session)
            reason = expired(session.budget, session.opened, last, asked, now)
            if reason is not None:
                return session, Reason(reason)
            if is_to_try(session.budget, asked, now):
                return session, None
            self._plan(session, now)
        return None

    def _plan(self, session: Session, now: int = 0) -> None:
        last, asked = self._last(session), self._asked(session)
        moment = deadline(session.budget, session.opened, last, asked, now)
        if moment < NEVER:
            heapq.heappush(self._due, (moment, session.id))
        if len(self._due) > 2 * len(self._by_id) + _STALE_ENTRIES:
            self._sweep()

    def _sweep(self) -> None:
        """Sessions that ended early leave entries behind: a busy DNS would pile up millions."""
        live = {number: moment for moment, number in sorted(self._due, reverse=True)}
        self._due = [(moment, number) for number, moment in live.items() if number in self._by_id]
        heapq.heapify(self._due)
