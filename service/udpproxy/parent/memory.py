"""The session table's memory: made, or found in the store and fitted to the new size."""

from __future__ import annotations

import mmap
import os

from udpproxy.engine import sockets
from udpproxy.parent.carriers import Rows
from udpproxy.parent.store import Store
from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.session import table
from udpproxy.session.table import Record, Table, WrongLayout


class TableMemory:
    """`cut_off` are sessions that lived beyond the end of a table that became smaller."""

    def __init__(self, logs: Logs, store: Store | None, rows: Rows, capacity: int) -> None:
        self._store = store
        self.cut_off: list[Record] = []
        found = store.take_table() if store else None
        if found is not None:
            try:
                self._open(found, capacity)
                self._cut(rows, capacity)
            except WrongLayout as problem:
                # Nobody knows which sockets are in use: all of them are made anew.
                logs.say(messages.TABLE_LAYOUT, problem)
                os.close(found)
                store.drop_table() if store else None
                for family in rows.families():
                    rows.cut(family, 0)
            else:
                return
        self.descriptor = os.memfd_create("udp-proxy-sessions", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, table.size(capacity))
        self.table = Table(self._map(), capacity, fresh=True)
        if store:
            store.keep_table(self.descriptor)

    def close(self) -> None:
        """Our descriptor; the memory lives as long as anybody has it."""
        os.close(self.descriptor)

    def _map(self) -> memoryview:
        return memoryview(mmap.mmap(self.descriptor, 0))

    def _open(self, found: int, capacity: int) -> None:
        self.descriptor = found
        self._before = table.capacity_of(self._map())
        if os.fstat(found).st_size < table.size(capacity):
            os.ftruncate(found, table.size(capacity))
        self.table = Table(self._map(), self._before, fresh=False)

    def _cut(self, rows: Rows, capacity: int) -> None:
        beyond = range(capacity, self._before)
        for slot, record in list(self.table.records()):
            if slot in beyond:
                self.cut_off.append(record)
                self.table.add(record)
                self.table.free(slot)
        for sock in rows.sockets(beyond):
            sockets.reset(sock)
        self.table.resize(capacity)
        if beyond:
            for family in rows.families():
                rows.cut(family, capacity)
