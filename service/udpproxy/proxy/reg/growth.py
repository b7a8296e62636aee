"""REG's side of the pool that grows: more is asked for ahead of need, and comes while it relays."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from udpproxy.errors import LinkError, UnitError
from udpproxy.process import messages, wire
from udpproxy.process.logs import Logs
from udpproxy.process.loop import Reactor
from udpproxy.proxy.engine.interface import Engine
from udpproxy.proxy.reg.received import ReceivedDescriptors

_RETRY = 1.0
"""Seconds until what was lent is taken again where we had no descriptors for it."""
_MOST_TOLD = 4000
"""Spent sockets in a message."""


class Growth:
    """`engine` is there as soon as we relay. `short`: we could not take what was lent."""

    def __init__(
        self,
        reactor: Reactor,
        logs: Logs,
        lent: ReceivedDescriptors,
        tell: Callable[[wire.Tell], object],
    ) -> None:
        self._reactor = reactor
        self._logs = logs
        self._lent = lent
        self._tell = tell
        self.engine: Engine | None = None
        self.short = False

    def scarce(self) -> None:
        """The engine will soon have used what it has."""
        self._tell(wire.Tell("scarce"))

    def spent(self, sockets: list[tuple[int, int]]) -> None:
        """Families and slots whose sockets sessions have used up."""
        for at in range(0, len(sockets), _MOST_TOLD):
            part: list[wire.Plain] = [
                [int(one), slot] for one, slot in sockets[at : at + _MOST_TOLD]
            ]
            self._tell(wire.Tell("spent", {"sockets": part}))

    def fresh(self, items: list[wire.Plain], descriptors: list[int]) -> None:
        """Others in their places."""
        made = [socket.socket(fileno=fd) for fd in descriptors]
        if self.engine is None:
            for sock in made:
                sock.close()
            return
        fresh = []
        for item, sock in zip(items, made, strict=True):
            match item:
                case [int(family), int(slot)]:
                    fresh.append((family, slot, sock))
                case _:
                    raise LinkError("lent a fresh socket of an unknown form")
        self.engine.replace(fresh)

    def came(self, slots: int) -> None:
        """The carriers that were lent last make it so many slots with sockets."""
        self._lent.slots = slots
        if not self.short:
            self._extend()

    def lack(self, problem: int) -> None:
        """The parent cannot make more for now."""
        if self.engine:
            self.engine.lack(problem or errno.ENOBUFS)

    def _extend(self) -> None:
        engine, table = self.engine, self._lent.table
        if engine is None or table is None:
            return
        try:
            engine.extend(self._lent.carriers, self._lent.slots)
        except (UnitError, OSError) as problem:
            if not self.short:
                self._logs.say(messages.SOCKETS_LACK, table.grown, problem)
            self.short = True
            engine.lack(errno.EMFILE)
            self._reactor.call_later(_RETRY, self._extend)
        else:
            self.short = False
