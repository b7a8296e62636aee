"""What `ctl` asks a proxy over D-Bus with more than one call."""

from __future__ import annotations

import asyncio

from udpproxy.bus import client
from udpproxy.errors import LinkError
from udpproxy.process.verbs import Arguments, Verb
from udpproxy.process.wire import Plain
from udpproxy.proxy.identity import IDENTITY
from udpproxy.proxy.verbs import KILL, SESSIONS


def ask(instance: str, verb: Verb, arguments: Arguments) -> Plain:
    """As client.ask()."""
    if verb is KILL and "filter" in arguments:
        return asyncio.run(_kill_all(instance, arguments))
    return client.ask(IDENTITY, instance, verb, arguments)


async def _kill_all(instance: str, arguments: Arguments) -> Plain:
    """One by one, as there is no other way: no number is ever used again."""
    if not arguments["filter"]:
        raise LinkError("give a session's number or KEY=VALUE")
    rows, ended = await client.call(IDENTITY, instance, SESSIONS, arguments), 0
    for row in rows if isinstance(rows, list) else []:
        assert isinstance(row, dict)
        try:
            await client.call(IDENTITY, instance, KILL, {"session": row["session"]})
            ended += 1
        except client.Denied:
            raise
        except LinkError as problem:
            if "there is no session" not in str(problem):
                raise  # else it has ended by itself
    return {"sessions-ended": ended}
