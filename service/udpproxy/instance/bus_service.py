"""The instance as the bus sees it: methods in, our verbs out. No rule of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from udpproxy.bus import LOG_CONTROL, Value, plain, variants
from udpproxy.errors import InvalidArgument
from udpproxy.identity import Identity
from udpproxy.instance.commands import PARENT
from udpproxy.instance.service import Product, Service
from udpproxy.instance.state import State
from udpproxy.process import messages
from udpproxy.process.logs import Logs, RateLimit
from udpproxy.process.verbs import Arguments, Verb
from udpproxy.process.wire import Plain

LOG_OBJECT = "/org/freedesktop/LogControl1"
MOST_ROWS = 2000
"""Of a table in one answer: some tenths of a second, in which nobody else is answered."""
_SYSLOG_NAMES = {3: "err", 4: "warning", 5: "notice", 6: "info"}
_LEVELS = {
    "emerg": "3",
    "alert": "3",
    "crit": "3",
    "err": "3",
    "warning": "4",
    "notice": "5",
    "info": "6",
    "debug": "7",
}


class Performer(Protocol):
    """Who carries commands out."""

    async def perform(self, verb: str, arguments: Arguments) -> Plain:
        """The answer; InvalidArgument or LinkError where it cannot be done."""


def objects(identity: Identity, roles: Collection[str]) -> dict[str, list[str]]:
    """The interfaces of each of our objects."""
    return {
        identity.root: [identity.interface],
        **{identity.path(role): [identity.process] for role in (PARENT, *roles)},
        LOG_OBJECT: [LOG_CONTROL],
    }


class BusService:
    """See bus.Service."""

    def __init__(
        self,
        logs: Logs,
        product: Product[Any],
        service: Service[Any],
        state: State,
        performer: Performer,
    ) -> None:
        self._logs = logs
        self._identity = product.identity
        self._verbs = methods(product.verbs)
        self._service = service
        self._state = state
        self._performer = performer
        self._rate_limit = RateLimit()

    def properties(
        self, path: str, interface: str, names: Collection[str] | None = None
    ) -> dict[str, Value]:
        """Those of that object's interface; `names`: the others need not be there."""
        if interface == self._identity.interface:
            figures = self._state.brief()
            return {
                "Version": figures["version"],
                "Instance": figures["instance"],
                "State": figures["state"],
                **self._service.properties(names),
            }
        if interface == self._identity.process:
            role = self._role(path)
            pid, state, ends = self._state.process(role)
            return {"Role": role, "Pid": pid, "State": state, "Restarts": ends}
        target = self._logs.target
        return {
            "LogLevel": _SYSLOG_NAMES.get(self._logs.level, "debug"),
            "LogTarget": "console" if target == "stderr" else target,
            "SyslogIdentifier": self._logs.who,
        }

    def _role(self, path: str) -> str:
        roles = (PARENT, *self._service.every_role())
        return next((role for role in roles if self._identity.path(role) == path), PARENT)

    async def set_property(self, path: str, interface: str, name: str, value: Value) -> None:
        """Only LogControl1.LogLevel can be set."""
        if value not in _LEVELS:
            raise InvalidArgument(f"{value!r}: give one of {', '.join(_LEVELS)}")
        await self._performer.perform("loglevel", {"level": _LEVELS[str(value)]})

    async def call(self, path: str, member: str, body: list[Value]) -> list[Value]:
        """A method of our interfaces."""
        verb = self._verbs[member]
        arguments = verb.from_bus([_unwrapped(each) for each in body])
        if path != self._identity.root:
            arguments["process"] = self._role(path)
        answer = await self._performer.perform(verb.name, arguments)
        match verb.answer, answer:
            case "s", str(text):
                return [text]
            case "a{sv}", dict(state):
                return [variants({**state})]
            case "aa{sv}", list(rows):
                if len(rows) > MOST_ROWS:
                    raise InvalidArgument(
                        f"{len(rows)} {verb.rows} are more than the {MOST_ROWS} that go over the "
                        f"bus: filter them, or ask {self._identity.name} ctl"
                    )
                return [[variants({**row}) for row in rows if isinstance(row, dict)]]
            case _:
                return []

    def refused(self, what: str, uid: int, why: str) -> None:
        """One line, at most once a second for each caller."""
        held = self._rate_limit.allow(uid)
        if held is not None:
            self._logs.say(messages.CALL_REFUSED, what, uid, why, held, CALLER_UID=uid)

    def failed(self, what: str, uid: int, why: str) -> None:
        """The same for what could not be done."""
        held = self._rate_limit.allow(uid)
        if held is not None:
            self._logs.say(messages.CALL_FAILED, what, uid, why, held, CALLER_UID=uid)

    def broken(self, problem: Exception) -> None:
        """A mistake of ours, at most one a second: callers can repeat it at will."""
        if self._rate_limit.allow("broken") is not None:
            self._logs.failure(problem)

    def ignored(self, why: str) -> None:
        """One line a second, with how many there were."""
        held = self._rate_limit.allow("ignored")
        if held is not None:
            self._logs.say(messages.BUS_IGNORED, why[:200], held)


def methods(verbs: Mapping[str, Verb]) -> dict[str, Verb]:
    """By their names on the bus."""
    return {verb.member: verb for verb in verbs.values() if verb.member}


def _unwrapped(value: Value) -> Value:
    """Without the variants that the bus has around values."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return plain(value)
