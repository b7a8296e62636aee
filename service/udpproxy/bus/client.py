"""The other side of the bus: an instance asked by those who may not use its control socket."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from dbus_next import BusType, InvalidBusNameError, Message, MessageFlag, MessageType, Variant

from udpproxy.bus.connection import Connection
from udpproxy.errors import LinkError
from udpproxy.identity import Identity
from udpproxy.process.verbs import Arguments, Verb
from udpproxy.process.wire import Plain

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


def ask(identity: Identity, instance: str, verb: Verb, arguments: Arguments) -> Plain:
    """The answer of that instance; Unreachable, or LinkError where it refuses."""
    return asyncio.run(call(identity, instance, verb, arguments))


async def call(identity: Identity, instance: str, verb: Verb, arguments: Arguments) -> Plain:
    """The same, for who has a loop."""
    try:
        message = _message(identity, instance, verb, arguments)
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


def _message(identity: Identity, instance: str, verb: Verb, arguments: Arguments) -> Message:
    """The method that means the same; LinkError where there is none."""
    if not verb.member:
        raise LinkError(f"{verb.name} goes over the control socket only: run this as root")
    process = arguments.get("process")
    # Other verbs mean the same for one process as for the whole.
    of_process = process and verb.of_process
    body = [_with_variants(each) for each in verb.to_bus(arguments)]
    return Message(
        destination=identity.bus_name(instance),
        path=identity.path(str(process)) if of_process else identity.root,
        interface=identity.process if of_process else identity.interface,
        member=verb.member,
        signature=verb.signature,
        body=body,
        flags=MessageFlag.NO_AUTOSTART | MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION,
    )


def _with_variants(value: object) -> object:
    if isinstance(value, dict):
        return {key: Variant("s", str(each)) for key, each in value.items()}
    return value


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
