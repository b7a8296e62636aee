"""Who is behind a name on the bus, and what polkit lets him do."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Coroutine

from dbus_next import Variant

from udpproxy.bus.access import Caller
from udpproxy.bus.connection import failed, forgive
from udpproxy.bus.values import Failure, Value

CALL_LIMIT = 5.0
_ASKED_LIMIT = 120.0
"""Seconds for somebody to type a password, where the caller lets polkit ask for one."""
_NAMED_LIMIT = 15.0
"""For the bus itself: its answer comes after all that strangers have sent meanwhile."""
_LOOK = 2.0
"""Seconds after which it is seen whether he is still there."""
_MOST_REMEMBERED = 1024
_DBUS, _DBUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_POLKIT, _POLKIT_PATH = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority"

Ask = Callable[..., Coroutine[object, object, list[Value]]]


class Callers:
    """`ask` is Bus.ask. Who a name belongs to does not change while there is the same bus."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: collections.OrderedDict[str, Caller] = collections.OrderedDict()
        self._lookups: dict[str, asyncio.Future[Caller]] = {}

    def get(self, sender: str) -> Caller | None:
        """Where he was here before."""
        return self._known.get(sender)

    def forget(self) -> None:
        """All: the bus is another."""
        self._known.clear()
        self._lookups.clear()

    async def permitted(self, caller: Caller, action: str, *, interactive: bool) -> bool:
        """Does polkit let him? Not where it cannot be asked."""
        subject = ["system-bus-name", {"name": Variant("s", caller.name)}]
        question = self._ask(
            _POLKIT,
            _POLKIT_PATH,
            "org.freedesktop.PolicyKit1.Authority",
            "CheckAuthorization",
            "(sa{sv})sa{ss}us",
            [subject, action, {}, int(interactive), ""],
            _ASKED_LIMIT if interactive else CALL_LIMIT,
        )
        try:
            answer = await (self._while_there(caller, question) if interactive else question)
            return bool(answer[0][0])  # type: ignore[index]
        except Failure:
            return False

    async def _while_there(
        self, caller: Caller, question: Coroutine[object, object, list[Value]]
    ) -> list[Value]:
        """The answer, unless the caller leaves the bus first: then nobody waits for it."""
        asked = asyncio.ensure_future(question)
        asked.add_done_callback(forgive)
        try:
            while True:
                await asyncio.wait([asked], timeout=_LOOK)
                if asked.done():
                    return asked.result()
                here = await self._ask(_DBUS, _DBUS_PATH, _DBUS, "NameHasOwner", "s", [caller.name])
                if here != [True]:
                    raise Failure(f"{caller.name} has left")
        finally:
            asked.cancel()

    async def find(self, sender: str) -> Caller:
        """Who that is, asked once of the bus."""
        if caller := self._known.get(sender):
            self._known.move_to_end(sender)
            return caller
        lookup = self._lookups.get(sender)
        if lookup is None:
            lookup = self._lookups[sender] = asyncio.ensure_future(self._credentials(sender))
            lookup.add_done_callback(lambda done: self._found(sender, done))
        return await asyncio.shield(lookup)

    def _found(self, sender: str, lookup: asyncio.Future[Caller]) -> None:
        if self._lookups.get(sender) is not lookup:
            forgive(lookup)  # it was of another bus
            return
        del self._lookups[sender]
        if failed(lookup):
            return
        self._known[sender] = lookup.result()
        while len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)

    async def _credentials(self, sender: str) -> Caller:
        body = await self._ask(
            _DBUS, _DBUS_PATH, _DBUS, "GetConnectionCredentials", "s", [sender], _NAMED_LIMIT
        )
        credentials = body[0]
        user = credentials.get("UnixUserID") if isinstance(credentials, dict) else None
        if user is None:
            raise Failure("the bus does not say who calls")
        groups = credentials.get("UnixGroupIDs")  # type: ignore[attr-defined]  # it is a dict
        return Caller(sender, int(user.value), tuple(groups.value) if groups else ())
