"""What systemd kept of ours over a restart: the descriptors in its store, by their names.

Names: `table`, `listener-NUMBER` (`listener-NUMBER-WORKER` for workers after the first),
`carrier-FAMILY-PLACE-COUNT` (the family's number, the carrier's place in its row, how many sockets
it holds). What the new configuration does not claim is given back.
"""

from __future__ import annotations

import os
import re
import socket

from systemd import daemon

from udpproxy.process.notify import Notifier

TABLE = "table"
_LISTENER = re.compile(r"listener-(\d+)(?:-(\d+))?")
_CARRIER = re.compile(r"carrier-(\d+)-(\d+)-(\d+)")


class Store:
    """The descriptors found at start, and what is stored from now on."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._found: dict[str, int] = {
            name: fd for fd, name in daemon.listen_fds_with_names(unset_environment=True).items()
        }
        for fd in self._found.values():
            os.set_inheritable(fd, False)  # noqa: FBT003

    def take_table(self) -> int | None:
        """The descriptor of the session table."""
        return self._found.pop(TABLE, None)

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


def _listener_name(number: int, worker: int) -> str:
    return f"listener-{number}-{worker}" if worker else f"listener-{number}"
