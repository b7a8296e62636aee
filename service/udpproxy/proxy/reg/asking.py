"""REG's questions to APR: a bounded number in flight, the others in a queue, each asked again
when another APR comes. Nobody here waits: answers are told."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable

from udpproxy.errors import LinkError
from udpproxy.process import messages, wire
from udpproxy.process.faults import said_by
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs
from udpproxy.process.loop import Reactor
from udpproxy.resolver.bounds import IN_FLIGHT

MOST_WANTED = 4096
PATIENCE = 10.0
"""Seconds after which nobody wants to know any more."""

_MOST_FORGOTTEN = 128
"""In one look: datagrams must not wait for it."""

Need = tuple[str, str]
Answered = Callable[[str, str, wire.Plain], None]


class Asking:
    """`answered` gets kind, name and what APR says of it, None where it could not tell; what it
    raises as a LinkError, and all else that APR may not say, is for `nonsense`."""

    def __init__(
        self,
        reactor: Reactor,
        logs: Logs,
        *,
        answered: Answered,
        nonsense: Callable[[str], None],
        lost: Callable[[], None],
    ) -> None:
        """`lost` is told where the way to APR is gone and no other has come."""
        self._reactor = reactor
        self._logs = logs
        self._answered = answered
        self._nonsense = nonsense
        self._lost = lost
        self._link: Link | None = None
        self._numbers = itertools.count(1)
        self._wanted: OrderedDict[Need, float] = OrderedDict()
        """All that is wanted, oldest first, with the moment since when."""
        self._queue: OrderedDict[Need, None] = OrderedDict()
        self._in_flight: dict[int, Need] = {}
        self._late = self._answers = False
        self.totals = {"look-ups-answered": 0, "look-ups-failed": 0, "look-ups-refused": 0}

    def connect(self, sock: socket.socket) -> None:
        """A new channel to APR; what is in flight is asked again there."""
        self.disconnect()
        failed = said_by(self._logs, "apr")
        self._link = Link(
            self._reactor, sock, received=self._received, closed=self._closed, failed=failed
        )
        self._queue = OrderedDict.fromkeys(self._wanted)
        self._send()

    def disconnect(self) -> None:
        """No way to APR."""
        self._in_flight.clear()
        link, self._link = self._link, None
        if link:
            link.close()

    def want(self, kind: str, name: str) -> None:
        """Ask that, unless it is asked already or too much is wanted at once."""
        need = kind, name
        if need not in self._wanted and not self.refuses(*need):
            self._wanted[need] = time.monotonic()
            self._queue[need] = None
            self._send()

    def refuses(self, kind: str, name: str) -> bool:
        """Is too much wanted to ask that, too? Counted."""
        full = len(self._wanted) >= MOST_WANTED and (kind, name) not in self._wanted
        self.totals["look-ups-refused"] += full
        return full

    def look(self, patience: float) -> None:
        """Now and then: forget what nobody wants, and say when answers are late."""
        now = time.monotonic()
        some = itertools.islice(self._wanted.items(), _MOST_FORGOTTEN)
        forgotten = [need for need, since in some if since <= now - PATIENCE]
        for need in forgotten:
            self._done(need)
        # First of all: a need that comes up again by what is told now is a new question.
        self._in_flight = {
            number: need for number, need in self._in_flight.items() if need in self._wanted
        }
        for need in forgotten:
            self.totals["look-ups-failed"] += 1
            self._answered(*need, None)
        self._send()
        oldest = now - next(iter(self._wanted.values()), now)
        if not self._late and oldest > patience:
            self._late, self._answers = True, False
            self._logs.say(messages.ANSWERS_LATE, len(self._wanted), oldest)
        elif self._late and self._answers and oldest <= patience:
            # Not where all that waited was only given up.
            self._late = False
            self._logs.say(messages.ANSWERS_AGAIN)

    def figures(self) -> dict[str, int]:
        """For info."""
        waiting = len(self._wanted) - len(self._in_flight)
        return {
            "look-ups-in-flight": len(self._in_flight), "look-ups-queued": waiting, **self.totals
        }  # fmt: skip

    def _send(self) -> None:
        while self._link and self._queue and len(self._in_flight) < IN_FLIGHT:
            need, _ = self._queue.popitem(last=False)
            number = next(self._numbers)
            self._in_flight[number] = need
            self._link.send(wire.Ask(number, need[0], {"name": need[1]}))

    def _received(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        for fd in descriptors:
            os.close(fd)
        if not isinstance(message, wire.Answer):
            # The way stays: nobody would make a new one as long as both sides live.
            self._nonsense(f"not from APR: {type(message).__name__}")
            return
        need = self._in_flight.pop(message.number, None)
        if need is None or link is not self._link:
            return
        self._done(need)
        self._answers = True
        failed = message.error is not None
        if not failed:
            try:
                self._answered(*need, message.value)
            except LinkError as problem:
                self._nonsense(str(problem))
                failed = True
        self.totals["look-ups-failed" if failed else "look-ups-answered"] += 1
        if failed:
            self._answered(*need, None)
        self._send()

    def _done(self, need: Need) -> None:
        del self._wanted[need]
        self._queue.pop(need, None)

    def _closed(self, link: Link, reason: str) -> None:
        if link is self._link:
            self._link = None
            self._in_flight.clear()
            self._lost()
