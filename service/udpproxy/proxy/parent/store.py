"""What the proxy has in systemd's store.

Names: `table`, `servers` (which servers of groups are down or drained, see servers.py),
`listeners-PLACE-VERSION` (a shelf, see shelves.py), `carrier-FAMILY-PLACE-COUNT-VERSION` (the
family's number, the carrier's place in its row, how many sockets it holds; the first version has no
number); by an older version, `listener-NUMBER` (`listener-NUMBER-WORKER` for workers after the
first). What the new configuration does not claim is given back, and so is what is not what its name
says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import sys
from collections.abc import Iterable, Iterator

from udpproxy.errors import UnitError
from udpproxy.instance.store import DescriptorStore
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.proxy.engine import pool, sockets
from udpproxy.proxy.parent.shelf import unpack

TABLE, SERVERS = "table", "servers"
_LISTENER = re.compile(r"listener-([0-9]{1,9})(?:-([0-9]{1,4}))?")
_SHELF = re.compile(r"listeners-([0-9]{1,5})-([0-9]{1,18})")
_KIND = (39, socket.SO_TYPE, 38)
"""SO_DOMAIN, SO_TYPE, SO_PROTOCOL."""
_CARRIER = re.compile(r"carrier-([0-9]{1,4})-([0-9]{1,9})-([0-9]{1,9})(?:-([0-9]{1,18}))?")


class Store(DescriptorStore):
    """See DescriptorStore."""

    def __init__(self, logs: Logs, notifier: Notifier) -> None:
        self._replaced: list[str] = []
        """Names of what is stored in another way from now on."""
        super().__init__(logs, notifier)

    def mistake(self, name: str, fd: int) -> str:
        """Of the table its reader knows more."""
        return _mistake(name, fd)

    def take_table(self) -> int | None:
        """The descriptor of the session table."""
        return self.take(TABLE)

    def table_word(self, number: int) -> int:
        """One of the first words of the table that is still to be taken; 0: there is none."""
        found = self.peek(TABLE)
        if found is None:
            return 0
        with contextlib.suppress(OSError):
            return int.from_bytes(os.pread(found, 8, 8 * number), sys.byteorder)
        return 0

    def take_shelves(self) -> Iterator[tuple[int, int, socket.socket]]:
        """Places, versions, and what is there; of each place the latest version."""
        latest: dict[int, tuple[int, str]] = {}
        for name in self.names():
            if match := _SHELF.fullmatch(name):
                place, version = map(int, match.groups())
                latest[place] = max(latest.get(place, (0, "")), (version, name))
        for place, (version, name) in sorted(latest.items()):
            yield place, version, socket.socket(fileno=self._taken(name))

    def take_listeners(self) -> dict[int, list[socket.socket]]:
        """Those of an older version by number; one socket for each worker, in order."""
        places: dict[int, dict[int, socket.socket]] = {}
        for name in self.names():
            if match := _LISTENER.fullmatch(name):
                self._replaced.append(name)
                sock = socket.socket(fileno=self._taken(name))
                sock.settimeout(0)
                places.setdefault(int(match[1]), {})[int(match[2] or 0)] = sock
        return {number: [row[at] for at in sorted(row)] for number, row in places.items()}

    def take_carriers(self) -> dict[socket.AddressFamily, list[tuple[socket.socket, int, int]]]:
        """The rows with the carriers' counts and versions, in order, of each place the latest; a
        row ends where a place is missing, and what is beyond is thrown out at once: others will be
        stored under these names."""
        places: dict[socket.AddressFamily, dict[int, tuple[int, str, int]]] = {}
        for name in self.names():
            if match := _CARRIER.fullmatch(name):
                family, place, count, version = (int(word or 0) for word in match.groups())
                row_of = places.setdefault(socket.AddressFamily(family), {})
                row_of[place] = max(row_of.get(place, (-1, "", 0)), (version, name, count))
        rows: dict[socket.AddressFamily, list[tuple[socket.socket, int, int]]] = {}
        for family, row in places.items():
            rows[family] = []
            while len(rows[family]) in row:
                version, name, count = row[len(rows[family])]
                rows[family].append((socket.socket(fileno=self._taken(name)), count, version))
        beyond = {name for name in self.names() if _CARRIER.fullmatch(name)}
        for name in beyond:
            os.close(self._taken(name))
        self._throw_out(beyond)
        return rows

    def keep_table(self, fd: int) -> None:
        """From now on it survives us."""
        self.keep(TABLE, fd)

    def drop_table(self) -> None:
        """It is of no use to this version."""
        self.drop(TABLE)

    def take_servers(self) -> int | None:
        """The descriptor of what is known of servers."""
        return self.take(SERVERS)

    def keep_servers(self, fd: int) -> None:
        """From now on it survives us."""
        self.keep(SERVERS, fd)

    def drop_servers(self) -> None:
        """The next one begins anew."""
        self.drop(SERVERS)

    def keep_shelf(self, place: int, version: int, shelf: socket.socket) -> None:
        """From now on it survives us."""
        self.keep(f"listeners-{place}-{version}", shelf.fileno())

    def drop_shelf(self, place: int, version: int) -> None:
        """There is a later version, or nothing on it."""
        self.drop(f"listeners-{place}-{version}")

    def keep_carrier(
        self,
        family: socket.AddressFamily,
        place: int,
        count: int,
        version: int,
        sock: socket.socket,
        *,
        wait: bool = True,
    ) -> None:
        """From now on it survives us."""
        self.keep(_carrier(family, place, count, version), sock.fileno(), wait=wait)

    def drop_carrier(
        self,
        family: socket.AddressFamily,
        place: int,
        count: int,
        version: int,
        *,
        wait: bool = True,
    ) -> None:
        """There is a later version, or its sockets are not needed any more."""
        self.drop(_carrier(family, place, count, version), wait=wait)

    def drop_rest(self, more: Iterable[str] = ()) -> None:
        """Also what is stored in another way by now."""
        super().drop_rest((*self._replaced, *more))

    def _taken(self, name: str) -> int:
        found = self.take(name)
        assert found is not None
        return found


def _carrier(family: int, place: int, count: int, version: int) -> str:
    """Its name."""
    name = f"carrier-{int(family)}-{place}-{count}"
    return f"{name}-{version}" if version else name


def _mistake(name: str, fd: int) -> str:
    """Why that cannot be what its name says; of the table its reader knows more."""
    carrier, shelf = _CARRIER.fullmatch(name), _SHELF.fullmatch(name)
    if not carrier and not shelf and not _LISTENER.fullmatch(name):
        return ""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return "is no socket"
    # Whatever kind it is of: only questions are asked of it.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=os.dup(fd)) as sock:
        if carrier:
            family, _, count = map(int, carrier.groups()[:3])
            return _mistake_of_carrier(sock, family, count)
        if shelf:
            return _mistake_of_shelf(sock)
        return "" if _is_udp(sock, *sockets.FAMILIES) else "is no UDP socket"


def _mistake_of_carrier(carrier: socket.socket, family: int, count: int) -> str:
    if family not in sockets.FAMILIES or not 1 <= count <= pool.BATCH:
        return "is of another version"
    if _kind(carrier) != (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0):
        return "is no carrier"
    try:
        batch = pool.peek_carrier(carrier)
    except OSError as problem:
        _expect_room(problem)
        return "is no carrier"
    right = len(batch) == count and all(_is_udp(sock, family) for sock in batch)
    for sock in batch:
        sock.close()
    # An empty one is made anew, as at any time.
    return "" if right or not batch else "holds other sockets"


def _mistake_of_shelf(shelf: socket.socket) -> str:
    if _kind(shelf) != (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0):
        return "is no shelf"
    try:
        items = unpack(shelf)
    except OSError as problem:
        _expect_room(problem)
        return "is no shelf"
    each = [sock for _, _, some in items for sock in some]
    right = all(_is_udp(sock, *sockets.FAMILIES) for sock in each)
    for sock in each:
        sock.close()
    return "" if right else "holds other sockets"


def _expect_room(problem: OSError) -> None:
    """What the system only has no descriptors for is not thrown out: UnitError."""
    if problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise UnitError("systemd's store", f"{problem.strerror}: raise the limit of descriptors")


def _is_udp(sock: socket.socket, *families: int) -> bool:
    kinds = [(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP) for family in families]
    return _kind(sock) in kinds


def _kind(sock: socket.socket) -> tuple[int, ...]:
    return tuple(sock.getsockopt(socket.SOL_SOCKET, option) for option in _KIND)
