"""The two sockets on which the parent listens: `children.sock` for child processes, which say
hello and obey, and `control.sock` for `ctl`, which commands. A connection to one is never of the
other kind.

The directory keeps strangers out, and credentials are checked all the same: those of the moment
when a connection was accepted, for a process number means nothing later.
"""

from __future__ import annotations

import asyncio
import collections
import os
import socket
from pathlib import Path
from typing import Protocol

from udpproxy.errors import InvalidArgument, LinkError, UnitError
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.gate import Gate
from udpproxy.process import messages, wire
from udpproxy.process.link import RATE, Link, is_there
from udpproxy.process.logs import Logs, RateLimit

_PART = 100
"""Items of a long answer in one message."""
_MOST_ASKED = 16
"""Commands under way for one connection."""
_COMMAND_RATE = 256 << 10
"""Bytes a second from one connection that commands: hundreds of commands."""
_MOST_SAID = 20
"""Refusals a second that are logged one by one."""
_PATIENCE = 10.0
"""Seconds that whoever asked may take to read a long answer."""


class Family(Protocol):
    """Who knows the children."""

    def vouch(self, pid: int, uid: int) -> str:
        """The role that a process may have as our child, "" for none."""

    def admit(self, role: str, pid: int) -> bool | None:
        """Is that role free for it? None: nobody is to come any more."""

    def entered(self, child: ChildConnection) -> None:
        """It has said hello."""

    def heard(self, child: ChildConnection, news: wire.Tell) -> None:
        """It tells something."""

    def left(self, child: ChildConnection) -> None:
        """Its link is closed."""


class Performer(Protocol):
    """Who carries commands out."""

    async def perform(self, verb: str, arguments: dict[str, wire.Plain]) -> wire.Plain:
        """The answer; InvalidArgument or LinkError where it cannot be done."""


