"""Our objects on D-Bus: calls in, answers out. The contract is the XML in dbus/.

Messages are handled one by one, not by dbus-next's ServiceInterface: that sends tracebacks to
callers, hides who calls and never answers GetMachineId. Nothing a caller sends ends in a
traceback or an unlimited queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dbus_next import (
    BusType,
    Message,
    MessageFlag,
    MessageType,
    NameFlag,
    RequestNameReply,
    Variant,
)
from dbus_next import introspection as intr
from dbus_next.aio import MessageBus

from udpproxy.errors import InvalidArgument, LinkError

PROXY, PROCESS = "org.udpproxy1.Proxy", "org.udpproxy1.Process"
LOG_CONTROL = "org.freedesktop.LogControl1"
ACTION = "org.udpproxy1.control"

_DBUS, _DBUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_PROPERTIES, _PEER = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.Peer"
_INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
_ERROR = "org.freedesktop.DBus.Error."
_FAILED = "org.udpproxy1.Error.Failed"
_INTERFACES = Path(__file__).parent / "interfaces"
_MOST_PENDING = 64
_CONNECT_LIMIT = 10.0
_CALL_LIMIT = 5.0
_CLOSE_LIMIT = 1.0
_ASKED_LIMIT = 120.0
"""Seconds for somebody to type a password, where the caller lets polkit ask for one."""
_ALLOW_INTERACTIVE = 0x4

Value = object
"""What dbus-next marshals for a signature of the contract; opaque here."""


class Refused(Exception):
    """The caller may not do that."""


class Service(Protocol):
    """What the objects do; the parent has it."""

    def properties(self, path: str, interface: str) -> dict[str, Value]:
        """All properties of that object's interface."""

    async def set_property(self, path: str, interface: str, name: str, value: Value) -> None:
        """InvalidArgument where it makes no sense."""

    async def call(self, path: str, member: str, body: list[Value]) -> list[Value]:
        """A method of PROXY or PROCESS; InvalidArgument or LinkError where it fails."""

    def refused(self, what: str, uid: int, why: str) -> None:
        """Somebody was turned away."""

    def broken(self, problem: Exception) -> None:
        """A mistake of ours, which the caller is not told more of."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a message."""

    name: str
    uid: int
    groups: tuple[int, ...]
    interactive: bool


def contract(name: str) -> intr.Interface:
    """An interface as its XML says."""
    node = intr.Node.parse((_INTERFACES / f"{name}.xml").read_text())
    return node.interfaces[0]


class _Connection(MessageBus):  # type: ignore[misc]  # it has no types
    """The library's, but for three things. Of a bus that hangs up before it has greeted us, it
    reads nothing for ever, and the whole process with it stands still. What it cannot send fails
    in a future of its own, which is no mistake of ours: a connection that is lost says so once.
    And where there is no bus it leaves the socket to the collection of garbage."""

    def __init__(self, bus_type: BusType) -> None:
        super().__init__(bus_type=bus_type)
        self._unsent: set[asyncio.Future[None]] = set()

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()
        except BaseException:
            with contextlib.suppress(AttributeError):  # an address that it does not understand
                self._stream.close()
                self._sock.close()
            raise

    def send(self, msg: Message) -> asyncio.Future[None]:
        """Nobody has to wait for it."""
        future: asyncio.Future[None] = super().send(msg)
        self._unsent.add(future)
        future.add_done_callback(self._sent)
        return future

    def _sent(self, future: asyncio.Future[None]) -> None:
        self._unsent.discard(future)
        _forgive(future)

    async def flush(self, limit: float) -> None:
        """What was said leaves, if it can within `limit` seconds."""
        if self._unsent:
            await asyncio.wait(self._unsent, timeout=limit)

    async def _auth_readline(self) -> str:
        loop = asyncio.get_running_loop()
        line = b""
        while not line.endswith(b"\r\n"):
            part = await loop.sock_recv(self._sock, 2)
            if not part:
                raise EOFError("it has hung up")
            line += part
        return line[:-2].decode()

    def drop(self) -> None:
        """For good: the library leaves the socket to the next collection of garbage."""
        self.disconnect()
        self._finalize()
        _forgive(self._disconnect_future)
        with contextlib.suppress(OSError):  # what it has not sent yet
            self._stream.close()
        self._sock.close()


def _forgive(future: asyncio.Future[None]) -> None:
    """Its failure, if it is one, is no news: asyncio would tell of one that nobody looked at."""
    if future.done() and not future.cancelled():
        future.exception()


