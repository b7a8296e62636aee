"""Listening sockets in systemd's store: many in each of its descriptors, for they are few.

Where something changes on a shelf (shelf.py), a new one goes into the store before the old one
leaves it, so that whatever ends us in between, the sockets are there.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from udpproxy.proxy.engine import pool
from udpproxy.proxy.parent.shelf import Item, pack, unpack
from udpproxy.proxy.parent.store import Store


class _Shelf:
    def __init__(self) -> None:
        self.listeners: dict[int, Sequence[socket.socket]] = {}
        self.room = pool.BATCH
        """For so many sockets more."""
        self.changed = False
        self.version = 0
        """Of what was stored last; never given twice."""
        self.stored: set[int] = set()
        """Versions that the store may have."""

    def put(self, number: int, each: Sequence[socket.socket]) -> None:
        """In the place of what that listener had."""
        self.room += len(self.listeners.get(number, ())) - len(each)
        self.listeners[number] = each

    def remove(self, number: int) -> None:
        """It has none here any more."""
        self.room += len(self.listeners.pop(number))

    def items(self) -> Iterator[Item]:
        """For pack()."""
        for number, each in self.listeners.items():
            for worker, sock in enumerate(each):
                yield number, worker, sock


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

    def take(self) -> dict[int, list[socket.socket]]:
        """All that the store has, by number; one socket for each worker, in order."""
        rows: dict[int, dict[int, socket.socket]] = {}
        for place, version, kept in self._store.take_shelves():
            while len(self._shelves) <= place:
                self._free.add(len(self._shelves))
                self._shelves.append(_Shelf())
            shelf = self._shelves[place]
            shelf.version = version
            shelf.stored.add(version)
            with kept:
                items = unpack(kept)
            for number, worker, sock in items:
                if self._places.setdefault(number, place) == place:
                    rows.setdefault(number, {})[worker] = sock
                else:
                    sock.close()  # it is on another one
                    shelf.changed = True
        found = {number: [row[at] for at in sorted(row)] for number, row in rows.items()}
        for number, each in found.items():
            self._shelves[self._places[number]].put(number, each)
        for number, each in self._store.take_listeners().items():
            if number not in found:
                found[number] = each
                self.put(number, each)
        return found

    def put(self, number: int, each: Sequence[socket.socket]) -> None:
        """These sockets, in the place of what that listener had."""
        place = self._places.get(number)
        if place is None:
            place = next((one for one in self._free if self._shelves[one].room >= len(each)), None)
        if place is None:
            place = len(self._shelves)
            self._shelves.append(_Shelf())
            self._free.add(place)
        shelf = self._shelves[place]
        shelf.put(number, each)
        shelf.changed = True
        self._places[number] = place
        if shelf.room < len(each):
            self._free.discard(place)

    def remove(self, number: int) -> None:
        """It is listened to no longer."""
        place = self._places.pop(number, None)
        if place is not None:
            shelf = self._shelves[place]
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
