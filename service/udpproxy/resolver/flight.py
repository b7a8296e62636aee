"""One probe under way: a socket of its own, connected, from a port that the kernel chooses, and
closed once it is judged.

- What has come is read before anything is judged, so that who reads late blames nobody.
- ICMP errors end it at once, those too that the system would keep to itself (IP_RECVERR).
- So many datagrams are looked at and no more: a server that sends without an end takes no core.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from udpproxy.config.model import Address
from udpproxy.resolver.probing import Attempt

MOST_DATAGRAMS = 64
"""Looked at for one probe. Others than the server can send such only by guessing the port."""
_BATCH = 16
"""At one wake-up; then the loop turns."""
_LARGEST = 65_535
_RECVERR = {socket.AF_INET: (socket.SOL_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR of linux/in.h and in6.h."""
_WORDS = {
    errno.ECONNREFUSED: "port unreachable",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ENOPROTOOPT: "protocol unreachable",
    errno.EACCES: "communication prohibited",
}

OURS = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What this host lacks, ports (EAGAIN) among it, says nothing of the server."""

Over = Callable[[str, float], None]
"""Why it failed, "" where it did not; the seconds by which that was found too late."""


class Flight:
    """Its end is told to `over`, once, unless it is closed before."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server: tuple[Address, int],
        attempt: Attempt,
        timeout: float,
        over: Over,
    ) -> None:
        """OSError: it could not even be sent, and nothing is open."""
        data, self._judge = attempt
        self._loop = loop
        self._over = over
        self._left = MOST_DATAGRAMS
        address, port = server
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(*_RECVERR[family], 1)
            self._socket.connect((str(address), port))
            # What slipped in before the connect is told by its address.
            self._peer = self._socket.getpeername()
            self._socket.send(data)
        except BaseException:
            self._socket.close()
            raise
        self._deadline = loop.time() + timeout
        loop.add_reader(self._socket, self._readable)
        self._timer = loop.call_at(self._deadline, self._time_over)

    def close(self) -> None:
        """Nobody wants to know any more."""
        self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        verdict = self._read(_BATCH)
        if verdict is not None:
            self._end(verdict)
        elif not self._left:
            self._loop.remove_reader(self._socket)

    def _time_over(self) -> None:
        late = self._loop.time() - self._deadline
        verdict = self._read(self._left)
        if verdict is None:
            verdict = "no answer" if self._left == MOST_DATAGRAMS else "wrong answer"
        self._end(verdict, late)

    def _read(self, most: int) -> str | None:
        for _ in range(min(most, self._left)):
            try:
                data, sender = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return None
            except OSError as problem:
                return said(problem)
            if sender == self._peer:
                self._left -= 1
                verdict = self._judge(data)
                if verdict is not None:
                    return verdict
        return None

    def _end(self, verdict: str, late: float = 0.0) -> None:
        self.close()
        self._over(verdict, late)


def said(problem: OSError) -> str:
    """In the words of the log's other lines about servers."""
    number = problem.errno or 0
    return _WORDS.get(number) or problem.strerror or os.strerror(number)
