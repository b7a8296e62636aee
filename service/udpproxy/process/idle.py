"""A process that the configuration does not need: as a unit it waits, and obeys the four verbs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.process import wire
from udpproxy.process.control import Control, Figures
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs
from udpproxy.process.loop import Reactor
from udpproxy.process.notify import Notifier


class Idle:
    """`left` is called with the reason when the link has ended."""

    def __init__(
        self,
        reactor: Reactor,
        logs: Logs,
        sock: socket.socket,
        *,
        role: str,
        notifier: Notifier,
        version: str,
        left: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._logs = logs
        self._notifier = notifier
        self._role = role
        self._born = time.monotonic()
        self.control = Control(logs, figures=self._figures, leave=self._leave)
        self._link = Link(
            reactor, sock, received=self._received, closed=lambda link, reason: left(reason)
        )
        self._link.send(wire.Hello(role, version))
        notifier.ready("idle: the configuration has no names")
        self._link.send(wire.Tell("ready"))
        self._tick()

    def signalled(self, number: int) -> None:
        """A signal came."""
        self.control.signalled(number)

    def _figures(self) -> Figures:
        return {
            "role": self._role,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._born, 1),
            "state": "idle",
        }

    def _leave(self, why: str) -> None:
        self._notifier.stopping()
        self._link.close(why)

    def _received(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        match message:
            case wire.Ask(number, verb, args) if not descriptors:
                try:
                    link.send(wire.Answer(number, self.control.perform(verb, args)))
                except InvalidArgument as problem:
                    link.send(wire.Answer(number, error=str(problem)))
            case _:
                raise LinkError(f"not for {self._role}: {type(message).__name__}")

    def _tick(self) -> None:
        if self._notifier.watchdog_interval:
            self._notifier.alive()
            self._reactor.call_later(self._notifier.watchdog_interval, self._tick)
