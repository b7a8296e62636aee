"""Servers and clients on loopback, as simple as can be: what a proxy stands between."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator

from proxy import Endpoint, until

LARGEST = 65_507
"""Bytes in an IPv4 datagram."""

_BUFFER = 4 << 20


def udp(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A socket of the address's family with some patience and room for a burst."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.settimeout(20.0)
    try:
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


class Echo:
    """A server in a thread of its own that sends back what it gets.

    `elsewhere`: from another port; `answers`: which datagrams it answers at all; `forgets`:
    `received` stays empty, for long runs.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        elsewhere: bool = False,
        answers: Callable[[bytes], bool] = lambda data: True,
        forgets: bool = False,
    ) -> None:
        self._forgets = forgets
        self.received: list[tuple[bytes, Endpoint]] = []
        self.answers = answers
        self._socket = udp(address, port)
        self._other = udp(address) if elsewhere else self._socket
        self._stop = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._socket.settimeout(0.1)
        self._thread.start()

    def hang(self) -> None:
        """It reads nothing more, as one that is stopped."""
        self._going.clear()

    def go_on(self) -> None:
        """It does."""
        self._going.set()

    def join(self, member: bytes) -> None:
        """A multicast group, by an interface (struct ip_mreq)."""
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self._other.close()

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        name = self._socket.getsockname()
        return name[0], name[1]

    def __str__(self) -> str:
        address, port = self.endpoint
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    @property
    def sources(self) -> set[Endpoint]:
        """The addresses and ports that it was written to from."""
        return {source for _, source in list(self.received)}

    def sources_of(self, prefix: bytes) -> set[Endpoint]:
        """The same for the datagrams that begin with `prefix`."""
        return {source for data, source in list(self.received) if data.startswith(prefix)}

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not self._going.wait(0.1):
                continue
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                data, source = self._socket.recvfrom(65_535)
                if not self._forgets:
                    self.received.append((data, (source[0], source[1])))
                if self.answers(data):
                    self._other.sendto(data, source)


def exchange(sock: socket.socket, to: Endpoint, data: bytes) -> Endpoint:
    """One question and its answer, which must be the same; who answered."""
    sock.sendto(data, to)
    answer, source = sock.recvfrom(65_535)
    assert answer == data
    return source[0], source[1]


def silent(sock: socket.socket, patience: float = 0.3) -> bool:
    """Does nothing arrive for a while?"""
    return not select.select([sock], [], [], patience)[0]


@contextlib.contextmanager
def clients(count: int, address: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """So many sockets, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(udp(address)) for _ in range(count)]


def arrived(echo: Echo, count: int) -> None:
    """Wait until the server has had so many datagrams."""
    until(lambda: len(echo.received) >= count)
