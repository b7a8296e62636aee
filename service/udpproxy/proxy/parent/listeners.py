"""All that listens: bound, found in systemd's store, put right, let go.

A place keeps its number as long as it is wanted, whatever becomes of its sockets, for sessions bear
the number. None is used twice. Where its interface is not there a place has no sockets for now.
"""

from __future__ import annotations

import itertools
import socket
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableSet, Sequence
from ipaddress import ip_address

from udpproxy.config.model import Address
from udpproxy.errors import UnitError
from udpproxy.process import messages, wire
from udpproxy.process.link import Item
from udpproxy.process.logs import Logs
from udpproxy.proxy.config.model import Place
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.parent import groups, listening
from udpproxy.proxy.parent.listening import RECEIVE_BUFFER, is_here, listening_sockets, refuse_all
from udpproxy.proxy.parent.mending import DEAF, Spoilt, empty, mend
from udpproxy.proxy.parent.shelves import Shelves
from udpproxy.proxy.parent.store import Store

Groups = Mapping[Place, tuple[Address, ...]]


class Listeners:
    """`by_place` are those that there are; `key` divides clients between workers, `joins` are the
    multicast groups of places."""

    def __init__(
        self, logs: Logs, workers: int, key: int, store: Store | None, joins: Groups
    ) -> None:
        self._logs = logs
        self._workers = workers
        self._key = key
        self._shelves = Shelves(store) if store else None
        self._last = 0
        self._lost: dict[Place, ListenerSocket] = {}
        """Spoilt, and their places taken: tried again with the next REG."""
        self.links = listening.links()
        """Interfaces and their numbers, as they were when we looked."""
        self._groups = groups.Memberships(logs, joins)
        self.by_place: dict[Place, ListenerSocket] = {}
        self.came_back: set[int] = set()
        """The numbers of those that the store had."""

    @property
    def shelves(self) -> int:
        """How many descriptors of the store they need."""
        return 0 if self._shelves is None else len(self._shelves)

    def adopt(self, wanted: Collection[Place]) -> None:
        """What the store has of these, as good as new. The rest of it is let go. UnitError where
        the system has no descriptors for them."""
        try:
            found = self._shelves.take() if self._shelves is not None else {}
        except OSError as problem:
            raise UnitError("systemd's store", problem.strerror or str(problem)) from None
        self.came_back = set(found)
        for number, (kept, each) in found.items():
            self._last = max(self._last, number)
            place = kept or _place_of(each[0])
            listener = _listener(number, place, each or listening.absent(self._count(place)))
            if place not in wanted or place in self.by_place:
                self._forget(listener)
                continue
            self.by_place[place] = listener
            if kept is None:
                self._take_up(place, listener)
            if len(each) != self._count(place):
                # Another number of workers: the place keeps its number, and so its sessions.
                self._bind_again(listener)
            elif DEAF in self._mend(listener):
                # An end of the proxy has made it so: nobody waits for an answer any more.
                empty(self.by_place[place])
        self._warn_of_absent(self.by_place)

    def bind(self, wanted: Iterable[Place]) -> list[Place]:
        """Listen there, too; all or none. UnitError names the one that failed."""
        made: list[Place] = []
        try:
            by_port: dict[int, list[Place]] = defaultdict(list)
            for place in self.by_place:
                by_port[place.port].append(place)
            for place in wanted:
                self._last += 1
                beside = [
                    sock for one in by_port[place.port] for sock in self._in_the_way(place, one)
                ]
                self._take_up(place, self._listen(place, self._last, beside))
                by_port[place.port].append(place)
                made.append(place)
            self._warn_of_absent(made)
        except UnitError:
            self.unbind(made)
            raise
        return made

    def _warn_of_absent(self, places: Iterable[Place]) -> None:
        places = list(places)
        for address in dict.fromkeys(place.address for place in places if not place.link):
            if not is_here(address):
                self._logs.say(messages.ABSENT, address)
        for link in dict.fromkeys(place.link for place in places):
            if link and link not in self.links:
                self._logs.say(messages.LINK_ABSENT, link)

    def follow(self, links: Mapping[str, int], changed: MutableSet[Place]) -> None:
        """Interfaces have come or gone, or addresses: sockets of one that is another by now are
        made anew, under the same number; `changed` gets their places. OSError where the system has
        no descriptors for more: the rest are left for the next time."""
        gone = {link for link in self.links if link not in links}
        self.links = dict(links)
        said: set[str] = set()
        passed: set[str] = set()
        lack: OSError | None = None
        for place, listener in list(self.by_place.items()):
            if not place.link or listening.link_of(listener) == links.get(place.link, 0):
                continue
            if place.link in passed:
                continue
            try:
                self._bind_again(listener)
            except (OSError, UnitError) as problem:
                if lack := listening.lack_of_descriptors():
                    break
                if listening.is_link(place.link) != (place.link in links):
                    passed.add(place.link)  # it has changed again, and we shall hear of it
                else:
                    self._logs.say(messages.LISTENER_REMADE, place, problem)
                continue
            changed.add(place)
            if place.link not in said:
                said.add(place.link)
                back = place.link in links
                self._logs.say(messages.LINK_BACK if back else messages.LINK_GONE, place.link)
        self._groups.retry(self.by_place, links, gone)
        if changed:
            self.store_or_say()
        if lack:
            raise lack

    def unbind(self, unwanted: Iterable[Place]) -> None:
        """Listen there no longer."""
        for place in unwanted:
            self._forget(self.by_place.pop(place))
        self.store_or_say()

    def store(self) -> None:
        """Systemd keeps them from now on; UnitError where it does not take them."""
        if self._shelves is not None:
            try:
                self._shelves.write()
            except OSError as problem:
                raise UnitError("systemd's store", problem.strerror or str(problem)) from None

    def store_or_say(self) -> None:
        """The same where there is no way back: the next change tries again."""
        try:
            self.store()
        except UnitError as problem:
            self._logs.say(messages.STORE_SILENT, "what listens", problem.reason)

    def mend(self) -> None:
        """The last REG may have left them in any state."""
        for listener in [*self.by_place.values(), *self._lost.values()]:
            self._mend_or_lose(listener)
        self.store_or_say()

    def renew(self) -> int:
        """Other sockets in the same places, as far as we may have them again; how many."""
        renewed = 0
        for listener in list(self.by_place.values()):
            try:
                self._bind_again(listener)
            except UnitError as problem:
                # Without rights for a low port the old one is better than none.
                self._logs.say(messages.LISTENER_REMADE, listener.place, problem)
            else:
                renewed += 1
        self.store_or_say()
        return renewed

    def replace(self, joins: Groups) -> None:
        """Another configuration holds: what was lost may be wanted no longer, and groups are
        joined and left."""
        self._lost.clear()
        self._groups.replace(joins, self.by_place, self.links)

    def lend(self, wanted: Iterable[Place]) -> Iterator[Item]:
        """A message for each of so many sockets, as the other side has room; what is removed before
        its turn is not lent."""
        left = deque(wanted)
        while left:
            # In one go: until the next message sockets may be closed, and others in their places.
            items: list[wire.Plain] = []
            descriptors: list[int] = []
            while left and (one := self.by_place.get(left[0])):
                count = 0 if one.absent else len(one.sockets)
                if items and (one.absent or len(items) + count > wire.MOST_DESCRIPTORS):
                    break
                left.popleft()
                if one.absent:
                    yield wire.Lend("absent", [_where(one)]), []
                    continue
                items += [_where(one)] * count
                descriptors += [sock.fileno() for sock in one.sockets]
            if items:
                yield wire.Lend("listeners", items), descriptors
            elif left and left[0] not in self.by_place:
                left.popleft()

    def refuse_all(self) -> None:
        """No datagram comes in any more, even where REG does not obey: the end has begun."""
        for sock in self._all():
            refuse_all(sock)

    def give_back(self) -> None:
        """The store has none any more; OSError."""
        if self._shelves is not None:
            self._shelves.give_back()

    def close(self) -> None:
        """Ours only: what the store has stays there."""
        for sock in self._all():
            sock.close()

    def _all(self) -> Iterator[socket.socket]:
        there = (one.sockets for one in self.by_place.values() if not one.absent)
        return itertools.chain.from_iterable(there)

    def _mend(self, listener: ListenerSocket) -> list[str]:
        """As good as new, and if only by a new one; what was wrong with it."""
        place = listener.place
        if listener.absent:
            if place.link in self.links:
                self._bind_again(listener)
            return []
        try:
            if place.link and listening.link_of(listener) != self.links.get(place.link):
                raise Spoilt("its interface is another one")
            wrong = mend(listener, self._key)
        except Spoilt as problem:
            self._logs.say(messages.LISTENER_REMADE, place, problem)
            self._bind_again(listener)
            return []
        self._groups.join(listener, self.links)
        if wrong:
            why = ", ".join(sorted(set(wrong)))
            self._logs.say(messages.LISTENER_MENDED, place, why)
        return wrong

    def _mend_or_lose(self, listener: ListenerSocket) -> None:
        """One place that somebody else has taken meanwhile must not cost the others."""
        place = listener.place
        try:
            if place in self._lost:
                self._take_up(place, self._lost.pop(place))
            self._mend(listener)
        except UnitError as problem:
            self._logs.say(messages.LISTENER_REMADE, place, problem)
            self._forget(self.by_place.pop(place))
            self._lost[place] = listener

    def _bind_again(self, listener: ListenerSocket) -> None:
        """The same place and number, other sockets. UnitError, and nothing has changed, where we
        may not have them. systemd's store, and a REG that does not go, hold the old ones for a
        while: they are bound beside each other."""
        old = [one for one in listener.sockets if one.fileno() >= 0]
        try:
            _share(old, on=False)  # the new ones are to be a group of their own, in their order
            new = self._listen(listener.place, listener.number, old)
        except UnitError:
            _share(old, on=len(old) > 1)
            raise
        self._forget(listener)
        self._take_up(listener.place, new)

    def _take_up(self, place: Place, listener: ListenerSocket) -> None:
        self.by_place[place] = listener
        if self._shelves is not None:
            each = () if listener.absent else listener.sockets
            self._shelves.put(listener.number, place, each)

    def _forget(self, listener: ListenerSocket) -> None:
        for sock in listener.sockets:
            sock.close()
        if self._shelves is not None:
            self._shelves.remove(listener.number)

    def _listen(self, place: Place, number: int, beside: Sequence[socket.socket]) -> ListenerSocket:
        if place.link and place.link not in self.links:
            return _listener(number, place, listening.absent(self._count(place)))
        each = listening_sockets(place, self._count(place), self._key, beside)
        size = each[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        if size < RECEIVE_BUFFER:
            self._logs.say(messages.RECEIVE_BUFFER, place, size, RECEIVE_BUFFER)
        made = _listener(number, place, each)
        self._groups.join(made, self.links)
        return made

    def _count(self, place: Place) -> int:
        """Of sockets: one for each worker. What the firewall redirects is not steered between
        sockets, so one worker has all of it."""
        return 1 if place.transparent else self._workers

    def _in_the_way(self, place: Place, other: Place) -> Sequence[socket.socket]:
        """Those of ours on the same port that a wildcard excludes, or that are one."""
        mine, its = place.address, other.address
        excludes = its.is_unspecified or mine.is_unspecified
        apart = place.interface and other.interface and place.interface != other.interface
        there = self.by_place[other]
        if its.version != mine.version or other == place or not excludes or apart or there.absent:
            return ()
        return there.sockets


def _listener(number: int, place: Place, each: Sequence[socket.socket]) -> ListenerSocket:
    return ListenerSocket(number, each[0], place, tuple(each[1:]))


def _where(one: ListenerSocket) -> wire.Plain:
    return {
        "number": one.number,
        "address": str(one.address),
        "port": one.port,
        "interface": one.place.interface,
        "transparent": one.place.transparent,
    }


def _place_of(sock: socket.socket) -> Place:
    """What a version that knew no interfaces has stored."""
    name = sock.getsockname()
    return Place(ip_address(name[0].partition("%")[0]), name[1])


def _share(each: Sequence[socket.socket], *, on: bool) -> None:
    """Are they a group between whose members clients are divided?"""
    for sock in each:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, on)
