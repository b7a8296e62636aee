"""Which server of a group a new session gets (SPEC 10); engine/relay/balance.c says the same in C.

`client` and `client-port` are a weighted rendezvous: each server draws a number by a hash of the
client and of itself, and the lowest one has it. So a client always meets the same server, and one
that comes or goes moves its own share alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from udpproxy.proxy.session.siphash import siphash

MOST_MEMBERS = 8192
"""Numbers of servers; 0 is nobody's."""

UP, DOWN, DRAINED = 0, 1, 2
"""Bits of a server's state. DOWN: used while none is up. DRAINED: it gets no session."""


class Candidate(NamedTuple):
    """A server of a group, in a verdict."""

    server: tuple[str, int]
    identity: int
    """What it draws its numbers with: of its name, so that it is the same after a restart."""
    weight: int
    member: int
    """Its number in Members."""
    standby: bool


def identity(text: str) -> int:
    """Of a server as the configuration names it."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(slots=True)
class Member:
    """How one server does."""

    state: int = UP
    trial: bool = False
    """The next session is a trial for it, though it is down."""
    sessions: int = 0
    errors: int = 0
    """Sessions of which ICMP said that it is unreachable, since its last answer."""
    unanswered: int = 0
    """Sessions that ended without any answer, since its last one."""
    answered: int = 0
    """First answers of sessions."""


class Members:
    """All servers of groups by number, and which of them gets a session."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}

    def __getitem__(self, number: int) -> Member:
        return self._members.setdefault(number, Member())

    def join(self, number: int) -> None:
        """A session is its from now on; 0: nobody's, here and below."""
        if number:
            self[number].sessions += 1

    def leave(self, number: int) -> None:
        """It is no more."""
        if number:
            self[number].sessions -= 1

    def answers(self, number: int) -> None:
        """A session's first answer, or its first since ICMP errors came."""
        if number:
            member = self[number]
            member.errors = member.unanswered = 0
            member.answered += 1

    def choose(
        self,
        candidates: Sequence[Candidate],
        balance: str,
        key: tuple[int, int],
        client: tuple[bytes, int],
        number: int,
    ) -> Candidate | None:
        """For a session's client (packed address, port) and number; None: there is none."""
        for one in candidates:
            member = self[one.member]
            if member.trial and not member.state & DRAINED:
                member.trial = False
                return one
        usable = self._usable(candidates)
        if not usable:
            return None
        if balance == "two-choices":
            two = _best(usable, key, [number])[:2]
            return min(two, key=self._load)  # the first of equal ones
        if balance == "least-sessions":
            # Of equal ones in turn, as far as chance goes: the same client may have many sessions.
            least = min(self._load(one) for one in usable)
            usable = [one for one in usable if self._load(one) == least]
            return _best(usable, key, [number])[0]
        return _best(usable, key, _words(client, with_port=balance != "client"))[0]

    def _usable(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those that are up; else standby ones that are; else all."""
        there = [one for one in candidates if not self[one.member].state & DRAINED]
        up = [one for one in there if self[one.member].state == UP]
        members = [one for one in up if not one.standby]
        return members or up or there

    def _load(self, one: Candidate) -> float:
        return self[one.member].sessions / one.weight


def _words(client: tuple[bytes, int], *, with_port: bool) -> list[int]:
    """IPv6 clients count by their network."""
    address = int.from_bytes(client[0][:8].ljust(8, b"\0"), "little")
    return [address, client[1]] if with_port else [address]


def _best(
    candidates: Iterable[Candidate], key: tuple[int, int], words: list[int]
) -> list[Candidate]:
    return sorted(candidates, key=lambda one: _draw(one, key, words))


def _draw(one: Candidate, key: tuple[int, int], words: list[int]) -> float:
    """The lower the better: exponentially distributed, by its weight (weighted rendezvous)."""
    drawn = ((siphash(key, [*words, one.identity]) >> 11) + 0.5) / (1 << 53)
    return -math.log(drawn) / one.weight
