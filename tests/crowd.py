"""Thousands of sessions from a few sockets."""

from __future__ import annotations

import itertools
import socket

from proxy import Endpoint


class Crowd:
    """Few sockets that write to many addresses of a wildcard listener: each pair is a session."""

    def __init__(self, port: int, socks: list[socket.socket], count: int) -> None:
        """A thousand sessions for each socket, at most."""
        addresses = [f"127.1.{high}.{low}" for high in range(10) for low in range(1, 101)]
        pairs = itertools.product(socks, [(address, port) for address in addresses])
        self.pairs: list[tuple[socket.socket, Endpoint]] = list(itertools.islice(pairs, count))

    def all_answered(self, data: bytes, *, at_once: int = 100) -> None:
        """A question and its answer in every session, so many at a time."""
        for start in range(0, len(self.pairs), at_once):
            part = self.pairs[start : start + at_once]
            for sock, to in part:
                sock.sendto(data, to)
            # Sessions keep no order among each other.
            answers = [sock.recvfrom(100) for sock, _ in part]
            assert sorted(answers) == sorted((data, to) for _, to in part)
