"""What happens to a server: it is dead, hangs, is silent, answers from elsewhere, is replaced."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from echo import Echo
from namespaces import Network


class Place:
    """A server's address and port on a host of a Network, and whoever answers there at the moment:
    a context manager."""

    def __init__(self, network: Network, host: str, address: str) -> None:
        self._network = network
        self._host = host
        self.address = address
        self.port = 0
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._talks = True
        self._now: Echo | None = None

    def __enter__(self) -> Place:
        self._open()
        return self

    def __exit__(self, *problem: object) -> None:
        self._close()

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}"

    @contextlib.contextmanager
    def dead(self) -> Iterator[None]:
        """Nobody is there: the system says so with ICMP."""
        self._close()
        try:
            yield
        finally:
            self._open()

    def replace(self) -> None:
        """Another process has the port, as after an upgrade."""
        with self.dead():
            pass

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """It reads nothing; what comes meanwhile waits in its socket, and is answered late."""
        self._goes_on.clear()
        try:
            yield
        finally:
            self._goes_on.set()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """It reads, and answers nothing."""
        self._talks = False
        try:
            yield
        finally:
            self._talks = True

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Its answers come from another port."""
        self._close()
        self._open(elsewhere=True)
        try:
            yield
        finally:
            self.replace()

    def _open(self, *, elsewhere: bool = False) -> None:
        def make() -> Echo:
            return Echo(self.address, self.port, elsewhere=elsewhere, answers=self._answers,
                        forgets=True)  # fmt: skip

        self._now = self._network.on(self._host, make)
        self.port = self._now.endpoint[1]

    def _close(self) -> None:
        self._goes_on.set()
        if self._now:
            self._now.__exit__()
        self._now = None

    def _answers(self, _: bytes) -> bool:
        self._goes_on.wait()
        return self._talks
