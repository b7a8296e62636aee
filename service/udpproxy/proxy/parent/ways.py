"""Sessions whose way to their server has changed: the system would give them another address of
ours now than the one they go by. REG, which has no network to ask, is told which they are.

One look-up for each server, by the system's own choice: a socket that is connected says from where,
and sends nothing. All of it in parts, and the table a column at a time.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from udpproxy.process import wire
from udpproxy.process.link import Link
from udpproxy.process.loop import Reactor, Timer
from udpproxy.process.wire import Plain
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.table import Table
from udpproxy.proxy.session.ways import Way, ways

_SLOTS = 4096
"""Of the table, that are looked at in one go: some milliseconds."""
_LOOK_UPS = 64
"""Servers in one go: less than a millisecond."""
_SESSIONS = 64
"""In one message to REG, which connects them between two turns of its loop."""
_MOST_ADDRESSES = 10_000
_PAUSE = 0.05
"""Seconds until it goes on where REG has not read the last messages yet."""
_OWN = Path("/proc/net/if_inet6")


class Ways:
    """`table` and `link` are those of this moment; None: there is no REG, and somebody calls look()
    when the next one has come."""

    def __init__(
        self,
        reactor: Reactor,
        table: Callable[[], Table],
        link: Callable[[], Link | None],
        is_named: Callable[[Record], bool],
    ) -> None:
        """`is_named`: a rule has given the session its address, which is right as long as this host
        has it."""
        self._reactor = reactor
        self._table = table
        self._link = link
        self._is_named = is_named
        # Made where the sessions' sockets are: rules may tell one user's packets from another's.
        self._sockets = {family: sock for family in sockets.FAMILIES if (sock := _probe(family))}
        self._sweeping: Iterator[None] | None = None
        self._again = False
        self._timer: Timer | None = None
        self._ours: dict[bytes, bool] = {}
        """Addresses that this look has found to be, or not to be, this host's."""
        self._told: dict[int, tuple[bytes, bytes]] = {}
        """Sessions by number that were told last time, and go by another address than they might:
        from where, and what they were told. If they still do, a rule of the administrator's is for
        their sockets and not for ours, and each change would give them another port."""

    def look(self) -> None:
        """Something has changed. Where a look is under way there will be another one."""
        self._again = True
        if self._sweeping is None and self._timer is None:
            self._timer = self._reactor.call_later(0, self._work)

    def close(self) -> None:
        """No more."""
        if self._timer:
            self._timer.cancel()
        self._sweeping = None
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def _work(self) -> None:
        """One part; the rest when the loop has turned."""
        self._timer = None
        link = self._link()
        if link is None:
            self._sweeping, self._again = None, False
            return
        if self._sweeping is None:
            self._again = False
            self._sweeping = self._sweep(self._table(), link)
        if not link.congested and next(self._sweeping, link):
            self._sweeping = None
        if self._sweeping or self._again:
            delay = _PAUSE if link.congested else 0
            self._timer = self._reactor.call_later(delay, self._work)

    def _sweep(self, table: Table, link: Link) -> Iterator[None]:
        before, self._told = self._told, {}
        self._ours.clear()
        sources: dict[tuple[bytes, int, int], bytes] = {}
        own: dict[bytes, tuple[int, int]] | None = None
        for first in range(0, table.grown, _SLOTS):
            slots = range(first, min(first + _SLOTS, table.grown))
            for way, its in ways(table, slots).items():
                server = way.server, way.port, way.scope
                if server not in sources:
                    sources[server] = self._source(*server)
                    if len(sources) % _LOOK_UPS == 0:
                        yield
                source = sources[server]
                if source in (b"", way.source):
                    continue
                if own is None:
                    own = _own_addresses()
                if _is_as_good(way.source, source, own):
                    continue
                for at in range(0, len(its), _SESSIONS):
                    places = list(
                        self._places(table, its[at : at + _SESSIONS], way, source, before)
                    )
                    if places:
                        args: dict[str, Plain] = {
                            "source": sockets.unpack(source),
                            "sessions": places,
                        }
                        link.send(wire.Tell("reconnect", args))
                    yield
            yield

    def _places(
        self,
        table: Table,
        slots: list[int],
        way: Way,
        source: bytes,
        before: dict[int, tuple[bytes, bytes]],
    ) -> Iterator[Plain]:
        """Slots and numbers of those that are to go on from `source`."""
        for slot in slots:
            record = table.read(slot)
            if record is None or (record.peer or record.server) != (way.server, way.port):
                continue
            if (record.source[0] if record.source[1] else b"") != way.source:
                continue  # it has another one by now
            if self._is_right(record, way.source):
                continue
            told = way.source, source
            self._told[record.id] = told
            if not way.source or before.get(record.id) != told:
                yield [slot, record.id]

    def _is_right(self, record: Record, source: bytes) -> bool:
        """Has a rule given it that address, and is it still of use? A client's own was never this
        host's."""
        if not source or not self._is_named(record):
            return False
        return source == record.client[0] or self._has(source)

    def _has(self, address: bytes) -> bool:
        """Is that address this host's, or counts as such (net.ipv4.ip_nonlocal_bind)?"""
        if address not in self._ours:
            self._ours[address] = True
            with socket.socket(sockets.family_of(address), socket.SOCK_DGRAM) as sock:
                try:
                    sock.bind((sockets.unpack(address), 0))
                except OSError as problem:
                    self._ours[address] = problem.errno != errno.EADDRNOTAVAIL
        return self._ours[address]

    def _source(self, server: bytes, port: int, scope: int) -> bytes:
        """From which address the system would write there now; empty: from none."""
        sock = self._sockets.get(sockets.family_of(server))
        if sock is None:
            return b""
        try:
            sock.connect(sockets.sockaddr((server, port), scope))
            return sockets.pack(sock.getsockname()[0])
        except OSError:
            return b""
        finally:
            sockets.disconnect(sock)


def _probe(family: socket.AddressFamily) -> socket.socket | None:
    try:
        return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError:
        return None


def _is_as_good(old: bytes, new: bytes, own: dict[bytes, tuple[int, int]]) -> bool:
    """Two addresses of one network on one device: IPv6 hosts take ever new ones there, each better
    than the last (RFC 8981), and that one goes on to work until it is gone."""
    if len(old) != 16 or old not in own or new not in own:
        return False
    (device, length), (other, _) = own[old], own[new]
    rest = 128 - length
    same = int.from_bytes(old, "big") >> rest == int.from_bytes(new, "big") >> rest
    return device == other and same


def _own_addresses() -> dict[bytes, tuple[int, int]]:
    """This host's IPv6 addresses, with the numbers of their interfaces and the lengths of their
    prefixes."""
    try:
        with _OWN.open() as lines:
            fields = [line.split() for line in itertools.islice(lines, _MOST_ADDRESSES)]
        return {
            bytes.fromhex(address): (int(device, 16), int(length, 16))
            for address, device, length, *_ in fields
        }
    except (OSError, ValueError):
        return {}
