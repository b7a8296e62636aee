"""The pool of sockets towards servers grows while sessions come.

REG asks when few slots with sockets are left. Each time there are twice as many afterwards, so that
it asks seldom, and at most MOST_AT_ONCE more, so that it is not long before it can ask again. One
carrier of each family is made in a turn of the loop, some milliseconds of work, and lent at once.
The pool never shrinks, so a REG that lies has us make at most what max-sessions allows, once.
"""

from __future__ import annotations

import asyncio

from udpproxy.instance.service import Instance
from udpproxy.process import messages, wire
from udpproxy.proxy.engine import pool
from udpproxy.proxy.parent.resources import Resources

MOST_AT_ONCE = 2000
"""Slots that an answer to REG brings: eight carriers of each family."""
_RETRY = 1.0
"""Seconds until it is tried again where the system had no more."""


class Growth:
    """As far as `max-sessions`."""

    def __init__(self, instance: Instance, resources: Resources) -> None:
        self._instance = instance
        self._resources = resources
        self._wanted = 0
        """For how many slots there are to be sockets."""
        self._next: asyncio.Handle | None = None
        self._problem: OSError | None = None
        """Why there are not so many for now."""

    def ask(self) -> None:
        """REG will soon have used what it has. What is on its way already is not asked for."""
        if self._next is None:
            table = self._resources.table
            more = min(max(table.grown, pool.BATCH), MOST_AT_ONCE)
            self._wanted = min(table.grown + more, table.capacity)
            self._go_on(soon=True)
        elif self._problem:
            self._tell_lack(self._problem)  # it is another one

    def close(self) -> None:
        """No more."""
        if self._next:
            self._next.cancel()

    def _go_on(self, *, soon: bool) -> None:
        loop = asyncio.get_running_loop()
        if self._resources.table.grown >= self._wanted:
            self._next = None
            self._instance.stored_more()
        elif soon:
            self._next = loop.call_soon(self._step)
        else:
            self._next = loop.call_later(_RETRY, self._step)

    def _step(self) -> None:
        grown = self._resources.table.grown
        try:
            self._resources.grow(min(grown + pool.BATCH, self._wanted))
        except OSError as problem:
            if self._problem is None:
                self._instance.logs.say(messages.SOCKETS_LACK, grown, pool.why(problem))
            self._problem = problem
            self._tell_lack(problem)
            self._go_on(soon=False)
            return
        self._problem = None
        if reg := self._instance.peers.get("reg"):
            self._resources.lend_more(reg.link)
        self._go_on(soon=True)

    def _tell_lack(self, problem: OSError) -> None:
        if reg := self._instance.peers.get("reg"):
            reg.link.send(wire.Tell("lack", {"errno": problem.errno or 0}))
