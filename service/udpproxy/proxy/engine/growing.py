"""First datagrams that wait for a socket of the Python engine, while the pool grows.

Mostly there are none, for more sockets are asked for while some are left (session/index.py). When
they have come all go on in one go, before anything else of theirs that comes later, and that is
why they are few.
"""

from __future__ import annotations

from udpproxy.proxy.engine.interface import Arrival

MOST_WAITING = 256
MOST_BYTES = 1 << 20

Waiting = tuple[int, tuple[str, int], Arrival, bytes]
"""What Engine.inject takes: the listener's number, the client, how it came, and what."""


class WaitingForSockets:
    """In the order in which they came; `dropped` counts those for which there was no room."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, listener: int, client: tuple[str, int], arrival: Arrival, data: bytes) -> None:
        """It waits, or is dropped and counted."""
        if len(self._waiting) >= MOST_WAITING or self._bytes + len(data) > MOST_BYTES:
            self.dropped += 1
            return
        self._waiting.append((listener, client, arrival, data))
        self._bytes += len(data)

    def take(self) -> list[Waiting]:
        """All of them; whoever has to wait again comes anew."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        return waiting
