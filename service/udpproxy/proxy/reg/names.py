"""What REG knows of names: told by ACR, asked of APR, kept for as long as it was promised.

Rules. ACR's word on a name in the configuration holds until it says otherwise. APR's answers
fill what ACR does not know, and have an end. Clients' names are bounded in number; the oldest
goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from udpproxy.config.model import Address

MOST_CLIENTS = 16_384
"""Clients whose names are kept: some 8 MB."""

LEAST = 1.0
"""Seconds that an answer of APR holds at least: those who waited for it must still find it."""

Unknown = Callable[[Address], tuple[str, ...] | None]


class KnownNames:
    """See policy.acl.NameView. `unknown` is called for a client that nothing is known of: it sees
    to it that somebody is asked (None), or knows that nobody can be (no names)."""

    def __init__(self, clock: Callable[[], float], unknown: Unknown) -> None:
        self._clock = clock
        self._unknown = unknown
        self._told: dict[str, tuple[Address, ...]] = {}
        self._found: dict[str, tuple[tuple[Address, ...], float]] = {}
        self._clients: OrderedDict[Address, tuple[tuple[str, ...], float]] = OrderedDict()

    def addresses(self, name: str) -> tuple[Address, ...]:
        """ACR's, else what APR found out meanwhile."""
        told = self._told.get(name)
        if told:
            return told
        found, until = self._found.get(name, ((), 0.0))
        return found if until > self._clock() else ()

    def names_of(self, client: Address) -> tuple[str, ...] | None:
        """None: somebody is asked."""
        names = self.cached(client)
        return self._unknown(client) if names is None else names

    def cached(self, client: Address) -> tuple[str, ...] | None:
        """The same, without asking anybody."""
        names, until = self._clients.get(client, ((), 0.0))
        return names if until > self._clock() else None

    def told(self, name: str, addresses: tuple[Address, ...]) -> tuple[Address, ...] | None:
        """By ACR. What was known before; None: the same."""
        old = self.addresses(name)
        self._told[name] = addresses
        self._found.pop(name, None)
        return old if set(old) != set(addresses) else None

    def found(self, name: str, addresses: tuple[Address, ...], ttl: float) -> bool:
        """By APR. True: the name had no address before."""
        if self.addresses(name) or not addresses:
            return False
        self._found[name] = addresses, self._clock() + max(ttl, LEAST)
        return True

    def expired(self) -> list[tuple[str, tuple[Address, ...]]]:
        """APR's answers whose time is over, with what they were: nobody has them any more."""
        now = self._clock()
        gone = [(name, found) for name, (found, until) in self._found.items() if until <= now]
        for name, _ in gone:
            del self._found[name]
        return gone

    def client(self, client: Address, names: tuple[str, ...], ttl: float) -> None:
        """The client's verified names, or that it has none."""
        self._clients.pop(client, None)
        while len(self._clients) >= MOST_CLIENTS:
            self._clients.popitem(last=False)
        self._clients[client] = names, self._clock() + max(ttl, LEAST)

    def keep(self, names: Iterable[str]) -> None:
        """Another configuration: other names are forgotten."""
        wanted = set(names)
        self._told = {name: found for name, found in self._told.items() if name in wanted}
        self._found = {name: found for name, found in self._found.items() if name in wanted}

    def forget_clients(self) -> None:
        """They are asked for anew."""
        self._clients.clear()

    def figures(self) -> dict[str, int]:
        """For info."""
        known = {*(name for name, found in self._told.items() if found), *self._found}
        return {"names-known": len(known), "client-names-kept": len(self._clients)}
