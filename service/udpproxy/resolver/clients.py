"""A client's name: the reverse look-up, and each name it gives confirmed forwards.

Who owns an address writes into its reverse zone what he likes; only a name whose own zone leads
back to the address is the client's.
"""

from __future__ import annotations

import asyncio

from udpproxy.config.model import Address
from udpproxy.resolver.bounds import MOST_NAMES
from udpproxy.resolver.resolved import ClientNames
from udpproxy.resolver.result import DEFINITE, Failure, Family, Result
from udpproxy.resolver.transport import Transport


async def verified_names(
    transport: Transport, client: Address, total: float
) -> ClientNames | Failure:
    """Within `total` seconds in all."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + total
    told = await transport.look_up_address(client, total)
    if told.failure is not None:
        return ClientNames((), told.ttl) if told.failure in DEFINITE else told.failure
    family = Family.V4 if client.version == 4 else Family.V6
    left = max(0.01, ends - loop.time())
    # With a final dot: what a stranger's zone says must not go through our search list.
    questions = [transport.look_up(f"{name}.", family, left) for name in told.names[:MOST_NAMES]]
    return _confirmed(client, told, await asyncio.gather(*questions))


def _confirmed(client: Address, told: Result, answers: list[Result]) -> ClientNames | Failure:
    fitting = [answer for answer in answers if client in answer.addresses]
    certain = [answer for answer in answers if answer.failure in (None, *DEFINITE)]
    if not certain and answers and (failure := answers[0].failure):
        return failure
    names = tuple(answer.name.rstrip(".").lower() for answer in fitting)
    ttl = min([told.ttl, *(answer.ttl for answer in certain)])
    return ClientNames(names, ttl)
