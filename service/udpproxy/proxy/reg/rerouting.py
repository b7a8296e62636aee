"""Sessions that the parent has seen to go by an address of ours that is not their way any more."""

from __future__ import annotations

from udpproxy.process.wire import Plain
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import Engine
from udpproxy.proxy.session.table import Table


def reconnect(engine: Engine, table: Table, source: str, places: list[Plain]) -> None:
    """Those of these slots and numbers that do not go by `source` yet: a datagram may have found
    out by itself meanwhile."""
    address = sockets.pack(source)
    for place in places:
        match place:
            case [int(slot), int(number)] if 0 <= slot < table.capacity:
                record = table.read(slot)
                if record and record.id == number and record.source != (address, record.source[1]):
                    engine.reconnect(slot, number)
