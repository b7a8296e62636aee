"""What systemd kept of ours over a restart: the descriptors in its store, by their names.

Names: `table`, `listener-NUMBER` (`listener-NUMBER-WORKER` for workers after the first),
`carrier-FAMILY-PLACE-COUNT` (the family's number, the carrier's place in its row, how many sockets
it holds). What the new configuration does not claim is given back, and so is what is not what its
name says.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import sys

from systemd import daemon

from udpproxy.engine import pool, sockets
from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier

TABLE = "table"
_LISTENER = re.compile(r"listener-([0-9]{1,9})(?:-([0-9]{1,4}))?")
_KIND = (39, socket.SO_TYPE, 38)
"""SO_DOMAIN, SO_TYPE, SO_PROTOCOL."""
_CARRIER = re.compile(r"carrier-([0-9]{1,4})-([0-9]{1,9})-([0-9]{1,9})")


class Store:
    """The descriptors found at start, and what is stored from now on."""

    def __init__(self, logs: Logs, notifier: Notifier) -> None:
        self._logs = logs
        self._notifier = notifier
        self._found: dict[str, int] = {}
        refused: set[str] = set()
        for fd, name in daemon.listen_fds_with_names(unset_environment=True).items():
            os.set_inheritable(fd, False)  # noqa: FBT003
            why = "is there twice" if name in self._found else _mistake(name, fd)
            if why:
                logs.say(messages.STORED_WRONGLY, name, why)
                os.close(fd)
                refused.add(name)
            else:
                self._found[name] = fd
        self._throw_out(refused)

    def _throw_out(self, refused: set[str]) -> None:
        """All of these names; what was right among them is stored again."""
        for name in refused:
            try:
                self._notifier.unstore(name)
                if name in self._found:
                    self._notifier.store(name, self._found[name])
            except OSError as problem:
                # The next start sees it again. Each try waits: no second one.
                self._logs.say(messages.STORE_SILENT, name, problem)
                return

    def take_table(self) -> int | None:
        """The descriptor of the session table."""
        return self._found.pop(TABLE, None)

    def table_word(self, number: int) -> int:
        """One of the first words of the table that is still to be taken; 0: there is none."""
        found = self._found.get(TABLE)
        if found is None:
            return 0
        with contextlib.suppress(OSError):
            return int.from_bytes(os.pread(found, 8, 8 * number), sys.byteorder)
        return 0

    def take_listeners(self) -> dict[int, list[socket.socket]]:
        """By number; one socket for each worker, in order."""
        places: dict[int, dict[int, socket.socket]] = {}
        for name in list(self._found):
            if match := _LISTENER.fullmatch(name):
                sock = socket.socket(fileno=self._found.pop(name))
                sock.settimeout(0)
                places.setdefault(int(match[1]), {})[int(match[2] or 0)] = sock
        return {number: [row[at] for at in sorted(row)] for number, row in places.items()}

    def take_carriers(self) -> dict[socket.AddressFamily, list[tuple[socket.socket, int]]]:
        """The rows with the carriers' counts, in order; a row ends where a place is missing."""
        places: dict[socket.AddressFamily, dict[int, tuple[str, int]]] = {}
        for name in self._found:
            if match := _CARRIER.fullmatch(name):
                family, place, count = map(int, match.groups())
                places.setdefault(socket.AddressFamily(family), {})[place] = name, count
        rows: dict[socket.AddressFamily, list[tuple[socket.socket, int]]] = {}
        for family, row in places.items():
            rows[family] = []
            while len(rows[family]) in row:
                name, count = row[len(rows[family])]
                rows[family].append((socket.socket(fileno=self._found.pop(name)), count))
        return rows

    def keep_table(self, fd: int) -> None:
        """From now on it survives us."""
        self._notifier.store(TABLE, fd)

    def drop_table(self) -> None:
        """It is of no use to this version."""
        self._notifier.unstore(TABLE)

    def keep_listener(self, number: int, found: list[socket.socket]) -> None:
        """From now on they survive us."""
        for worker, sock in enumerate(found):
            self._notifier.store(_listener_name(number, worker), sock.fileno())

    def drop_listener(self, number: int, workers: int) -> None:
        """It is listened to no longer."""
        for worker in range(workers):
            self._notifier.unstore(_listener_name(number, worker))

    def keep_carrier(
        self, family: socket.AddressFamily, place: int, count: int, sock: socket.socket
    ) -> None:
        """From now on it survives us."""
        self._notifier.store(f"carrier-{int(family)}-{place}-{count}", sock.fileno())

    def drop_carrier(self, family: socket.AddressFamily, place: int, count: int) -> None:
        """Its sockets are not needed any more."""
        self._notifier.unstore(f"carrier-{int(family)}-{place}-{count}")

    def drop_rest(self) -> None:
        """What nobody took is of an older version or configuration."""
        for name, fd in self._found.items():
            self._notifier.unstore(name)
            os.close(fd)
        self._found.clear()


def _mistake(name: str, fd: int) -> str:
    """Why that cannot be what its name says; of the table its reader knows more."""
    listener, carrier = _LISTENER.fullmatch(name), _CARRIER.fullmatch(name)
    if not listener and not carrier:
        return ""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return "is no socket"
    # Whatever kind it is of: only questions are asked of it.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=os.dup(fd)) as sock:
        if carrier:
            family, _, count = map(int, carrier.groups())
            return _mistake_of_carrier(sock, family, count)
        return "" if _is_udp(sock, *sockets.FAMILIES) else "is no UDP socket"


def _mistake_of_carrier(carrier: socket.socket, family: int, count: int) -> str:
    if family not in sockets.FAMILIES or not 1 <= count <= pool.BATCH:
        return "is of another version"
    if _kind(carrier) != (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0):
        return "is no carrier"
    try:
        batch = pool.peek_carrier(carrier)
    except OSError:
        return "is no carrier"
    right = len(batch) == count and all(_is_udp(sock, family) for sock in batch)
    for sock in batch:
        sock.close()
    # An empty one is made anew, as at any time.
    return "" if right or not batch else "holds other sockets"


def _is_udp(sock: socket.socket, *families: int) -> bool:
    kinds = [(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP) for family in families]
    return _kind(sock) in kinds


def _kind(sock: socket.socket) -> tuple[int, ...]:
    return tuple(sock.getsockopt(socket.SOL_SOCKET, option) for option in _KIND)


def _listener_name(number: int, worker: int) -> str:
    return f"listener-{number}-{worker}" if worker else f"listener-{number}"
