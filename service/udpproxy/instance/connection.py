"""A child as the parent talks to it: questions that are answered, or fail within a limit."""

from __future__ import annotations

import asyncio
import itertools

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.process import wire
from udpproxy.process.link import Link

LIMIT = 2.0
"""Seconds that a child has to answer a command."""


class ChildLost(LinkError):
    """It went without having read the question: whoever replaces it can be asked. One that read it
    may have ended of this very question, which its successor is spared."""


class ChildConnection:
    """The parent's end of a child's link."""

    def __init__(self, role: str, link: Link) -> None:
        self.role = role
        self.link = link
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[wire.Plain]] = {}
        self._unread = False

    async def ask(self, verb: str, args: dict[str, wire.Plain], limit: float = LIMIT) -> wire.Plain:
        """The answer; InvalidArgument where the child refuses, LinkError where it is silent or
        goes, ChildLost where it has not read it."""
        number = next(self._numbers)
        gone = self.link.gone
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.link.send(wire.Ask(number, verb, args))
            gone |= self.link.undelivered
            return await asyncio.wait_for(future, limit)
        except TimeoutError:
            raise LinkError(f"{self.role} does not answer") from None
        except ChildLost:
            if gone or self._unread:
                raise
            raise LinkError(f"{self.role} ended while it was asked: try again") from None
        finally:
            self._asked.pop(number, None)

    def answered(self, answer: wire.Answer) -> None:
        """From the link."""
        future = self._asked.get(answer.number)
        if future is None or future.done():
            return
        if answer.error is None:
            future.set_result(answer.value)
        else:
            future.set_exception(InvalidArgument(wire.cut(answer.error)))

    def lost(self, reason: str) -> None:
        """Nobody will answer any more."""
        # Of several questions it may have read the first.
        self._unread = self.link.unread and len(self._asked) == 1
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ChildLost(f"{self.role}: {reason}"))
                future.exception()  # whoever asked may have gone, which is no mistake
