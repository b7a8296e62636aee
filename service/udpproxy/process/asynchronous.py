"""The life of a child that has an asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from udpproxy.process.child import Start


class Part(Protocol):
    """What the child is for."""

    def signalled(self, number: int) -> None:
        """A signal came."""

    async def close(self) -> None:
        """The last."""


P = TypeVar("P", bound=Part)


def run(start: Start, make: Callable[[Callable[[str], None]], P]) -> P:
    """Until the part that `make` makes calls what it is given, with the reason; that part."""
    return asyncio.run(_run(start, make))


async def _run(start: Start, make: Callable[[Callable[[str], None]], P]) -> P:
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def left(reason: str) -> None:
        if not end.done():
            end.set_result(None)

    def broken(_: object, context: dict[str, object]) -> None:
        problem = context.get("exception")
        if not isinstance(problem, BaseException):
            problem = RuntimeError(context.get("message"))
        if not end.done():
            end.set_exception(problem)

    loop.set_exception_handler(broken)
    part = make(left)

    def deliver() -> None:
        for number in start.signals.read():
            part.signalled(number)

    loop.add_reader(start.signals.fileno(), deliver)
    try:
        await end
    finally:
        loop.remove_reader(start.signals.fileno())
        await part.close()
    return part
