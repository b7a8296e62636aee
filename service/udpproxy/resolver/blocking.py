"""Look-ups that block, for what has no ACR and APR: single mode, `check -r`, `explain`.

In a thread of its own for each call, since the caller may be inside a loop, which stands still
meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from udpproxy.config.model import Address, Resolver
from udpproxy.resolver import system
from udpproxy.resolver.bounds import total
from udpproxy.resolver.clients import verified_names
from udpproxy.resolver.resolved import ClientNames
from udpproxy.resolver.result import Failure, Family, Result
from udpproxy.resolver.transport import Transport

PARALLEL = 32

T = TypeVar("T")


def look_up_all(names: Iterable[str], resolver: Resolver) -> dict[str, Result]:
    """Each name's result; UnitError where there are no name servers."""
    complete = system.complete(resolver)

    async def one(transport: Transport, turn: asyncio.Semaphore, name: str) -> Result:
        async with turn:
            return await transport.look_up(name, Family.BOTH, complete.conf_timeout)

    async def work() -> dict[str, Result]:
        transport, turn = Transport(complete, in_flight=PARALLEL), asyncio.Semaphore(PARALLEL)
        wanted = tuple(names)
        results = await asyncio.gather(*(one(transport, turn, name) for name in wanted))
        return dict(zip(wanted, results, strict=True))

    return _wait(work())


def look_up_client(client: Address, resolver: Resolver) -> ClientNames | Failure:
    """The client's verified names."""
    complete = system.complete(resolver)

    async def work() -> ClientNames | Failure:
        return await verified_names(Transport(complete, in_flight=16), client, total(complete))

    return _wait(work())


class Asked:
    """What is known of names here and now: all of them at once, clients when they are asked for."""

    def __init__(self, names: Iterable[str], resolver: Resolver) -> None:
        """UnitError where there are no name servers."""
        self._resolver = resolver
        self._results = look_up_all(names, resolver)

    def addresses(self, name: str) -> tuple[Address, ...]:
        """None where the look-up failed."""
        return self._results[name].addresses

    def names_of(self, client: Address) -> tuple[str, ...]:
        """None where the look-up failed."""
        found = look_up_client(client, self._resolver)
        return () if isinstance(found, Failure) else found.names


def _wait(work: Coroutine[object, object, T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