class ControlServer:
    """`shared`: the children have our group, not our user."""

    def __init__(
        self, logs: Logs, directory: Path, *, shared: bool, family: Family, performer: Performer
    ) -> None:
        self._logs = logs
        self._family = family
        self._performer = performer
        self._loop = asyncio.get_running_loop()
        self._roles: dict[Link, str] = {}
        """Of those who came as children: the role that each may have."""
        self._connections: dict[Link, ChildConnection] = {}
        self._commanding: collections.Counter[Link] = collections.Counter()
        """Of the others: how many commands are under way."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._rate_limit = RateLimit()
        self._refusals: collections.deque[float] = collections.deque()
        self._unsaid = 0
        mode = 0o660 if shared else 0o600
        self._children = Gate(logs, directory / "children.sock", mode, came=self._child_came)
        try:
            self._control = Gate(logs, directory / "control.sock", 0o600, came=self._ctl_came)
        except UnitError:
            self._children.close()
            raise

    @property
    def refused(self) -> int:
        """Connections that were turned away."""
        return self._children.refused + self._control.refused

    def take(self, sock: socket.socket, role: str) -> None:
        """A child's connection, from wherever it comes."""
        self._roles[self._link(sock, RATE)] = role

    async def close(self) -> None:
        """Nobody comes in any more; commands under way are answered first."""
        self._children.close()
        self._control.close()
        if others := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=1.0)
        for link in [*self._roles, *self._commanding]:
            link.close("the instance ends")

    def _link(self, sock: socket.socket, rate: int) -> Link:
        return Link(
            self._loop,
            sock,
            received=self._received,
            closed=self._closed,
            failed=self._failed,
            rate=rate,
        )

    def _child_came(self, sock: socket.socket) -> Link | None:
        link = self._link(sock, RATE)
        pid, uid = link.peer
        # First of all: only of a process that is still there does its number say anything.
        role = self._family.vouch(pid, uid) if pid else ""
        if not role or not is_there(sock):
            self._children.refuse(f"process {pid} of uid {uid} is no child of ours")
        elif any(pid == other.peer[0] for other in self._roles):
            self._children.refuse(f"process {pid} has a link already")
        else:
            self._roles[link] = role
            return link
        link.close("refused")
        return None

    def _ctl_came(self, sock: socket.socket) -> Link | None:
        link = self._link(sock, _COMMAND_RATE)
        pid, uid = link.peer
        if uid not in (0, os.getuid()):
            self._control.refuse(f"uid {uid} is neither root nor ours")
        elif role := self._family.vouch(pid, uid):
            self._control.refuse(f"process {pid} is {role}, and commands nothing")
        else:
            self._commanding[link] = 0
            return link
        link.close("refused")
        return None

    def _received(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        for fd in descriptors:
            os.close(fd)  # nobody has anything to lend to the parent
        if link in self._commanding:
            self._asked(link, message)
            return
        try:
            self._heard(link, message)
        except LinkError:
            raise
        except (OSError, UnitError) as problem:
            raise LinkError(str(problem)) from None
        except Exception as problem:
            # Of whatever a child says: it is the child that goes, not we.
            self._logs.failure(problem)
            raise LinkError("internal error") from None

    def _heard(self, link: Link, message: wire.Message) -> None:
        child = self._connections.get(link)
        match message:
            case wire.Hello(role, _) if child is None and link in self._roles:
                admitted = role == self._roles[link] and self._family.admit(role, link.peer[0])
                if admitted is None:
                    link.close("the instance ends")
                    return
                if not admitted:
                    self._children.refuse(f"process {link.peer[0]} as {wire.cut(role)}")
                    raise LinkError("not a child of ours")
                self._children.forget(link)
                child = self._connections[link] = ChildConnection(role, link)
                self._family.entered(child)
            case wire.Answer() if child:
                child.answered(message)
            case wire.Tell() if child:
                self._family.heard(child, message)
            case _:
                raise LinkError(f"unexpected {type(message).__name__}")

    def _asked(self, link: Link, message: wire.Message) -> None:
        match message:
            case wire.Hello("ctl", _):
                pass
            case wire.Ask(number):
                if self._commanding[link] >= _MOST_ASKED:
                    link.send(wire.Answer(number, error="too many commands at once"))
                    return
                self._commanding[link] += 1
                self._control.busy(link)
                task = asyncio.ensure_future(self._answer(link, message))
                self._tasks.add(task)
                task.add_done_callback(lambda task: self._answered(link, task))
            case _:
                raise LinkError(f"unexpected {type(message).__name__}")

    def _answered(self, link: Link, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(problem := task.exception(), Exception):
            self._logs.failure(problem)
        if link in self._commanding:
            self._commanding[link] -= 1
            if not self._commanding[link]:
                self._control.quiet(link)

    async def _answer(self, link: Link, ask: wire.Ask) -> None:
        try:
            value = await self._performer.perform(ask.verb, ask.args)
        except (InvalidArgument, LinkError) as problem:
            self._say_refused(link, ask, str(problem))
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
                await self._room(link)
            value = []
        link.send(wire.Answer(ask.number, value))

    async def _room(self, link: Link) -> None:
        """Until the other side has read, or has not for too long."""
        deadline = self._loop.time() + _PATIENCE
        while link.congested:
            await asyncio.sleep(0.01)
            if self._loop.time() > deadline:
                link.fail("the other side does not read")

    def _say_refused(self, link: Link, ask: wire.Ask, why: str) -> None:
        """Each, but for those of a program gone mad."""
        now = self._loop.time()
        while self._refusals and self._refusals[0] < now - 1.0:
            self._refusals.popleft()
        if len(self._refusals) == _MOST_SAID:
            self._unsaid += 1
            return
        self._refusals.append(now)
        held = f" ({self._unsaid} more held back)" if self._unsaid else ""
        self._unsaid = 0
        first, *rest = why.splitlines() or [""]
        why = f"{wire.cut(first)} (and {len(rest)} more)" if rest else wire.cut(first)
        verb = wire.cut(ask.verb)
        self._logs.say(messages.COMMAND_REFUSED, verb, link.peer[1], f"{why}{held}")

    def _failed(self, link: Link, what: str) -> None:
        """Of a child, always; of whoever commands, at most one line a second."""
        if link in self._commanding:
            held = self._rate_limit.allow("ctl")
            if held is not None:
                name = f"ctl (process {link.peer[0]}, uid {link.peer[1]})"
                self._logs.say(messages.LINK_FAULT, name, what, held)
        else:
            name = self._roles.get(link, "nobody")
            held = self._rate_limit.allow(name)
            if held is not None:
                self._logs.say(messages.LINK_FAULT, name, what, held)

    def _closed(self, link: Link, reason: str) -> None:
        self._children.forget(link)
        self._control.forget(link)
        self._commanding.pop(link, None)
        self._roles.pop(link, None)
        child = self._connections.pop(link, None)
        if child is not None:
            self._logs.say(messages.LINK_LOST, child.role, reason)
            child.lost(reason)
            self._family.left(child)
