"""The other side of the bus: an instance asked by those who may not use its control socket."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from dbus_next import BusType, InvalidBusNameError, Message, MessageFlag, MessageType, Variant

from udpproxy.bus.connection import Connection
from udpproxy.errors import LinkError
from udpproxy.process.wire import Plain

_ROOT = "/org/udpproxy1"
_PROXY, _PROCESS = "org.udpproxy1.Proxy", "org.udpproxy1.Process"
_LIMIT = 15.0
"""Seconds to wait for an answer, as for one over the socket."""
_ASKING_LIMIT = 120.0
"""The same where somebody may be asked for a password first."""
_LARGEST = 16 << 20
"""Bytes of an answer: ten times what the most sessions take that there can be in one."""
_ERROR = "org.freedesktop.DBus.Error."
_ABSENT = (_ERROR + "ServiceUnknown", _ERROR + "NameHasNoOwner")
_DENIED = _ERROR + "AccessDenied"


class Unreachable(Exception):
    """There is no bus, or the instance is not on it."""


class Denied(LinkError):
    """It is there, and the caller may not do that."""


def ask(name: str, verb: str, arguments: dict[str, Plain]) -> Plain:
    """The answer of the instance of that name; Unreachable, or LinkError where it refuses."""
    if verb == "kill" and "filter" in arguments:
        return asyncio.run(_kill_all(name, arguments))
    return asyncio.run(_ask(name, verb, arguments))


async def _kill_all(name: str, arguments: dict[str, Plain]) -> Plain:
    """One by one, as there is no other way: no number is ever used again."""
    if not arguments["filter"]:
        raise LinkError("give a session's number or KEY=VALUE")
    rows, ended = await _ask(name, "sessions", arguments), 0
    for row in rows if isinstance(rows, list) else []:
        assert isinstance(row, dict)
        try:
            await _ask(name, "kill", {"session": row["session"]})
            ended += 1
        except Denied:
            raise
        except LinkError as problem:
            if "there is no session" not in str(problem):
                raise  # else it has ended by itself
    return {"sessions-ended": ended}


async def _ask(name: str, verb: str, arguments: dict[str, Plain]) -> Plain:
    try:
        message = _call(name, verb, arguments)
    except InvalidBusNameError as problem:
        raise Unreachable(str(problem)) from None
    bus = None
    try:
        bus = Connection(
            BusType.SYSTEM,
            welcome=lambda sender, flags: False,
            ignored=lambda why: None,
            largest=_LARGEST,
        )
        await asyncio.wait_for(bus.connect(), _LIMIT)
        reply = await bus.ask(message, _ASKING_LIMIT if sys.stdin.isatty() else _LIMIT)
    except TimeoutError:
        raise LinkError("no answer over D-Bus") from None
    except Exception as problem:
        # The library lets through whatever a bus that is absent or ends makes of it.
        raise Unreachable(str(problem) or type(problem).__name__) from None
    finally:
        if bus:
            bus.drop()
    if reply is None:
        raise LinkError("no answer over D-Bus")
    if reply.message_type is MessageType.ERROR:
        text = str(reply.body[0]) if reply.body else str(reply.error_name)
        if reply.error_name in _ABSENT:
            raise Unreachable(f"{message.destination} is not on D-Bus")
        raise (Denied if reply.error_name == _DENIED else LinkError)(text)
    return _plain(reply.body[0]) if reply.body else None


def _call(name: str, verb: str, arguments: dict[str, Plain]) -> Message:
    """The method that means the same; LinkError where there is none."""
    process = arguments.get("process")
    signature, body = "", list[object]()
    match verb:
        case "info" | "reopen" | "terminate":
            member = verb.capitalize()
        case "loglevel":
            member, signature, body = "LogLevel", "s", [str(arguments["level"])]
        case "reload":
            member = "Reload"
        case "resolve-now":
            member = "ResolveNow"
        case "segmentation":
            member, signature, body = "Segmentation", "s", [str(arguments["mode"])]
        case "kill":
            if not isinstance(arguments["session"], int):
                raise LinkError(f"{arguments['session']!r} is no session's number")
            member, signature, body = "KillSession", "t", [arguments["session"]]
        case "sessions":
            wanted = cast("dict[str, Plain]", arguments["filter"])
            texts = {key: Variant("s", str(value)) for key, value in wanted.items()}
            member, signature, body = "ListSessions", "a{sv}", [texts]
        case _:
            raise LinkError(f"{verb} goes over the control socket only: run this as root")
    # Of the verbs for one process only these have a meaning there; others go to the whole.
    of_process = process and verb in ("info", "reopen", "terminate", "loglevel")
    return Message(
        destination=f"org.udpproxy1.{name}",
        path=f"{_ROOT}/{process}" if of_process else _ROOT,
        interface=_PROCESS if of_process else _PROXY,
        member=member,
        signature=signature,
        body=body,
        flags=MessageFlag.NO_AUTOSTART | MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION,
    )


def _plain(value: object) -> Plain:
    match value:
        case Variant():
            return _plain(value.value)
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case _:
            return cast(Plain, value)
