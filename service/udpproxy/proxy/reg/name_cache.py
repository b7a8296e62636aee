"""What REG knows of names: told by ACR, asked of APR, kept for as long as it was promised.

Rules. ACR's word on a name in the configuration holds until it says otherwise. APR's answers
fill what ACR does not know, and have an end. Clients' names are bounded in number; the oldest
goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from udpproxy.config.model import Address
from udpproxy.resolver.resolved import ClientNames, Resolved

MOST_CLIENTS = 16_384
"""Clients whose names are kept: some 8 MB."""

LEAST = 1.0
"""Seconds that an answer of APR holds at least: those who waited for it must still find it."""

Unknown = Callable[[Address], tuple[str, ...] | None]


@dataclass(frozen=True, slots=True)
class NameChange:
    """What is known `now`, and the addresses `before`; None: nobody has to be told."""

    now: Resolved
    before: tuple[Address, ...] | None

    @property
    def name(self) -> str:
        """What has changed."""
        return self.now.name


class NameCache:
    """See policy.rules.NameView. `unknown` is called for a client that nothing is known of: it sees
    to it that somebody is asked (None), or knows that nobody can be (no names)."""

    def __init__(self, clock: Callable[[], float], unknown: Unknown) -> None:
        self._clock = clock
        self._unknown = unknown
        self._from_acr: dict[str, Resolved] = {}
        self._from_apr: dict[str, tuple[Resolved, float]] = {}
        """With the moment until which it holds; so the clients."""
        self._clients: OrderedDict[Address, tuple[tuple[str, ...], float]] = OrderedDict()

    def addresses(self, name: str) -> tuple[Address, ...]:
        """ACR's, else what APR found out meanwhile."""
        told = self._from_acr.get(name)
        if told and told.addresses:
            return told.addresses
        if name not in self._from_apr:
            return ()
        found, until = self._from_apr[name]
        return found.addresses if until > self._clock() else ()

    def names_of(self, client: Address) -> tuple[str, ...] | None:
        """None: somebody is asked."""
        names = self.cached(client)
        return self._unknown(client) if names is None else names

    def cached(self, client: Address) -> tuple[str, ...] | None:
        """The same, without asking anybody."""
        names, until = self._clients.get(client, ((), 0.0))
        return names if until > self._clock() else None

    def from_acr(self, word: Resolved) -> NameChange | None:
        """None: the same as before."""
        old = self.addresses(word.name)
        self._from_acr[word.name] = word
        self._from_apr.pop(word.name, None)
        return NameChange(word, old) if set(old) != set(word.addresses) else None

    def from_apr(self, word: Resolved) -> NameChange | None:
        """None: it brings nothing, or more is known already."""
        if self.addresses(word.name) or not word.addresses:
            return None
        self._from_apr[word.name] = word, self._end(word.ttl)
        return NameChange(word, ())

    def expired(self) -> list[NameChange]:
        """APR's answers whose time is over: nobody has them any more."""
        now = self._clock()
        gone = [word for word, until in self._from_apr.values() if until <= now]
        for word in gone:
            del self._from_apr[word.name]
        return [NameChange(Resolved(word.name), word.addresses) for word in gone]

    def put_client(self, client: Address, found: ClientNames) -> None:
        """The client's verified names, or that it has none."""
        self._clients.pop(client, None)
        while len(self._clients) >= MOST_CLIENTS:
            self._clients.popitem(last=False)
        self._clients[client] = found.names, self._end(found.ttl)

    def keep(self, names: Iterable[str]) -> None:
        """Another configuration: other names are forgotten."""
        wanted = set(names)
        self._from_acr = {name: word for name, word in self._from_acr.items() if name in wanted}
        self._from_apr = {name: kept for name, kept in self._from_apr.items() if name in wanted}

    def forget_clients(self) -> None:
        """They are asked for anew."""
        self._clients.clear()

    def figures(self) -> dict[str, int]:
        """For info."""
        known = {*(name for name, word in self._from_acr.items() if word.addresses)}
        known |= self._from_apr.keys()
        return {"names-known": len(known), "client-names-kept": len(self._clients)}

    def _end(self, ttl: float) -> float:
        return self._clock() + max(ttl, LEAST)
