"""APR: answers REG's questions, in parallel and within bounds. It keeps no answer: REG does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from udpproxy.config.model import Address
from udpproxy.errors import LinkError
from udpproxy.process import wire
from udpproxy.process.child import Start
from udpproxy.process.link import Link
from udpproxy.resolver.assignment import Assignment, Read
from udpproxy.resolver.bounds import IN_FLIGHT, total
from udpproxy.resolver.helper import Helper
from udpproxy.resolver.resolved import Resolved, read_address
from udpproxy.resolver.result import Failure

_Answer = wire.Plain | Failure
_LookUp = Callable[[], Awaitable[_Answer]]

_QUESTIONS = 4
"""At once for each look-up, on average."""


class Apr(Helper):
    """See Helper."""

    in_flight = IN_FLIGHT * _QUESTIONS

    def __init__(self, start: Start, read: Read, version: str, left: Callable[[str], None]) -> None:
        self._busy = 0
        self._totals = {"answered": 0, "failed": 0, "timed-out": 0, "refused": 0}
        super().__init__(start, read, version, left)

    @staticmethod
    def has_work(assignment: Assignment) -> bool:
        """Whatever is asked for."""
        return assignment.on_demand

    def configured(self, known: dict[str, Resolved]) -> None:
        """The next question finds it."""

    def name_servers_changed(self) -> None:
        """The next question goes to them."""

    def forget(self) -> None:
        """There is nothing."""

    def connected(self, link: Link) -> None:
        """It asks when it wants to know."""

    def questioned(self, link: Link, ask: wire.Ask) -> None:
        """A client's names or a server's addresses."""
        name = ask.args.get("name")
        match ask.verb:
            case "client":
                look_up = partial(self._client, read_address(name))
            case "server" if isinstance(name, str):
                look_up = partial(self._server, name)
            case _:
                raise LinkError(f"not for APR: {ask.verb:.40}")
        if self._busy >= IN_FLIGHT or not self.works:
            self._totals["refused"] += 1
            link.send(wire.Answer(ask.number, error=Failure.OVERLOAD.value))
            return
        self._busy += 1
        self.start(self._answer(link, ask.number, look_up))

    def progress(self) -> dict[str, wire.Plain]:
        """How the look-ups are doing."""
        return {"in-flight": self._busy, **self._totals}

    async def _answer(self, link: Link, number: int, look_up: _LookUp) -> None:
        try:
            value = await look_up()
        finally:
            self._busy -= 1
        if isinstance(value, Failure):
            timed_out = value is Failure.TIMEOUT
            self._totals["timed-out" if timed_out else "failed"] += 1
            link.send(wire.Answer(number, error=value.value))
        else:
            self._totals["answered"] += 1
            link.send(wire.Answer(number, value))

    async def _client(self, client: Address) -> _Answer:
        transport = self.transport()
        if transport is None:
            return Failure.UNREACHABLE
        from udpproxy.resolver.clients import verified_names

        assert self.assignment
        found = await verified_names(transport, client, total(self.assignment.resolver))
        return found if isinstance(found, Failure) else found.plain()

    async def _server(self, name: str) -> _Answer:
        from udpproxy.resolver.result import Family

        assert self.assignment
        transport = self.transport()
        if transport is None or name not in self.assignment.names:
            return Failure.UNREACHABLE
        found = await transport.look_up(name, Family.BOTH, total(self.assignment.resolver))
        if found.failure:
            return found.failure
        return Resolved(name, found.addresses, found.ttl).plain()
