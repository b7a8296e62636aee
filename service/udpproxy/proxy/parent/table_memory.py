"""The session table's memory: made, or found in the store and fitted to the new size and layout.

It is sealed: whoever it is lent to may write into it, but not take it away (a reader beyond the
end of a file is killed by SIGBUS), not make it longer (what nobody made is no table, and takes
memory), and add no seal that would keep the next one from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os

from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.proxy.engine import dscp, sockets
from udpproxy.proxy.parent.socket_pool import SocketPool
from udpproxy.proxy.parent.store import Store
from udpproxy.proxy.session import former, table
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.table import Table, WrongLayout

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PART = 1 << 20


class TableMemory:
    """`cut_off` are sessions that lived beyond the end of a table that became smaller;
    `carried_over`: the table was one of the layout before."""

    def __init__(
        self, logs: Logs, store: Store | None, rows: SocketPool, capacity: int, *, expected: bool
    ) -> None:
        """`expected`: the store had other things of ours."""
        self._logs = logs
        self._store = store
        self._rows = rows
        self.descriptor: int
        self.table: Table
        self.cut_off: list[Record] = []
        self.carried_over = False
        found = store.take_table() if store else None
        if found is None and (expected or rows.families()):
            self._give_up("systemd's store has no session table any more")
        if found is None or not self._adopt(found, capacity):
            self._make(capacity)

    def renew(self) -> int:
        """Another table and other sockets, for nobody can be trusted with these; how many sessions
        are lost with what nobody could read. OSError, and at least the table is a new one."""
        old, before = self.descriptor, self.table
        lost = before.count_live()
        capacity = before.capacity
        descriptor = _sealed_memory(table.size(capacity))
        self.descriptor = descriptor
        self.table = Table(self._map(), capacity, fresh=True)
        self.table.grow(before.grown)
        self.table.go_on_counting(before)
        self.table.count("sessions-lost", lost)
        os.close(old)
        self._rows.renew()
        if self._store:
            self._store.drop_table()
            self._store.keep_table(descriptor)
        return lost

    def close(self) -> None:
        """Our descriptor; the memory lives as long as anybody has it."""
        os.close(self.descriptor)

    def _adopt(self, found: int, capacity: int) -> bool:
        try:
            self.descriptor = found
            self._carry_over()
            self._before = table.capacity_of(self._map())
            self._fit(table.size(max(self._before, capacity)))
            self._open()
            self._cut(capacity)
        except (ValueError, OSError) as problem:
            with contextlib.suppress(OSError):
                os.close(self.descriptor)
            if self._store:
                self._store.drop_table()
            self._give_up(
                str(problem) if isinstance(problem, WrongLayout) else f"no table: {problem}"
            )
            return False
        return True

    def _give_up(self, why: str) -> None:
        """Nobody knows which sockets are in use: all of them are made anew."""
        self._logs.say(messages.NOT_TAKEN_OVER, why, "sessions start anew")
        for family in self._rows.families():
            self._rows.cut(family, 0)

    def _make(self, capacity: int) -> None:
        self.descriptor = _sealed_memory(table.size(capacity))
        self.table = Table(self._map(), capacity, fresh=True)
        if self._store:
            self._store.keep_table(self.descriptor)

    def _map(self) -> memoryview:
        return memoryview(mmap.mmap(self.descriptor, 0))

    def _carry_over(self) -> None:
        """The same sessions in memory of today's layout, where the found one has that before."""
        before = self._map() if os.fstat(self.descriptor).st_size else memoryview(b"")
        try:
            capacity = former.capacity_of(before)
        except WrongLayout:
            return
        now = _sealed_memory(table.size(capacity))
        former.carry_over(before, memoryview(mmap.mmap(now, 0)))
        self._replace(now)
        self.carried_over = True

    def _fit(self, size: int) -> None:
        """A copy of `size` bytes, where it has another size, or others than we have sealed it."""
        found = self.descriptor
        there = os.fstat(found).st_size
        with contextlib.suppress(OSError):  # no memory of the kind that can be sealed
            if there == size and fcntl.fcntl(found, fcntl.F_GET_SEALS) == _SEALS:
                return
        copied = _sealed_memory(size)
        for at in range(0, min(there, size), _PART):
            part = os.pread(found, min(_PART, size - at), at)
            if part.strip(b"\0"):  # what was never written takes no memory here, either
                os.pwrite(copied, part, at)
        self._replace(copied)

    def _replace(self, descriptor: int) -> None:
        """This one is the table's from now on, for the next parent too."""
        os.close(self.descriptor)
        self.descriptor = descriptor
        if self._store:
            self._store.drop_table()
            self._store.keep_table(descriptor)

    def _open(self) -> None:
        self.table = Table(self._map(), self._before, fresh=False)
        # REG could have written into the header, but carriers are ours; each may be lost.
        sizes = [self._rows.size(family) for family in self._rows.families()]
        self.table.grow(max([self.table.grown, *sizes]))

    def _cut(self, capacity: int) -> None:
        beyond = range(capacity, self._before)
        for slot, record in list(self.table.records()):
            if slot in beyond:
                self.cut_off.append(record)
                self.table.add(record)
                self.table.free(slot)
        for sock in self._rows.sockets(beyond):
            sockets.reset(sock)
            dscp.reset(sock)
        self.table.resize(capacity)
        if beyond:
            for family in self._rows.families():
                self._rows.cut(family, capacity)


def _sealed_memory(size: int) -> int:
    memory = os.memfd_create("udp-proxy-sessions", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(memory)
        raise
    return memory