class Bus:
    """The connection, made again whenever it is lost."""

    def __init__(
        self,
        name: str,
        objects: dict[str, list[str]],
        service: Service,
        *,
        session: bool,
        open_methods: frozenset[str],
        allowed_group: int | None,
    ) -> None:
        """`objects`: paths and the interfaces of each. `open_methods` are for everybody."""
        self._name = name
        self._objects = objects
        self._service = service
        self._type = BusType.SESSION if session else BusType.SYSTEM
        self._open_methods = open_methods
        self._group = allowed_group
        self._contracts = {each: contract(each) for several in objects.values() for each in several}
        self._bus: _Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Is our name on the bus?"""
        return self._bus is not None

    async def run(self, *, joined: Callable[[], object], lost: Callable[[str], object]) -> None:
        """Until it is cancelled; `lost` hears why there is no connection, once each time."""
        delay = 0.2
        while True:
            try:
                bus = await asyncio.wait_for(self._connect(), _CONNECT_LIMIT)
            except Exception as problem:
                # The library lets through whatever a bus that starts or ends makes of it.
                if delay < 0.5:
                    lost(str(problem) or type(problem).__name__)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 10.0)
                continue
            delay = 0.2
            self._bus = bus
            joined()
            try:
                with contextlib.suppress(Exception):  # as above
                    await bus.wait_for_disconnect()
            finally:
                self._bus = None
                bus.drop()
            lost("disconnected")
            await asyncio.sleep(delay)

    async def _connect(self) -> _Connection:
        bus = _Connection(self._type)
        try:
            await bus.connect()
            bus.add_message_handler(self._received)
            reply = await bus.request_name(self._name, NameFlag.DO_NOT_QUEUE)
            if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
                raise Failure(f"somebody else owns {self._name}")
        except BaseException:
            bus.drop()
            raise
        return bus

    async def close(self) -> None:
        """Before run() is cancelled: calls under way are answered, and the answers sent."""
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_CLOSE_LIMIT)
        if self._bus is not None:
            await self._bus.flush(_CLOSE_LIMIT)

    def emit(
        self, path: str, interface: str, member: str, signature: str, body: list[Value]
    ) -> None:
        """A signal; nothing where there is no connection."""
        if self._bus is not None:
            self._bus.send(
                Message(
                    message_type=MessageType.SIGNAL,
                    path=path,
                    interface=interface,
                    member=member,
                    signature=signature,
                    body=body,
                )
            )

    def changed(self, path: str, interface: str, names: set[str]) -> None:
        """PropertiesChanged with the values of these."""
        if self._bus is None:
            return
        values = self._variants(path, interface)
        body: list[Value] = [interface, {name: values[name] for name in names}, []]
        self.emit(path, _PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    async def ask(
        self, destination: str, path: str, interface: str, member: str, signature: str = "",
        body: list[Value] | None = None, limit: float = _CALL_LIMIT,
    ) -> list[Value]:  # fmt: skip
        """A call of ours to somebody else; Failure for an error or `limit` seconds of silence."""
        if self._bus is None:
            raise Failure("no connection to the bus")
        message = Message(
            destination=destination, path=path, interface=interface, member=member,
            signature=signature, body=body or [],
        )  # fmt: skip
        try:
            reply = await asyncio.wait_for(self._bus.call(message), limit)
        except TimeoutError:
            raise Failure(f"{destination} does not answer") from None
        if reply is None or reply.message_type is MessageType.ERROR:
            raise Failure(f"{reply.error_name}: {reply.body}" if reply else "no answer")
        return list(reply.body)

    def _received(self, message: Message) -> Message | bool:
        """Every message passes here; False leaves it to the library (answers to our calls)."""
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        try:
            return self._begin(message)
        except Exception as problem:
            return self._broken(message, problem)

    def _broken(self, message: Message, problem: Exception) -> Message:
        # Nobody on the bus may end the proxy, or read its traceback, by what he sends.
        self._service.broken(problem)
        return Message.new_error(message, _FAILED, "internal error, see the log")

    def _begin(self, message: Message) -> Message | bool:
        quick = self._answer_at_once(message)
        if quick is not None:
            return quick
        if len(self._tasks) >= _MOST_PENDING:
            return Message.new_error(message, _ERROR + "LimitsExceeded", "too many calls at once")
        task = asyncio.ensure_future(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _answer_at_once(self, message: Message) -> Message | None:
        match message.interface, message.member:
            case (intf, "Introspect") if intf in (_INTROSPECTABLE, None):
                return Message.new_method_return(message, "s", [self._introspection(message.path)])
            case (intf, "Ping") if intf == _PEER:
                return Message.new_method_return(message)
            case (intf, "GetMachineId") if intf == _PEER:
                machine = Path("/etc/machine-id").read_text().strip()
                return Message.new_method_return(message, "s", [machine])
        if message.path not in self._objects:
            return Message.new_error(message, _ERROR + "UnknownObject", "no such object")
        if message.interface == _PROPERTIES and message.member in ("Get", "GetAll"):
            return self._read(message)
        return None

    def _introspection(self, path: str) -> str:
        if path in self._objects:
            return (_INTERFACES / f"{self._objects[path][0]}.xml").read_text()
        prefix = path.rstrip("/") + "/"
        children = {
            each[len(prefix) :].split("/")[0] for each in self._objects if each.startswith(prefix)
        }
        nodes = "".join(f'<node name="{child}"/>' for child in sorted(children))
        return f"<node>{nodes}</node>"

    def _variants(self, path: str, interface: str) -> dict[str, Variant]:
        kinds = {each.name: each.signature for each in self._contracts[interface].properties}
        values = self._service.properties(path, interface)
        return {name: Variant(kinds[name], value) for name, value in values.items()}

    def _read(self, message: Message) -> Message:
        kind = "ss" if message.member == "Get" else "s"
        if message.signature != kind:
            return Message.new_error(message, _ERROR + "InvalidArgs", f"give {kind}")
        if message.body[0] not in self._objects[message.path]:
            return Message.new_error(message, _ERROR + "UnknownInterface", message.body[0])
        values = self._variants(message.path, message.body[0])
        if message.member == "GetAll":
            return Message.new_method_return(message, "a{sv}", [values])
        if message.body[1] not in values:
            return Message.new_error(message, _ERROR + "UnknownProperty", message.body[1])
        return Message.new_method_return(message, "v", [values[message.body[1]]])

    async def _answer(self, message: Message) -> None:
        try:
            reply = await self._carried_out(message)
        except Refused as problem:
            reply = Message.new_error(message, _ERROR + "AccessDenied", str(problem))
        except InvalidArgument as problem:
            reply = Message.new_error(message, _ERROR + "InvalidArgs", str(problem))
        except (LinkError, Failure) as problem:
            reply = Message.new_error(message, _FAILED, str(problem))
        except Exception as problem:
            reply = self._broken(message, problem)
        if self._bus is not None and not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._bus.send(reply)

    async def _carried_out(self, message: Message) -> Message:
        if message.interface == _PROPERTIES and message.member == "Set":
            return await self._set(message)
        method = self._method(message)
        if method is None:
            return Message.new_error(
                message, _ERROR + "UnknownMethod", f"no method {message.interface}.{message.member}"
            )
        if message.signature != method.in_signature:
            return Message.new_error(
                message, _ERROR + "InvalidArgs", f"{method.name} takes {method.in_signature!r}"
            )
        if method.name in self._open_methods:
            body = await self._service.call(message.path, method.name, message.body)
            return Message.new_method_return(message, method.out_signature, body)
        caller = await self._authorise(message, method.name)
        try:
            body = await self._service.call(message.path, method.name, message.body)
        except (InvalidArgument, LinkError) as problem:
            self._service.refused(method.name, caller.uid, str(problem))
            raise
        return Message.new_method_return(message, method.out_signature, body)

    def _method(self, message: Message) -> intr.Method | None:
        for interface in self._objects[message.path]:
            if message.interface in (None, interface):
                for method in self._contracts[interface].methods:
                    if method.name == message.member:
                        return method
        return None

    async def _set(self, message: Message) -> Message:
        if message.signature != "ssv" or message.body[0] not in self._objects[message.path]:
            return Message.new_error(message, _ERROR + "InvalidArgs", "give ssv")
        interface, name, value = message.body
        found = [each for each in self._contracts[interface].properties if each.name == name]
        if not found or not found[0].access.writable():
            return Message.new_error(message, _ERROR + "PropertyReadOnly", name)
        if value.signature != found[0].signature:
            return Message.new_error(message, _ERROR + "InvalidArgs", f"give {found[0].signature}")
        await self._authorise(message, f"Set {name}")
        await self._service.set_property(message.path, interface, name, value.value)
        return Message.new_method_return(message)

    async def _authorise(self, message: Message, what: str) -> Caller:
        """Root, ourselves, our group, or whom polkit lets; Refused for everybody else."""
        caller = await self._caller(message)
        if caller.uid in (0, os.getuid()) or self._group in caller.groups:
            return caller
        try:
            subject = ["system-bus-name", {"name": Variant("s", caller.name)}]
            answer = await self.ask(
                "org.freedesktop.PolicyKit1",
                "/org/freedesktop/PolicyKit1/Authority",
                "org.freedesktop.PolicyKit1.Authority",
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                [subject, ACTION, {}, int(caller.interactive), ""],
                _ASKED_LIMIT if caller.interactive else _CALL_LIMIT,
            )
            allowed = bool(answer[0][0])  # type: ignore[index]
        except Failure:
            allowed = False
        if not allowed:
            self._service.refused(what, caller.uid, "not authorised")
            raise Refused(f"{what}: root, the group udp-proxy or {ACTION} may do that")
        return caller

    async def _caller(self, message: Message) -> Caller:
        body = await self.ask(
            _DBUS, _DBUS_PATH, _DBUS, "GetConnectionCredentials", "s", [message.sender]
        )
        credentials = body[0]
        assert isinstance(credentials, dict)
        groups = credentials.get("UnixGroupIDs")
        return Caller(
            name=message.sender,
            uid=int(credentials["UnixUserID"].value),
            groups=tuple(groups.value) if groups else (),
            interactive=bool(message.flags.value & _ALLOW_INTERACTIVE),
        )


class Failure(Exception):
    """Somebody on the bus did not do what we asked."""


def variants(values: dict[str, object]) -> dict[str, Variant]:
    """Plain values as a{sv}; numbers that are never negative go as 64 bits."""
    kinds = {bool: "b", int: "t", float: "d"}
    return {
        key: Variant(kinds.get(type(value), "s"), value if type(value) in kinds else str(value))
        for key, value in values.items()
    }


def plain(value: object) -> object:
    """A Variant's value, or the value itself."""
    return value.value if isinstance(value, Variant) else value
