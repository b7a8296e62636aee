"""Many calls at once: calls.py INSTANCE MEMBER COUNT prints how often each answer came, as JSON."""

import asyncio
import collections
import json
import sys

from dbus_next import BusType, Message
from dbus_next.aio import MessageBus

_AT_ONCE = 40
_ARGUMENTS: dict[str, tuple[str, list[object]]] = {"LogLevel": ("s", ["+1"])}


async def main() -> None:
    name, member, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    signature, body = _ARGUMENTS.get(member, ("", []))
    answers: collections.Counter[str] = collections.Counter()

    async def call() -> None:
        reply = await bus.call(
            Message(
                destination=f"org.udpproxy1.{name}",
                path="/org/udpproxy1",
                interface="org.udpproxy1.Proxy",
                member=member,
                signature=signature,
                body=body,
            )
        )
        assert reply is not None
        answers[reply.error_name or "done"] += 1

    for start in range(0, count, _AT_ONCE):
        await asyncio.gather(*(call() for _ in range(min(_AT_ONCE, count - start))))
    print(json.dumps(answers))


asyncio.run(main())
