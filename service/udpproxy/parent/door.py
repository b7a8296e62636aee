"""The control socket: children and `ctl` come in here, and say who they are.

It is for root and the proxy's own user; the directory keeps the others out, and the peer's
credentials are checked all the same.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from udpproxy.errors import InvalidArgument, LinkError, UnitError
from udpproxy.parent.peer import Peer
from udpproxy.process import messages, wire
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs

CHILDREN = ("reg", "acr", "apr")
_MOST_PATH = 107
_PAUSE = 1.0
"""Seconds until the next try where the system has no descriptor for who wants to come in."""
_PART = 100
"""Items of a long answer in one message."""

Perform = Callable[[str, dict[str, wire.Plain]], Awaitable[wire.Plain]]


class Door:
    """`admit` says whether a process may be a child, `entered` and `told` and `left` tell of
    children, `perform` carries out what `ctl` asks."""

    def __init__(
        self,
        logs: Logs,
        path: Path,
        *,
        admit: Callable[[str, int], bool],
        entered: Callable[[Peer], None],
        told: Callable[[Peer, wire.Tell], None],
        left: Callable[[Peer], None],
        perform: Perform,
    ) -> None:
        self._logs = logs
        self._path = path
        self._admit = admit
        self._entered = entered
        self._told = told
        self._left = left
        self._perform = perform
        self._loop = asyncio.get_running_loop()
        self._peers: dict[Link, Peer] = {}
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = _listen(path)
        self._again: asyncio.TimerHandle | None = None
        self._open()

    def _open(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def take(self, sock: socket.socket) -> Link:
        """A connection, from wherever it comes."""
        link = Link(self._loop, sock, received=self._received, closed=self._closed)
        self._links.add(link)
        return link

    async def close(self) -> None:
        """Nobody comes in any more; commands under way are answered first."""
        if self._again:
            self._again.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)
        if others := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=1.0)
        for link in list(self._links):
            link.close("the proxy ends")

    def _accept(self) -> None:
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
        link = self.take(sock)
        _, uid = link.peer
        if uid not in (0, os.getuid()):
            self._logs.say(messages.LINK_REFUSED, f"uid {uid} is neither root nor ours")
            link.close("refused")

    def _received(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        for fd in descriptors:
            os.close(fd)  # nobody has anything to lend to the parent
        peer = self._peers.get(link)
        match message:
            case wire.Hello(role, _) if peer is None and role in CHILDREN:
                if not self._admit(role, link.peer[0]):
                    self._logs.say(messages.LINK_REFUSED, f"process {link.peer[0]} as {role}")
                    raise LinkError("not a child of ours")
                peer = self._peers[link] = Peer(role, link)
                self._entered(peer)
            case wire.Ask() if peer is None:
                self._start(self._answer(link, message))
            case wire.Answer() if peer:
                peer.answered(message)
            case wire.Tell() if peer:
                self._told(peer, message)
            case wire.Hello("ctl", _) if peer is None:
                pass
            case _:
                raise LinkError(f"unexpected {type(message).__name__}")

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, link: Link, ask: wire.Ask) -> None:
        try:
            value = await self._perform(ask.verb, ask.args)
        except (InvalidArgument, LinkError) as problem:
            uid = link.peer[1]
            self._logs.say(messages.COMMAND_REFUSED, ask.verb, uid, str(problem))
            link.send(wire.Answer(ask.number, error=str(problem)))
            return
        except Exception as problem:
            # As on the bus: whoever asked is answered, and the proxy goes on.
            self._logs.failure(problem)
            link.send(wire.Answer(ask.number, error="internal error, see the log"))
            return
        if isinstance(value, list):
            for start in range(0, len(value), _PART):
                part = value[start : start + _PART]
                link.send(wire.Answer(ask.number, part, more=True))
                while link.congested:  # noqa: ASYNC110 - rare, and no event to wait for
                    await asyncio.sleep(0.01)
            value = []
        link.send(wire.Answer(ask.number, value))

    def _closed(self, link: Link, reason: str) -> None:
        self._links.discard(link)
        peer = self._peers.pop(link, None)
        if peer is not None:
            self._logs.say(messages.LINK_LOST, peer.role, reason)
            peer.lost(reason)
            self._left(peer)


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _MOST_PATH:
        raise UnitError("control socket", f"{path} is too long for a socket's name")
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(64)
    except OSError as problem:
        sock.close()
        raise UnitError("control socket", f"{path}: {problem.strerror}") from None
    sock.settimeout(0)
    return sock
