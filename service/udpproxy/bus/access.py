"""Who calls, and how many calls he may have under way. Pure."""

from __future__ import annotations

import collections
from collections.abc import Hashable
from dataclasses import dataclass

Share = tuple[Hashable, int]
"""What a call counts for, and how many calls may."""

MOST_OF_SENDER = 4
MOST_OF_USER = 8
MOST_OF_STRANGERS = 32
MOST_ASKING = 2
"""Of a user, while he is asked for a password."""
MOST_OF_TRUSTED = 64
MOST_UNSORTED_OF_SENDER, MOST_UNSORTED = 16, 4096
"""Whose sender the bus is still to name: it does so at once, but has a question for each."""
MOST_READ, MOST_SILENT = 16, 4
"""Of a sender between two turns of the loop, and of all to whom the answer does not matter."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is behind a name on the bus."""

    name: str
    uid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rights:
    """Who needs nobody's leave: root, the members of `group`, and who runs a session bus."""

    group: int | None
    user: int | None
    never: int | None = None
    """The user of children, whose group is the same."""

    def trusted(self, caller: Caller) -> bool:
        """May he do everything?"""
        if caller.uid == self.never is not None:
            return False
        return caller.uid in (0, self.user) or self.group in caller.groups


class Places:
    """Calls under way, counted by what they have in common."""

    def __init__(self) -> None:
        self._taken: collections.Counter[Hashable] = collections.Counter()

    def take(self, *shares: Share) -> bool:
        """One place in each of them, or in none."""
        if any(self._taken[key] >= most for key, most in shares):
            return False
        self._taken.update(key for key, _ in shares)
        return True

    def give(self, *shares: Share) -> None:
        """Back what was taken."""
        for key, _ in shares:
            self._taken[key] -= 1
            if self._taken[key] <= 0:
                del self._taken[key]

    def __len__(self) -> int:
        return len(self._taken)


def shares(caller: Caller, *, trusted: bool) -> tuple[Share, ...]:
    """Of a call by somebody who is known."""
    if trusted:
        return (("trusted", MOST_OF_TRUSTED),)
    return (
        (("sender", caller.name), MOST_OF_SENDER),
        (("user", caller.uid), MOST_OF_USER),
        ("strangers", MOST_OF_STRANGERS),
    )


def unsorted(sender: str) -> tuple[Share, ...]:
    """Of a call by a sender of whom nothing is known yet."""
    return (("unsorted", sender), MOST_UNSORTED_OF_SENDER), ("unsorted", MOST_UNSORTED)


def reading(sender: str, *, silent: bool) -> tuple[Share, ...]:
    """Of a call until the loop turns; `silent`: nobody waits for the answer."""
    own = ("reading", sender), MOST_READ
    return (own, ("silent", MOST_SILENT)) if silent else (own,)


def asking(caller: Caller) -> tuple[Share, ...]:
    """Of a call that waits for a password."""
    return ((("asking", caller.uid), MOST_ASKING),)
