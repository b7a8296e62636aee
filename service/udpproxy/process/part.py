"""What every child with an asyncio loop does in the same way: it says hello, obeys, tells how it is
doing, and leaves in order.

The parent lends and tells it what it is to work with; a first begin() makes it ready. Verbs of
every process it knows already.
"""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.process import messages, wire
from udpproxy.process.child import Start
from udpproxy.process.commands import Figures, ProcessCommands
from udpproxy.process.faults import said_by
from udpproxy.process.link import Link
from udpproxy.process.logs import SOON
from udpproxy.process.notify import Notifier


class ChildPart(ABC):
    """`left` is called with the reason when the parent's link has ended."""

    def __init__(self, start: Start, version: str, left: Callable[[str], None]) -> None:
        self.role = start.role
        self.dismissed = False
        """The role is not needed any more: nobody is to start us again."""
        self.is_ready = False
        self._loop = asyncio.get_running_loop()
        self._logs = start.logs
        self._notifier = Notifier()
        self._born = time.monotonic()
        self.control = ProcessCommands(self._logs, figures=self._figures, leave=self._leave)
        self._link = Link(
            self._loop,
            start.link,
            received=self._received,
            closed=lambda link, reason: left(reason),
            failed=said_by(self._logs, "the parent"),
        )
        self._link.send(wire.Hello(self.role, version))
        self._tick()

    @abstractmethod
    def told(self, message: wire.Lend | wire.Tell, descriptors: list[int]) -> None:
        """The parent lends or tells something; the descriptors are ours. LinkError where it makes
        no sense, and they are closed."""

    def figures(self) -> Figures:
        """Our own, for info."""
        return {}

    def asked(self, verb: str, arguments: dict[str, wire.Plain]) -> wire.Plain:
        """A verb that not every process has; InvalidArgument where it cannot be done."""
        return self.control.perform(verb, arguments)

    async def close(self) -> None:  # noqa: B027 - most have nothing to close
        """The last."""

    def alive(self) -> None:  # noqa: B027 - most have nothing to look at
        """Once in a while, as long as it works."""

    @property
    def state(self) -> str:
        """For info."""
        return "working" if self.is_ready else "starting"

    def signalled(self, number: int) -> None:
        """A signal came."""
        self.control.signalled(number)

    def begin(self, status: str, **words: wire.Plain) -> None:
        """It works; the first time it is told, with these words."""
        if self.is_ready:
            self._notifier.status(status)
            return
        self.is_ready = True
        self._notifier.ready(status)
        self._link.send(wire.Tell("ready", words))
        self._logs.say(messages.CHILD_READY)

    def _figures(self) -> Figures:
        return {
            "role": self.role,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._born, 1),
            "state": self.state,
            **self.figures(),
        }

    def _leave(self, why: str) -> None:
        self._notifier.stopping()
        self._link.close(why)

    def _received(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        match message:
            case wire.Lend() | wire.Tell():
                self.told(message, descriptors)
            case wire.Ask(number, verb, arguments):
                link.send(self._to_parent(number, verb, arguments))
            case _:
                raise LinkError(f"not for {self.role}: {type(message).__name__}")

    def _to_parent(self, number: int, verb: str, arguments: dict[str, wire.Plain]) -> wire.Answer:
        self.dismissed |= verb == "terminate" and arguments.get("for-good") is True
        try:
            return wire.Answer(number, self.asked(verb, arguments))
        except InvalidArgument as problem:
            return wire.Answer(number, error=str(problem))
        except Exception as problem:
            self._logs.failure(problem)
            return wire.Answer(number, error="internal error, see the log")

    def _tick(self) -> None:
        """A sign of life."""
        interval = self._notifier.watchdog_interval or 1.0
        if self.is_ready:
            self._notifier.alive()
            self.alive()
        else:
            # The parent may lack for now what it lends to us.
            self._notifier.starting(10 * interval)
        self._loop.call_later(SOON if self._logs.flush() else interval, self._tick)
