"""What a child is for, and whoever is told of the ends of children."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A kind, or one of several of a kind: `name` is `reg`, or `peer:hosta`."""

    name: str
    vital: bool = False
    """Without it nothing works: the instance is ready with it, and degraded while it is away."""
    essential: bool = True
    """Where it cannot be kept alive the instance ends; else that child alone has failed."""
    spoken: str = ""
    """What people call it, where that is not its name."""


class ChildEvents(Protocol):
    """Who hears what becomes of children."""

    def ended_unasked(self, role: str, *, killed: bool | None) -> None:
        """`killed`: by somebody else, whatever it was doing; None: nobody knows."""

    def given_up(self, role: str) -> None:
        """It cannot be kept alive."""

    def dismiss(self, role: str) -> None:
        """Tell it to leave, over its link."""


class Child(Protocol):
    """What is known of the process in a role; `pid` is 0 while there is none."""

    pid: int
