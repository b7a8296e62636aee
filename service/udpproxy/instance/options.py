"""Where and how an instance runs, and the statuses with which a run can end."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from udpproxy.process.privileges import Account

OK, UNCLEAN, GAVE_UP, INTERNAL = 0, 1, 69, 70
"""Told to terminate, and all left in order, or not; a child cannot be kept alive; a mistake of
ours."""


class Mode(enum.Enum):
    """Who starts the children (SPEC 1)."""

    FORK = "fork"
    UNITS = "units"
    SINGLE = "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where and how an instance runs."""

    instance: str
    path: Path
    directory: Path
    mode: Mode
    session_bus: bool
    account: Account
    keep: frozenset[int] | None
    """The capabilities that stay once everything is opened; None: as the system has it."""
