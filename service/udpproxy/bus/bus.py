"""The connection to the bus, made again whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from dbus_next import BusType, Message, MessageType, NameFlag, RequestNameReply

from udpproxy.bus import arguments
from udpproxy.bus.access import Rights
from udpproxy.bus.callers import CALL_LIMIT, Callers
from udpproxy.bus.connection import Connection
from udpproxy.bus.objects import PROPERTIES, Objects, Service
from udpproxy.bus.values import Failure, Value
from udpproxy.identity import Identity

_CONNECT_LIMIT = 10.0
_SILENT_LIMIT = 0.5
"""Seconds for a call to a bus that was silent for the whole of another one."""
_CLOSE_LIMIT = 1.0


class Bus:
    """Our name on it, and what we say there of ourselves."""

    def __init__(
        self,
        identity: Identity,
        instance: str,
        objects: dict[str, list[str]],
        service: Service,
        *,
        session: bool,
        open_methods: frozenset[str],
        allowed_group: int | None,
        children: int | None = None,
    ) -> None:
        """`objects`: paths and the interfaces of each. `open_methods` are for everybody, and
        nothing else for the user `children`."""
        self.name = identity.bus_name(instance)
        self._service = service
        self._type = BusType.SESSION if session else BusType.SYSTEM
        self._bus: Connection | None = None
        self._silent = False
        self._callers = Callers(self.ask)
        rights = Rights(allowed_group, os.getuid() if session else None, children)
        self._objects = Objects(identity, objects, service, rights, self._callers, open_methods)

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
            self._bus = self._objects.bus = bus
            joined()
            try:
                with contextlib.suppress(Exception):  # as above
                    await bus.wait_for_disconnect()
            finally:
                self._bus = self._objects.bus = None
                self._callers.forget()  # the next bus gives the same names to others
                bus.drop()
            lost("disconnected")
            await asyncio.sleep(delay)

    async def _connect(self) -> Connection:
        bus = Connection(
            self._type,
            welcome=self._objects.welcome,
            ignored=lambda why: self._service.ignored(why),
        )
        try:
            await bus.connect()
            bus.add_message_handler(self._objects.received)
            reply = await bus.request_name(self.name, NameFlag.DO_NOT_QUEUE)
            if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
                raise Failure(f"somebody else owns {self.name}")
        except BaseException:
            bus.drop()
            raise
        return bus

    async def close(self) -> None:
        """Before run() is cancelled: calls under way are answered, and the answers sent."""
        if self._silent:
            return
        await self._objects.finish(_CLOSE_LIMIT)
        if self._bus is not None:
            await self._bus.flush(_CLOSE_LIMIT)

    def publish(self, objects: dict[str, list[str]]) -> None:
        """These from now on, and no others."""
        self._objects.publish(objects)

    def emit(
        self, path: str, interface: str, member: str, signature: str, body: list[Value]
    ) -> None:
        """A signal; nothing where there is no connection, or nobody reads what we say. What
        cannot be said costs that word, and is logged."""
        if self._bus is None or self._bus.full:
            return
        try:
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
        except Exception as problem:  # some of our figures are others' words
            self._service.broken(problem)

    def changed(self, path: str, interface: str, names: set[str]) -> None:
        """PropertiesChanged with the values of these."""
        if self._bus is None:
            return
        values = self._objects.variants(path, interface, names)
        body: list[Value] = [interface, {name: values[name] for name in names}, []]
        self.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    async def ask(
        self, destination: str, path: str, interface: str, member: str, signature: str = "",
        body: list[Value] | None = None, limit: float = CALL_LIMIT,
    ) -> list[Value]:  # fmt: skip
        """A call of ours to somebody else; Failure for an error or `limit` seconds of silence."""
        bus = self._bus
        if bus is None or bus.full:
            raise Failure("no connection to the bus")
        message = Message(
            destination=destination, path=path, interface=interface, member=member,
            signature=signature, body=body or [],
        )  # fmt: skip
        before = bus.heard
        try:
            reply = await bus.ask(message, min(limit, _SILENT_LIMIT) if self._silent else limit)
        except TimeoutError:
            self._silent = bus.heard == before
            raise Failure(f"{destination} does not answer") from None
        except Exception as problem:  # whatever the end of the connection was
            raise Failure(arguments.told(str(problem) or type(problem).__name__, 200)) from None
        self._silent = False
        if reply is None or reply.message_type is MessageType.ERROR:
            why = f"{reply.error_name}: {reply.body}" if reply else "no answer"
            raise Failure(arguments.told(why, 200))
        return list(reply.body)
