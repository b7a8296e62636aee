"""The parent's side of the socket pool: rows of carriers, one row for each family.

A row's carriers hold the sockets of slots 0, 1, 2, ... in order. Rows grow at their end as sessions
come, and are cut off there; what is in between never moves, for sessions live in it.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import socket
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from udpproxy.errors import NoRight, UnitError
from udpproxy.process import messages, wire
from udpproxy.process.link import Item, Link
from udpproxy.process.logs import Logs
from udpproxy.proxy.engine import pool
from udpproxy.proxy.parent.store import Store

Family = socket.AddressFamily


@dataclass(slots=True)
class SocketBatch:
    """One batch; `count` sockets when it is full."""

    socket: socket.socket
    count: int
    version: int = 0
    """Of what was stored last; never given twice in one place."""
    stored: set[int] = field(default_factory=lambda: {0})
    """Versions that the store may have."""


class SocketPool:
    """All carriers. `store` keeps them over our own restart, where there is one."""

    def __init__(self, logs: Logs, store: Store | None) -> None:
        """With what the store has."""
        self._logs = logs
        self._store = store
        self._foreign = False
        self._rows: dict[Family, list[SocketBatch]] = {}
        self._lent: dict[Family, int] = {}
        """How many carriers of each row the present REG was lent."""
        for family, row in (store.take_carriers() if store else {}).items():
            self._rows[family] = [
                SocketBatch(sock, count, version, {version}) for sock, count, version in row
            ]

    def families(self) -> list[Family]:
        """Those that there are sockets for."""
        return list(self._rows)

    def fill(self, families: Iterable[Family], slots: int) -> list[Family]:
        """Sockets for so many slots of each family; which families are new. UnitError, and none of
        those, where the system has no more."""
        families = list(families)
        new = [family for family in families if family not in self._rows]
        for family in families:
            try:
                self._grow(family, slots)
            except OSError as problem:
                made = self.size(family)
                self.drop(new)
                raise UnitError(
                    "descriptors",
                    f"only {made} of {slots} sockets towards servers could be made "
                    f"({pool.why(problem)}): lower max-sessions or raise the limit "
                    "of descriptors",
                ) from None
        return new

    def take_foreign(self) -> None:
        """They may be bound to addresses of others: those that there are, and those to come.
        UnitError where we have no right to that."""
        if self._foreign:
            return
        try:
            for row in self._rows.values():
                for carrier in row:
                    for sock in pool.peek_carrier(carrier.socket):
                        with sock:
                            pool.take_foreign(sock)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                pool.take_foreign(one)
        except PermissionError as problem:
            raise NoRight(
                'source-address = ["client"]',
                f"{problem.strerror}: it needs root or CAP_NET_RAW, see udp-proxy-units(7)",
            ) from None
        except OSError as problem:
            raise UnitError("descriptors", problem.strerror or "") from None
        self._foreign = True

    def extend(self, families: Iterable[Family], slots: int) -> None:
        """The same while sessions come, and nobody is waited for. OSError where the system has no
        more, or its store does not listen: what is missing is made the next time."""
        for family in families:
            self._grow(family, slots, wait=False)

    def drop(self, families: list[Family]) -> None:
        """Families that nobody needs after all, as far as there are sockets for them."""
        for family in families:
            if family in self._rows:
                with contextlib.suppress(
                    OSError
                ):  # what the store keeps, the next start gives back
                    self.cut(family, 0)
            self._rows.pop(family, None)
            self._lent.pop(family, None)

    def cut(self, family: Family, capacity: int) -> None:
        """Give back the carriers that no slot below `capacity` needs."""
        row = self._rows[family]
        while row and sum(carrier.count for carrier in row[:-1]) >= capacity:
            carrier = row.pop()
            carrier.socket.close()
            self._drop(family, len(row), carrier)
        if not row:
            del self._rows[family]

    def lend(self, link: Link, *, anew: bool) -> None:
        """To REG, which peeks into them: what it has not, or all to another one."""
        if anew:
            self._lent.clear()
        for family, row in self._rows.items():
            first, self._lent[family] = self._lent.get(family, 0), len(row)
            self._mend(family, first)
            link.pour(self._parts(family, first, len(row)))

    def _parts(self, family: Family, first: int, end: int) -> Iterator[Item]:
        """It may take a while, and meanwhile there may be more: they come later."""
        for at in range(first, end, wire.MOST_DESCRIPTORS):
            part = self._rows.get(family, [])[at : min(at + wire.MOST_DESCRIPTORS, end)]
            if part:
                fds = [carrier.socket.fileno() for carrier in part]
                yield wire.Lend("carriers", [int(family)] * len(fds)), fds

    @property
    def count(self) -> int:
        """Of carriers."""
        return sum(map(len, self._rows.values()))

    def size(self, family: Family) -> int:
        """For how many slots there are sockets of that family."""
        return sum(carrier.count for carrier in self._rows.get(family, ()))

    def sockets(self, slots: Container[int]) -> Iterator[socket.socket]:
        """Duplicates of the sockets of these slots, of every family. UnitError where the system
        has no descriptors for them."""
        for row in self._rows.values():
            first = 0
            for carrier in row:
                inside = [at for at in range(carrier.count) if first + at in slots]
                if inside:
                    try:
                        batch = pool.peek_carrier(carrier.socket)
                    except OSError as problem:
                        raise UnitError("descriptors", problem.strerror or "") from None
                    yield from (batch[at] for at in inside if at < len(batch))
                    for sock in batch:
                        sock.close()
                first += carrier.count

    def give_back(self) -> None:
        """The store has none any more."""
        for family, row in self._rows.items():
            for place, carrier in enumerate(row):
                self._drop(family, place, carrier)

    def close(self) -> None:
        """Ours only: what the store has stays there."""
        for row in self._rows.values():
            for carrier in row:
                carrier.socket.close()

    def _grow(self, family: Family, slots: int, *, wait: bool = True) -> None:
        row = self._rows.setdefault(family, [])
        have = self.size(family)
        while have < slots:
            count = min(pool.BATCH, slots - have)
            carrier = pool.make_carrier(family, count, foreign=self._foreign)
            try:
                if self._store:
                    self._store.keep_carrier(family, len(row), count, 0, carrier, wait=wait)
            except OSError:
                carrier.close()
                raise
            row.append(SocketBatch(carrier, count))
            have += count

    def renew(self) -> None:
        """Other sockets for every slot: no session is left. OSError where the system has no more:
        those that are missing are made before they are lent."""
        each = [(*where, one) for where, one in self._each()]
        for _, _, carrier in each:
            carrier.socket.close()  # whatever becomes of the new ones
        for family, place, carrier in each:
            self._remake(family, place, carrier)

    def _each(self) -> Iterator[tuple[tuple[Family, int], SocketBatch]]:
        for family, row in self._rows.items():
            for place, carrier in enumerate(row):
                yield (family, place), carrier

    def _mend(self, family: Family, first: int) -> None:
        """A child that went mad may have read a carrier instead of peeking."""
        for place, carrier in enumerate(self._rows[family][first:], first):
            if carrier.socket.fileno() < 0 or not pool.is_full(carrier.socket):
                self._logs.say(messages.POOL_REMADE, place)
                self._remake(family, place, carrier)

    def _remake(self, family: Family, place: int, carrier: SocketBatch) -> None:
        anew = pool.make_carrier(family, carrier.count, foreign=self._foreign)
        self._put(family, place, carrier, anew, wait=True)

    def _put(
        self,
        family: Family,
        place: int,
        carrier: SocketBatch,
        anew: socket.socket,
        *,
        wait: bool,
    ) -> None:
        """In its place: the store has the new one before it loses the old one, so that whatever
        ends us in between, the sockets are there. OSError, and nothing has changed, where it does
        not listen."""
        version = carrier.version + 1
        try:
            if self._store:
                carrier.stored.add(version)  # whatever becomes of it
                count = carrier.count
                self._store.keep_carrier(family, place, count, version, anew, wait=wait)
        except OSError:
            anew.close()
            raise
        finally:
            carrier.version = version
        carrier.socket.close()
        carrier.socket = anew
        with contextlib.suppress(OSError):  # the next time, or the next parent: it takes the later
            self._drop(family, place, carrier, but=version, wait=wait)

    def _drop(
        self,
        family: Family,
        place: int,
        carrier: SocketBatch,
        *,
        but: int | None = None,
        wait: bool = True,
    ) -> None:
        """From the store: all versions, `but` that one."""
        for version in sorted(carrier.stored - {but}):
            if self._store:
                self._store.drop_carrier(family, place, carrier.count, version, wait=wait)
            carrier.stored.discard(version)

    def places(self, slots: dict[int, set[int]]) -> dict[tuple[Family, int], set[int]] | None:
        """The carriers of these slots' sockets, by family, and where there; None: there is no such
        socket."""
        found: dict[tuple[Family, int], set[int]] = {}
        for family, some in slots.items():
            known = next((one for one in self._rows if one == family), None)
            if known is None:
                return None
            ends = [0, *itertools.accumulate(one.count for one in self._rows[known])]
            for slot in some:
                if not 0 <= slot < ends[-1]:
                    return None
                place = bisect.bisect_right(ends, slot) - 1
                found.setdefault((known, place), set()).add(slot - ends[place])
        return found

    def replace(
        self, family: Family, place: int, wanted: Container[int]
    ) -> list[tuple[int, socket.socket]]:
        """Other sockets in these places of a carrier, whose rest stays: the new ones, by slot.
        OSError where the system has no more, or its store does not listen: then nothing has
        changed."""
        row = self._rows.get(family, [])
        if place >= len(row):
            return []  # a smaller table needs it no more
        carrier = row[place]
        batch = pool.peek_carrier(carrier.socket)
        fresh: list[tuple[int, socket.socket]] = []
        first = sum(one.count for one in row[:place])
        try:
            for at, old in enumerate(batch):
                if at in wanted:
                    sock = batch[at] = pool.make_socket(family, foreign=self._foreign)
                    fresh.append((first + at, sock))
                    old.close()
            if fresh:
                self._put(family, place, carrier, pool.pack_carrier(batch), wait=False)
        except OSError:
            for _, sock in fresh:
                sock.close()
            raise
        finally:
            new = {sock for _, sock in fresh}
            for sock in batch:
                if sock not in new:
                    sock.close()
        return fresh
