"""What `ctl`, signals and callers on D-Bus ask of the parent: the verbs of every product are
carried out here, those of its own by the service, those for one child by that child."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Collection
from typing import Any, Protocol

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.instance.children import Children
from udpproxy.instance.service import Product, Service
from udpproxy.process import signals, verbs
from udpproxy.process.commands import ProcessCommands
from udpproxy.process.verbs import Arguments, OfChild, Readiness, Verb
from udpproxy.process.wire import Plain, cut

READY_LIMIT = 10.0
"""Seconds that a command waits for an instance that is still starting."""
_MOMENT = 0.5
"""The same where it can be carried out without the service."""
PARENT = "parent"


class Lifecycle(Protocol):
    """The life of the instance that is commanded."""

    @property
    def word(self) -> str:
        """starting, running or stopping."""

    def reload(self) -> Awaitable[Plain]:
        """The file as it is now takes the place of the one that holds."""


class Commands:
    """One command after the other, or several at once; reloads in turn."""

    def __init__(
        self,
        product: Product[Any],
        own: ProcessCommands,
        children: Children,
        service: Service[Any],
        life: Lifecycle,
    ) -> None:
        """`own` are those of the parent's process alone."""
        self._table = product.verbs
        self._the = product.identity.spoken
        self._own = own
        self._children = children
        self._service = service
        self._life = life
        self._turn = asyncio.Lock()

    async def perform(self, verb: str, arguments: Arguments) -> Plain:
        """The answer; InvalidArgument or LinkError where it cannot be done."""
        process = str(arguments.get("process", PARENT))
        roles = self._roles()
        if process not in roles:
            raise InvalidArgument(f"no process {process!r}: give one of {', '.join(roles)}")
        known = self._table.get(verb)
        if known is None:
            raise InvalidArgument(f"this process knows no verb {verb!r}")
        self._refuse_late(known)
        of_child = process != PARENT and known.of_child is not OfChild.SAME
        await self._ready(Readiness.WORKING if process != PARENT else known.readiness)
        if not of_child:
            return await self._here(known, arguments)
        if known.of_child is OfChild.REFUSED:
            raise InvalidArgument(f"this process knows no verb {verb!r}")
        rest = {key: value for key, value in arguments.items() if key != "process"}
        if verb == verbs.TERMINATE.name:
            await self._children.ask_to_leave(process, rest)
            return None
        answer = await self._children.ask(process, verb, rest)
        return sound(process, verb, known.child_answers, answer)

    async def _here(self, verb: Verb, arguments: Arguments) -> Plain:
        match verb.name:
            case "loglevel":
                return await self._loglevel(str(arguments.get("level", "")))
            case "reopen":
                try:
                    self._own.reopen()
                finally:
                    await self._children.ask_all("reopen", {})
                return None
            case "hold":
                self._own.hold()
                await self._children.ask_all("hold", {})
                return None
            case "reload":
                async with self._turn:
                    self._refuse_late(verb)  # it may have waited
                    return await self._life.reload()
            case "info" | "terminate":
                return self._own.perform(verb.name, arguments)
            case _:
                return await self._service.perform(verb, arguments)

    async def signalled(self, number: int) -> None:
        """The signal's verb; loglevel and reopen go on to the children (SPEC 2)."""
        self._own.signalled(number)
        if number == signals.LEVEL_UP:
            await self._children.ask_all("loglevel", {"level": "+1"})
        elif number == signals.LEVEL_DOWN:
            await self._children.ask_all("loglevel", {"level": "-1"})
        elif number == signals.REOPEN:
            await self._children.ask_all("reopen", {})
        for verb in self._table.values():
            if verb.signal == number and verb not in verbs.COMMON:
                await self._service.perform(verb, {})

    def _roles(self) -> tuple[str, ...]:
        return (PARENT, *self._service.every_role())

    def _refuse_late(self, verb: Verb) -> None:
        if self._life.word == "stopping" and not verb.while_stopping:
            raise LinkError(f"{self._the} is stopping")

    async def _loglevel(self, word: str) -> Plain:
        name = self._own.loglevel(word)
        await self._children.ask_all("loglevel", {"level": word})
        return name

    async def _ready(self, readiness: Readiness) -> None:
        if readiness is Readiness.NOTHING:
            return
        needed = readiness is Readiness.WORKING
        if not needed and self._life.word != "starting":
            return
        try:
            limit = READY_LIMIT if needed else _MOMENT
            await asyncio.wait_for(self._children.all_work.wait(), limit)
        except TimeoutError:
            if needed:
                raise LinkError(f"{self._the} is still starting: try again") from None


def sound(role: str, verb: str, kinds: Collection[type], value: Plain) -> Plain:
    """A child's answer, as whoever asked can take it; LinkError for one that is of none of these
    kinds."""
    if type(value) in kinds and _is_json(value):
        return value
    raise LinkError(f"{role} gave an answer to {verb} that makes no sense: {cut(repr(value))}")


def _is_json(value: Plain) -> bool:
    """Not so NaN, which `ctl --json` would print, and nobody could read."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
