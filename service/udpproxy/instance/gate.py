"""A listening socket, and those who have come in but have not said who they are or what they want.

Each costs a descriptor, so they are few, and none stays for saying nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from udpproxy.errors import UnitError
from udpproxy.process import messages
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs, RateLimit

MOST = 64
"""Connections at once that are no child's."""
SILENCE = 5.0
"""Seconds that one may be there without a word."""
_A_TURN = 16
"""Connections that are accepted before the loop turns."""
_MOST_PATH = 107
_PAUSE = 1.0
"""Seconds until the next try where the system has no descriptor for who wants to come in."""


class Gate:
    """`came` makes a link of each connection, or says no: None, with a line of its own. Where
    there are too many the one that has said nothing for longest goes."""

    def __init__(
        self, logs: Logs, path: Path, mode: int, *, came: Callable[[socket.socket], Link | None]
    ) -> None:
        self._logs = logs
        self._path = path
        self._came = came
        self._loop = asyncio.get_running_loop()
        self._links: set[Link] = set()
        self._silent: dict[Link, float] = {}
        """Since when, the longest first."""
        self._rate_limit = RateLimit()
        self.refused = 0
        self._socket = _listen(path, mode)
        self._again: asyncio.TimerHandle | None = None
        self._open()
        self._sweep()

    def quiet(self, link: Link) -> None:
        """It has nothing to wait for, and nothing to say so far."""
        if link in self._links:
            self._silent[link] = time.monotonic()

    def busy(self, link: Link) -> None:
        """It waits for an answer."""
        self._silent.pop(link, None)

    def forget(self, link: Link) -> None:
        """It is a child, or gone."""
        self._links.discard(link)
        self._silent.pop(link, None)

    def refuse(self, why: str) -> None:
        """Counted, and one line a second."""
        self.refused += 1
        held = self._rate_limit.allow("refused")
        if held is not None:
            self._logs.say(messages.LINK_REFUSED, f"{why}{held}")

    def close(self) -> None:
        """Nobody comes in any more."""
        if self._again:
            self._again.cancel()
        self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as problem:
            # The other socket and every link are still to be closed.
            self._logs.say(messages.CLEAN_UP_FAILED, self._path.name, problem)

    def _open(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_A_TURN):
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                # Without descriptors it would be tried, in vain, as fast as the loop turns.
                self._logs.say(messages.LINK_REFUSED, problem.strerror)
                self._loop.remove_reader(self._socket.fileno())
                self._again = self._loop.call_later(_PAUSE, self._open)
                return
            if self._has_room():
                link = self._came(sock)
                if link is not None:
                    self._links.add(link)
                    self.quiet(link)
            else:
                sock.close()

    def _has_room(self) -> bool:
        if len(self._links) < MOST:
            return True
        self.refuse(f"{MOST} connections at once are enough")
        longest = next(iter(self._silent), None)
        if longest is None:
            return False
        longest.close("it said nothing, and others want to")
        return True

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(1.0, self._sweep)
        now = time.monotonic()
        for link in [one for one, since in self._silent.items() if now - since > SILENCE]:
            self.refuse(f"process {link.peer[0]} said nothing for {SILENCE:g} s")
            link.close("it says nothing")


def _listen(path: Path, mode: int) -> socket.socket:
    if len(os.fsencode(path)) > _MOST_PATH:
        raise UnitError("control socket", f"{path} is too long for a socket's name")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        path.unlink(missing_ok=True)
        # The directory is nobody else's: in one that root has given away, we are not root any more.
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(64)
    except OSError as problem:
        sock.close()
        raise UnitError("control socket", f"{path}: {problem.strerror}") from None
    sock.settimeout(0)
    return sock
