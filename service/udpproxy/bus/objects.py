"""Calls in, answers out.

Messages are handled one by one, not by dbus-next's ServiceInterface: that sends tracebacks to
callers, hides who calls and never answers GetMachineId. Nothing a caller sends ends in a
traceback or an unlimited queue, and no crowd of strangers keeps away who may do everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from dbus_next import (
    Message,
    MessageFlag,
    MessageType,
    Variant,
)
from dbus_next import introspection as intr

from udpproxy.bus import access, arguments
from udpproxy.bus.access import Caller, Places, Rights
from udpproxy.bus.callers import Callers
from udpproxy.bus.connection import LIMITS, TOO_MANY, Connection, failed, forgive
from udpproxy.bus.values import Failure, Value, contract
from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.identity import Identity

LOG_CONTROL = "org.freedesktop.LogControl1"

PROPERTIES, _PEER = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.Peer"
_INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
_ERROR = "org.freedesktop.DBus.Error."
_MACHINE_ID = Path("/etc/machine-id")
_FRESH = 1.0
"""Seconds for which all strangers get the same answer."""
_ALLOW_INTERACTIVE = 0x4


class Refused(Exception):
    """The caller may not do that."""


class Crowded(Exception):
    """There are as many such calls under way as there may be."""


class Service(Protocol):
    """What the objects do; the parent has it."""

    def properties(
        self, path: str, interface: str, names: Collection[str] | None = None
    ) -> dict[str, Value]:
        """Those of that object's interface; `names`: the others, which may cost something, need
        not be there."""

    async def set_property(self, path: str, interface: str, name: str, value: Value) -> None:
        """InvalidArgument where it makes no sense."""

    async def call(self, path: str, member: str, body: list[Value]) -> list[Value]:
        """A method of one of our interfaces, with the values that its signature says;
        InvalidArgument or LinkError where it fails."""

    def refused(self, what: str, uid: int, why: str) -> None:
        """Somebody was turned away."""

    def failed(self, what: str, uid: int, why: str) -> None:
        """What somebody may do could not be done."""

    def broken(self, problem: Exception) -> None:
        """A mistake of ours, which the caller is not told more of."""

    def ignored(self, why: str) -> None:
        """A message that cannot be read, and costs nothing but itself."""


class Objects:
    """What is at which path, and who may do what with it."""

    def __init__(
        self,
        identity: Identity,
        objects: dict[str, list[str]],
        service: Service,
        rights: Rights,
        callers: Callers,
        open_methods: frozenset[str],
    ) -> None:
        """As Bus has them."""
        self.bus: Connection | None = None
        """Where our name is, if it is anywhere."""
        self._identity = identity
        self._service = service
        self._rights = rights
        self._callers = callers
        self._open_methods = open_methods
        self.publish(objects)
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = Places()
        self._told: dict[tuple[str, str], tuple[float, asyncio.Future[list[Value]]]] = {}

    def publish(self, objects: dict[str, list[str]]) -> None:
        """The interfaces at each path, from now on."""
        self._objects = objects
        names = {each for several in objects.values() for each in several}
        self._contracts = {each: contract(self._identity.interfaces, each) for each in names}

    async def finish(self, limit: float) -> None:
        """Calls under way are answered, if they can be within `limit` seconds."""
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=limit)

    def received(self, message: Message) -> Message | bool:
        """Every message passes here; False leaves it to the library (answers to our calls)."""
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        try:
            reply = self._begin(message)
        except Exception as problem:
            reply = self._broken(message, problem)
        if reply is None or message.flags & MessageFlag.NO_REPLY_EXPECTED:
            return True
        return reply

    def _broken(self, message: Message, problem: Exception) -> Message:
        # Nobody on the bus may end the proxy, or read its traceback, by what he sends.
        self._service.broken(problem)
        return _error(message, self._identity.failed, "internal error, see the log")

    def _begin(self, message: Message) -> Message | None:
        """The answer, or None: it comes later."""
        quick = self._answer_at_once(message)
        if quick is not None:
            return quick
        shares = self._shares(message.sender or "")
        if not self._places.take(*shares):
            return _error(message, LIMITS, TOO_MANY)
        task = asyncio.ensure_future(self._answer(message, shares))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    def welcome(self, sender: str, flags: int) -> bool:
        """May another call of his be read before the loop turns?"""
        caller = self._callers.get(sender)
        trusted = caller is not None and self._rights.trusted(caller)
        silent = bool(flags & MessageFlag.NO_REPLY_EXPECTED) and not trusted
        reading = access.reading(sender, silent=silent)
        if not self._places.take(*reading):
            return False
        asyncio.get_running_loop().call_soon(self._places.give, *reading)
        return True

    def _shares(self, sender: str) -> tuple[access.Share, ...]:
        caller = self._callers.get(sender)
        if caller is None:
            return access.unsorted(sender)
        return access.shares(caller, trusted=self._rights.trusted(caller))

    def _answer_at_once(self, message: Message) -> Message | None:
        match message.interface, message.member:
            case (intf, "Introspect") if intf in (_INTROSPECTABLE, None):
                return Message.new_method_return(message, "s", [self._introspection(message.path)])
            case (intf, "Ping") if intf == _PEER:
                return Message.new_method_return(message)
            case (intf, "GetMachineId") if intf == _PEER:
                return _machine_id(message)
        if message.path not in self._objects:
            return _error(message, _ERROR + "UnknownObject", "no such object")
        if message.interface == PROPERTIES and message.member in ("Get", "GetAll"):
            return self._read(message)
        return None

    def _introspection(self, path: str) -> str:
        if path in self._objects:
            return (self._identity.interfaces / f"{self._objects[path][0]}.xml").read_text()
        prefix = path.rstrip("/") + "/"
        children = {
            each[len(prefix) :].split("/")[0] for each in self._objects if each.startswith(prefix)
        }
        nodes = "".join(f'<node name="{child}"/>' for child in sorted(children))
        return f"<node>{nodes}</node>"

    def variants(
        self, path: str, interface: str, names: Collection[str] | None = None
    ) -> dict[str, Variant]:
        """Properties of that object's interface, as they are sent: all, or at least these."""
        kinds = {each.name: each.signature for each in self._contracts[interface].properties}
        values = self._service.properties(path, interface, names)
        return {name: Variant(kinds[name], value) for name, value in values.items()}

    def _read(self, message: Message) -> Message:
        kind = "ss" if message.member == "Get" else "s"
        if message.signature != kind:
            return _error(message, _ERROR + "InvalidArgs", f"give {kind}")
        if message.body[0] not in self._objects[message.path]:
            return _error(message, _ERROR + "UnknownInterface", message.body[0])
        names = None if message.member == "GetAll" else [message.body[1]]
        values = self.variants(message.path, message.body[0], names)
        if message.member == "GetAll":
            return Message.new_method_return(message, "a{sv}", [values])
        if message.body[1] not in values:
            return _error(message, _ERROR + "UnknownProperty", message.body[1])
        return Message.new_method_return(message, "v", [values[message.body[1]]])

    async def _answer(self, message: Message, shares: tuple[access.Share, ...]) -> None:
        """Ends with the places that it took given back, and is cancelled with its caller."""
        bus, held = self.bus, list(shares)
        try:
            reply = await self._carried_out(message, held)
        except Refused as problem:
            reply = _error(message, _ERROR + "AccessDenied", str(problem))
        except InvalidArgument as problem:
            reply = _error(message, _ERROR + "InvalidArgs", str(problem))
        except Crowded:
            reply = _error(message, LIMITS, TOO_MANY)
        except (LinkError, Failure) as problem:
            reply = _error(message, self._identity.failed, str(problem))
        except Exception as problem:
            reply = self._broken(message, problem)
        finally:
            self._places.give(*held)
        if bus is None or bus is not self.bus or message.flags & MessageFlag.NO_REPLY_EXPECTED:
            return  # on another bus its name is somebody else's
        try:
            bus.send(reply)
        except Exception as problem:
            bus.send(self._broken(message, problem))

    def _take(self, held: list[access.Share], shares: tuple[access.Share, ...]) -> None:
        if not self._places.take(*shares):
            raise Crowded
        held.extend(shares)

    async def _carried_out(self, message: Message, held: list[access.Share]) -> Message:
        caller = await self._callers.find(message.sender or "")
        trusted = self._rights.trusted(caller)
        shares = access.shares(caller, trusted=trusted)
        if held != list(shares):
            self._places.give(*held)
            held.clear()
            self._take(held, shares)
        if message.interface == PROPERTIES and message.member == "Set":
            return await self._set(message, caller, held)
        method = self._method(message)
        if method is None:
            return _error(
                message, _ERROR + "UnknownMethod", f"no method {message.interface}.{message.member}"
            )
        if message.signature != method.in_signature:
            return _error(
                message, _ERROR + "InvalidArgs", f"{method.name} takes {method.in_signature!r}"
            )
        if method.name in self._open_methods and not trusted:
            return Message.new_method_return(
                message, method.out_signature, await self._shared(message.path, method.name)
            )
        if method.name not in self._open_methods:
            await self._authorise(message, caller, method.name, held)
        try:
            body = await self._service.call(message.path, method.name, message.body)
        except (InvalidArgument, LinkError) as problem:
            self._service.failed(method.name, caller.uid, arguments.told(str(problem)))
            raise
        return Message.new_method_return(message, method.out_signature, body)

    async def _shared(self, path: str, member: str) -> list[Value]:
        """What all strangers are told, asked for anew once it is old: only once at a time."""
        now = asyncio.get_running_loop().time()
        asked, answer = self._told.get((path, member), (0.0, None))
        old = answer is None or (answer.done() and (now - asked > _FRESH or failed(answer)))
        if answer is None or old:
            answer = asyncio.ensure_future(self._service.call(path, member, []))
            answer.add_done_callback(forgive)
            self._told[path, member] = now, answer
        return await asyncio.shield(answer)

    def _method(self, message: Message) -> intr.Method | None:
        for interface in self._objects[message.path]:
            if message.interface in (None, interface):
                for method in self._contracts[interface].methods:
                    if method.name == message.member:
                        return method
        return None

    async def _set(self, message: Message, caller: Caller, held: list[access.Share]) -> Message:
        if message.signature != "ssv" or message.body[0] not in self._objects[message.path]:
            return _error(message, _ERROR + "InvalidArgs", "give ssv")
        interface, name, value = message.body
        found = [each for each in self._contracts[interface].properties if each.name == name]
        if not found or not found[0].access.writable():
            hint = ": the key target of table [log] says it" if name == "LogTarget" else ""
            return _error(message, _ERROR + "PropertyReadOnly", f"{name} is read-only{hint}")
        if value.signature != found[0].signature:
            return _error(message, _ERROR + "InvalidArgs", f"give {found[0].signature}")
        await self._authorise(message, caller, f"Set {name}", held)
        await self._service.set_property(message.path, interface, name, value.value)
        return Message.new_method_return(message)

    async def _authorise(
        self, message: Message, caller: Caller, what: str, held: list[access.Share]
    ) -> None:
        """Root, our group, or whom polkit lets; Refused for everybody else."""
        if self._rights.trusted(caller):
            return
        interactive = bool(message.flags.value & _ALLOW_INTERACTIVE)
        if interactive:
            self._take(held, access.asking(caller))
        allowed = await self._callers.permitted(
            caller, self._identity.action, interactive=interactive
        )
        if not allowed:
            self._service.refused(what, caller.uid, "not authorised")
            us = self._identity
            raise Refused(f"{what}: root, the group {us.name} or {us.action} may do that")


def _error(message: Message, name: str, text: str) -> Message:
    return Message.new_error(message, name, arguments.told(text))


def _machine_id(message: Message) -> Message:
    try:
        text = _MACHINE_ID.read_text().strip()
    except (OSError, ValueError):
        return _error(message, _ERROR + "FileNotFound", "this host has no machine ID")
    return Message.new_method_return(message, "s", [text])
