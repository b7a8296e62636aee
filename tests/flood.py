"""Strangers, and those who have sessions meanwhile: a flood with forged sources (flood.c) and
clients that ask at a steady rate and count their answers."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from echo import udp
from proxy import Endpoint, Row

_SOURCE = Path(__file__).with_suffix(".c")


def build(directory: Path) -> Path:
    """The sender, made there."""
    program = directory / "flood"
    words = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(_SOURCE)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.fail("cc is missing: apt install gcc libc6-dev")
    assert done.returncode == 0, done.stderr
    return program


class Flood:
    """A context manager that starts it; `result` waits for its end."""

    def __init__(
        self,
        program: Path,
        target: Endpoint,
        sources: str,
        *,
        rate: int = 60_000,
        seconds: float = 6.0,
        size: int = 40,
        ports: int = 60_000,
        prefix: Sequence[str] = (),
        device: str = "",
        hardware: str = "",
    ) -> None:
        """`sources` is a network; `prefix` a command that runs ours elsewhere. IPv6 goes out by
        `device` towards `hardware`."""
        host, port = target
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        options = {
            "target": where, "sources": sources, "rate": rate, "count": round(rate * seconds),
            "size": size, "ports": ports,
            **({"device": device, "hardware": hardware} if device else {}),
        }  # fmt: skip
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._words = [*prefix, str(program), *words]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Flood:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._words, stdout=pipe, stderr=pipe, text=True)
        return self

    def __exit__(self, *problem: object) -> None:
        assert self._process
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def result(self, limit: float = 120.0) -> Row:
        """What left: `sent`, `failed`, `seconds`."""
        assert self._process
        out, problems = self._process.communicate(timeout=limit)
        assert self._process.returncode == 0, problems
        row: Row = json.loads(out)
        return row


class Known:
    """Clients with a session each; a context manager that asks until it is left, in turn, at
    `rate` questions a second in all. Made where its sockets are to be."""

    def __init__(
        self, target: Endpoint, *, address: str, clients: int = 20, rate: float = 200.0
    ) -> None:
        self._target = target
        self.clients = clients
        self._sockets = [udp(address) for _ in range(clients)]
        self._gap = 1.0 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._sent_at: dict[int, float] = {}
        self._times: list[float] = []
        self.sent = 0
        self.trips: list[float] = []
        """Seconds until each answer."""

    def begin(self) -> None:
        """Each has an answer once: it is known from now on."""
        try:
            for number, sock in enumerate(self._sockets):
                sock.sendto(b"first %d" % number, self._target)
            for number, sock in enumerate(self._sockets):
                assert sock.recv(2048) == b"first %d" % number
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Known:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for sock in self._sockets:
            sock.close()

    @property
    def lost(self) -> int:
        """Questions without an answer; final once it was left."""
        return self.sent - len(self.trips)

    def between(self, since: float, until: float) -> tuple[int, int]:
        """How many questions of that time (of the monotonic clock) have no answer yet, and how many
        there were."""
        lost = sum(since <= sent < until for sent in list(self._sent_at.values()))
        return lost, sum(since <= sent < until for sent in list(self._times))

    @property
    def last_lost(self) -> float:
        """When the last question was asked that has no answer yet; 0: all have."""
        return max(list(self._sent_at.values()), default=0.0)

    def summary(self) -> str:
        """For a table."""
        trips = sorted(self.trips) or [0.0]
        late = trips[len(trips) * 99 // 100]
        return f"{len(self.trips)}/{self.sent}, p99 {late * 1000:.1f} ms"

    def _work(self) -> None:
        poll = select.poll()
        by_fd = {sock.fileno(): sock for sock in self._sockets}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        due = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= due:
                sock = self._sockets[self.sent % len(self._sockets)]
                self._sent_at[self.sent] = now
                self._times.append(now)
                sock.sendto(b"%d" % self.sent, self._target)
                self.sent += 1
                due = max(due + self._gap, now - 1.0)
            self._collect(poll.poll(max(0.0, due - time.monotonic()) * 1000), by_fd)
        while self._sent_at and time.monotonic() < self.last_lost + 2.0:
            self._collect(poll.poll(100), by_fd)

    def _collect(self, ready: list[tuple[int, int]], by_fd: dict[int, socket.socket]) -> None:
        for fd, _ in ready:
            number = int(by_fd[fd].recv(2048))
            since = self._sent_at.pop(number, None)
            if since is not None:
                self.trips.append(time.monotonic() - since)
