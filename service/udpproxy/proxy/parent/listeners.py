"""All that listens: bound, found in systemd's store, put right, let go.

A place, an address with a port, keeps its number as long as it is wanted, whatever becomes of its
sockets, for sessions bear the number. None is used twice.
"""

from __future__ import annotations

import itertools
import socket
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import ip_address

from udpproxy.config.model import Address
from udpproxy.errors import UnitError
from udpproxy.process import messages, wire
from udpproxy.process.link import Item
from udpproxy.process.logs import Logs
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.parent.listening import RECEIVE_BUFFER, is_here, listening_sockets, refuse_all
from udpproxy.proxy.parent.mending import DEAF, Spoilt, empty, mend
from udpproxy.proxy.parent.shelves import Shelves
from udpproxy.proxy.parent.store import Store

ListenAddress = tuple[Address, int]


class Listeners:
    """`by_place` are those that there are; `key` divides clients between workers."""

    def __init__(self, logs: Logs, workers: int, key: int, store: Store | None) -> None:
        self._logs = logs
        self._workers = workers
        self._key = key
        self._shelves = Shelves(store) if store else None
        self._last = 0
        self._lost: dict[ListenAddress, ListenerSocket] = {}
        """Spoilt, and their places taken: tried again with the next REG."""
        self.by_address: dict[ListenAddress, ListenerSocket] = {}
        self.came_back: set[int] = set()
        """The numbers of those that the store had."""

    @property
    def shelves(self) -> int:
        """How many descriptors of the store they need."""
        return 0 if self._shelves is None else len(self._shelves)

    def adopt(self, wanted: Collection[ListenAddress]) -> None:
        """What the store has of these, as good as new. The rest of it is let go. UnitError where
        the system has no descriptors for them."""
        try:
            found = self._shelves.take() if self._shelves is not None else {}
        except OSError as problem:
            raise UnitError("systemd's store", problem.strerror or str(problem)) from None
        self.came_back = set(found)
        for number, each in found.items():
            self._last = max(self._last, number)
            name = each[0].getsockname()
            place = ip_address(name[0].partition("%")[0]), name[1]
            listener = ListenerSocket(number, each[0], *place, tuple(each[1:]))
            if place not in wanted or place in self.by_address:
                self._forget(listener)
                continue
            self.by_address[place] = listener
            if len(each) != self._workers:
                # Another number of workers: the place keeps its number, and so its sessions.
                self._bind_again(listener)
            elif DEAF in self._mend(listener):
                # An end of the proxy has made it so: nobody waits for an answer any more.
                empty(self.by_address[place])
        self._warn_of_absent(self.by_address)

    def bind(self, wanted: Iterable[ListenAddress]) -> list[ListenAddress]:
        """Listen there, too; all or none. UnitError names the one that failed."""
        made: list[ListenAddress] = []
        try:
            by_port: dict[int, list[ListenAddress]] = defaultdict(list)
            for place in self.by_address:
                by_port[place[1]].append(place)
            for place in wanted:
                self._last += 1
                beside = [
                    sock for one in by_port[place[1]] for sock in self._in_the_way(place, one)
                ]
                self._take_up(place, self._listen(place, self._last, beside))
                by_port[place[1]].append(place)
                made.append(place)
            self._warn_of_absent(made)
        except UnitError:
            self.unbind(made)
            raise
        return made

    def _warn_of_absent(self, places: Iterable[ListenAddress]) -> None:
        for address in dict.fromkeys(address for address, _ in places):
            if not is_here(address):
                self._logs.say(messages.ABSENT, address)

    def unbind(self, unwanted: Iterable[ListenAddress]) -> None:
        """Listen there no longer."""
        for place in unwanted:
            self._forget(self.by_address.pop(place))
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
        for listener in [*self.by_address.values(), *self._lost.values()]:
            self._mend_or_lose(listener)
        self.store_or_say()

    def renew(self) -> int:
        """Other sockets in the same places, as far as we may have them again; how many."""
        renewed = 0
        for listener in list(self.by_address.values()):
            try:
                self._bind_again(listener)
            except UnitError as problem:
                # Without rights for a low port the old one is better than none.
                self._logs.say(messages.LISTENER_REMADE, _where(listener), problem)
            else:
                renewed += 1
        self.store_or_say()
        return renewed

    def forget_lost(self) -> None:
        """Another configuration holds: their places may be wanted no longer."""
        self._lost.clear()

    def lend(self, wanted: Iterable[ListenAddress]) -> Iterator[Item]:
        """A message for each of so many sockets, as the other side has room; what is removed before
        its turn is not lent."""
        items: list[wire.Plain] = []
        descriptors: list[int] = []
        for one in (self.by_address[place] for place in wanted if place in self.by_address):
            where: wire.Plain = {
                "number": one.number, "address": str(one.address), "port": one.port,
            }  # fmt: skip
            sockets = [sock.fileno() for sock in _sockets(one)]
            if len(items) + len(sockets) > wire.MOST_DESCRIPTORS:
                yield wire.Lend("listeners", items), descriptors
                items, descriptors = [], []
            items += [where] * len(sockets)
            descriptors += sockets
        if items:
            yield wire.Lend("listeners", items), descriptors

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
        return itertools.chain.from_iterable(map(_sockets, self.by_address.values()))

    def _mend(self, listener: ListenerSocket) -> list[str]:
        """As good as new, and if only by a new one; what was wrong with it."""
        try:
            wrong = mend(listener, self._key)
        except Spoilt as problem:
            self._logs.say(messages.LISTENER_REMADE, _where(listener), problem)
            self._bind_again(listener)
            return []
        if wrong:
            why = ", ".join(sorted(set(wrong)))
            self._logs.say(messages.LISTENER_MENDED, _where(listener), why)
        return wrong

    def _mend_or_lose(self, listener: ListenerSocket) -> None:
        """One place that somebody else has taken meanwhile must not cost the others."""
        place = listener.address, listener.port
        try:
            if place in self._lost:
                self._take_up(place, self._lost.pop(place))
            self._mend(listener)
        except UnitError as problem:
            self._logs.say(messages.LISTENER_REMADE, _where(listener), problem)
            self._forget(self.by_address.pop(place))
            self._lost[place] = listener

    def _bind_again(self, listener: ListenerSocket) -> None:
        """The same place and number, other sockets. UnitError, and nothing has changed, where we
        may not have them. systemd's store, and a REG that does not go, hold the old ones for a
        while: they are bound beside each other."""
        place = listener.address, listener.port
        old = [one for one in _sockets(listener) if one.fileno() >= 0]
        try:
            _share(old, on=False)  # the new ones are to be a group of their own, in their order
            new = self._listen(place, listener.number, old)
        except UnitError:
            _share(old, on=len(old) > 1)
            raise
        self._forget(listener)
        self._take_up(place, new)

    def _take_up(self, place: ListenAddress, listener: ListenerSocket) -> None:
        self.by_address[place] = listener
        if self._shelves is not None:
            self._shelves.put(listener.number, _sockets(listener))

    def _forget(self, listener: ListenerSocket) -> None:
        for sock in _sockets(listener):
            sock.close()
        if self._shelves is not None:
            self._shelves.remove(listener.number)

    def _listen(
        self, place: ListenAddress, number: int, beside: Sequence[socket.socket]
    ) -> ListenerSocket:
        address, port = place
        first, *others = listening_sockets(address, port, self._workers, self._key, beside)
        size = first.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        if size < RECEIVE_BUFFER:
            self._logs.say(messages.RECEIVE_BUFFER, f"{address} port {port}", size, RECEIVE_BUFFER)
        return ListenerSocket(number, first, address, port, tuple(others))

    def _in_the_way(self, place: ListenAddress, other: ListenAddress) -> Sequence[socket.socket]:
        """Those of ours on the same port that a wildcard excludes, or that are one."""
        mine, its = place[0], other[0]
        excludes = its.is_unspecified or mine.is_unspecified
        if its.version != mine.version or its == mine or not excludes:
            return ()
        return _sockets(self.by_address[other])


def _where(listener: ListenerSocket) -> str:
    return f"{listener.address} port {listener.port}"


def _sockets(listener: ListenerSocket) -> tuple[socket.socket, ...]:
    return listener.socket, *listener.others


def _share(each: Sequence[socket.socket], *, on: bool) -> None:
    """Are they a group between whose members clients are divided?"""
    for sock in each:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, on)
