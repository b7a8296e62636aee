"""What ACR and APR have in common: a child of the parent with a channel to REG and sockets towards
the name servers only. Idle, and small, until the configuration has work for it."""

from __future__ import annotations

import asyncio
import os
import socket
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from udpproxy.config.model import Resolver
from udpproxy.errors import InvalidArgument, LinkError, UnitError
from udpproxy.process import messages, wire
from udpproxy.process.child import Start
from udpproxy.process.commands import Figures
from udpproxy.process.faults import said_by
from udpproxy.process.link import Link
from udpproxy.process.logs import RateLimit
from udpproxy.process.part import ChildPart
from udpproxy.resolver.assignment import Assignment, Read
from udpproxy.resolver.resolved import Resolved, read
from udpproxy.resolver.result import Failure

if TYPE_CHECKING:
    from udpproxy.resolver.transport import Transport

RESOLV_CONF = Path("/etc/resolv.conf")


class Helper(ChildPart):
    """`read` knows the service's configuration."""

    in_flight: int
    """Look-ups at once, at most."""

    def __init__(self, start: Start, read: Read, version: str, left: Callable[[str], None]) -> None:
        self._read = read
        self._lent: Assignment | None = None
        self._known: dict[str, Resolved] = {}
        self._channel: Link | None = None
        self._transport: Transport | None = None
        self._servers: tuple[Resolver | None, int] = (None, 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ignored = 0
        self._rate_limit = RateLimit()
        self.assignment: Assignment | None = None
        super().__init__(start, version, left)

    @property
    def works(self) -> bool:
        """Has the configuration work for us?"""
        return self.assignment is not None and self.has_work(self.assignment)

    @staticmethod
    @abstractmethod
    def has_work(assignment: Assignment) -> bool:
        """Is any of it for us?"""

    @abstractmethod
    def configured(self, known: dict[str, Resolved]) -> None:
        """There is a (new) configuration; `known` is what an earlier process found out."""

    @abstractmethod
    def questioned(self, link: Link, ask: wire.Ask) -> None:
        """REG asks; LinkError where it makes no sense."""

    @abstractmethod
    def progress(self) -> dict[str, wire.Plain]:
        """How it is doing, for info."""

    @abstractmethod
    def connected(self, link: Link) -> None:
        """A new channel to REG."""

    @abstractmethod
    def name_servers_changed(self) -> None:
        """Those of the system, which are asked: what failed so far may succeed now."""

    @abstractmethod
    def forget(self) -> None:
        """What was found out is given up."""

    def resolve_now(self) -> wire.Plain:
        """The command."""
        raise InvalidArgument(f"{self.role} has no names to resolve")

    def tell_reg(self, news: Sequence[wire.Tell]) -> None:
        """As far as there is a channel."""
        if self._channel:
            self._channel.pour((each, ()) for each in news)

    @property
    def reg_reads(self) -> bool:
        """Is there a channel, and has REG taken all that it was told?"""
        return self._channel is not None and not self._channel.congested

    def tell_parent(self, news: Sequence[wire.Tell]) -> None:
        """News for whoever comes after us."""
        self._link.pour((each, ()) for each in news)

    def start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """A task that close() cancels; a mistake in it ends the process."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def close(self) -> None:
        """Nothing of ours stays open."""
        if self._channel:
            self._channel.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def transport(self) -> Transport | None:
        """With the name servers as they are now; None: there are none."""
        assert self.assignment
        wanted = self.assignment.resolver
        changed = 0 if wanted.servers else _moment(RESOLV_CONF)
        if self._servers != (wanted, changed):
            # Only now: an idle process need not carry the DNS library.
            from udpproxy.resolver import system
            from udpproxy.resolver.transport import Transport

            self._servers = wanted, changed
            try:
                complete = system.complete(wanted)
            except UnitError as problem:
                self._logs.say(messages.NO_NAME_SERVERS, problem)
                self._transport = None
            else:
                self._transport = Transport(complete, in_flight=self.in_flight)
        return self._transport

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()):
            self._loop.call_exception_handler({"message": "task", "exception": problem})

    @property
    def work(self) -> str:
        """What it does while it works."""
        return "resolving"

    @property
    def state(self) -> str:
        """See ChildPart."""
        return self.work if self.works else "idle"

    def figures(self) -> Figures:
        """See ChildPart."""
        return {"messages-ignored": self._ignored, **(self.progress() if self.works else {})}

    def told(self, message: wire.Lend | wire.Tell, descriptors: list[int]) -> None:
        """See ChildPart."""
        match message:
            case wire.Lend("config", [{"origin": str(origin)}]) if len(descriptors) == 1:
                with os.fdopen(descriptors[0], "rb") as file:
                    file.seek(0)
                    self._lent = self._read(file.read().decode(), origin)
            case wire.Lend("channel", _) if len(descriptors) == 1:
                self._connect(socket.socket(fileno=descriptors[0]))
            case wire.Tell("known", {"found": found}):
                self._known |= read(found).words
            case wire.Tell("forget", _):
                self.forget()
            case wire.Tell("resolve", {"level": int(level)}) if self._lent:
                self._configure(self._lent, level)
            case _:
                for fd in descriptors:
                    os.close(fd)
                raise LinkError(f"not for {self.role}: {type(message).__name__}")

    def asked(self, verb: str, arguments: dict[str, wire.Plain]) -> wire.Plain:
        """See ChildPart."""
        return self.resolve_now() if verb == "resolve-now" else super().asked(verb, arguments)

    def _configure(self, assignment: Assignment, level: int) -> None:
        self.assignment = assignment
        self._logs.level = level
        self._logs.follow(assignment.log)
        known, self._known = self._known, {}
        self.configured(known)
        self.begin(self.work if self.works else "idle: the configuration has no work for it")

    def _connect(self, sock: socket.socket) -> None:
        before = self._channel
        failed = said_by(self._logs, "reg")
        self._channel = Link(
            self._loop, sock, received=self._from_reg, closed=self._lost, failed=failed
        )
        if before:
            before.close()
        self.connected(self._channel)

    def _lost(self, link: Link, reason: str) -> None:
        if link is self._channel:
            self._channel = None

    def _from_reg(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        for fd in descriptors:
            os.close(fd)
        try:
            if not isinstance(message, wire.Ask):
                raise LinkError(f"not from REG: {type(message).__name__}")
            self.questioned(link, message)
        except LinkError as problem:
            # The channel stays: nobody would make a new one as long as both sides live.
            if isinstance(message, wire.Ask):
                link.send(wire.Answer(message.number, error=Failure.MALFORMED.value))
            self._ignored += 1
            held = self._rate_limit.allow("reg")
            if held is not None:
                self._logs.say(messages.WORD_IGNORED, "reg", problem, held, PROCESS="reg")

    def alive(self) -> None:
        """See ChildPart. The network may come later than we, or be another by now."""
        wanted, seen = self._servers
        if self.works and wanted and not wanted.servers and _moment(RESOLV_CONF) != seen:
            self._servers = None, 0
            self.name_servers_changed()


def _moment(path: Path) -> int:
    """When the file was last changed; 0: there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
