"""Listening sockets in systemd's store: many in each of its descriptors, for they are few.

Where something changes on a shelf (shelf.py), a new one goes into the store before the old one
leaves it, so that whatever ends us in between, the sockets are there.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from udpproxy.proxy.config.model import Place
from udpproxy.proxy.engine import pool
from udpproxy.proxy.parent.shelf import Item, pack, space, unpack
from udpproxy.proxy.parent.store import Store

Kept = tuple[Place, Sequence[socket.socket]]
Found = tuple[Place | None, Sequence[socket.socket]]


class _Shelf:
    def __init__(self) -> None:
        self.listeners: dict[int, Kept] = {}
        self.room = pool.BATCH
        """For so many sockets more."""
        self.changed = False
        self.version = 0
        """Of what was stored last; never given twice."""
        self.stored: set[int] = set()
        """Versions that the store may have."""

    def put(self, number: int, place: Place, each: Sequence[socket.socket]) -> None:
        """Instead of what that listener had."""
        if number in self.listeners:
            self.remove(number)
        self.listeners[number] = place, each
        self.room -= space(each)

    def remove(self, number: int) -> None:
        """It has none here any more."""
        _, each = self.listeners.pop(number)
        self.room += space(each)

    def items(self) -> Iterator[Item]:
        """For pack()."""
        for number, (place, each) in self.listeners.items():
            yield number, place, each


class Shelves:
    """What the store has of listeners, and what it is to have after write()."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shelves: list[_Shelf] = []
        self._places: dict[int, int] = {}
        """On which shelf a listener is."""
        self._free: set[int] = set()
        """Shelves with room."""

    def __len__(self) -> int:
        """Those with something on them."""
        return sum(bool(shelf.listeners) for shelf in self._shelves)

    def take(self) -> dict[int, Found]:
        """All that the store has, by number: where it is, None where an older version did not
        say; one socket for each worker, in order."""
        found: dict[int, Found] = {}
        for place, version, kept in self._store.take_shelves():
            while len(self._shelves) <= place:
                self._free.add(len(self._shelves))
                self._shelves.append(_Shelf())
            shelf = self._shelves[place]
            shelf.version = version
            shelf.stored.add(version)
            with kept:
                items = unpack(kept)
            for number, where, each in items:
                if self._places.setdefault(number, place) == place:
                    found[number] = where, each
                    if where is not None:
                        shelf.put(number, where, each)
                else:
                    for sock in each:  # it is on another one
                        sock.close()
                    shelf.changed = True
        for number, each in self._store.take_listeners().items():
            if number not in found:
                found[number] = None, each
        return found

    def put(self, number: int, where: Place, each: Sequence[socket.socket]) -> None:
        """These sockets, instead of what that listener had."""
        place = self._places.get(number)
        if place is not None and number in self._shelves[place].listeners:
            self._shelves[place].remove(number)
        if place is None or self._shelves[place].room < space(each):
            if place is not None:
                self._shelves[place].changed = True
                self._free.add(place)
            wanted = space(each)
            place = next((one for one in self._free if self._shelves[one].room >= wanted), None)
        if place is None:
            place = len(self._shelves)
            self._shelves.append(_Shelf())
        shelf = self._shelves[place]
        shelf.put(number, where, each)
        shelf.changed = True
        self._places[number] = place
        if shelf.room:
            self._free.add(place)
        else:
            self._free.discard(place)

    def remove(self, number: int) -> None:
        """It is listened to no longer."""
        place = self._places.pop(number, None)
        if place is not None:
            shelf = self._shelves[place]
            if number in shelf.listeners:
                shelf.remove(number)
            shelf.changed = True
            self._free.add(place)

    def write(self) -> None:
        """What has changed since the last time; OSError where systemd does not take it: the next
        time tries again."""
        for place, shelf in enumerate(self._shelves):
            if not shelf.changed:
                continue
            old = set(shelf.stored)
            if shelf.listeners:
                shelf.version += 1
                with pack(shelf.items()) as kept:
                    shelf.stored.add(shelf.version)  # whatever becomes of it
                    self._store.keep_shelf(place, shelf.version, kept)
            shelf.changed = False
            for version in old:
                self._store.drop_shelf(place, version)
                shelf.stored.discard(version)

    def give_back(self) -> None:
        """The store has none any more."""
        for place, shelf in enumerate(self._shelves):
            for version in shelf.stored:
                self._store.drop_shelf(place, version)
