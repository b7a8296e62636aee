"""What the commands of a product need to know of it; loaded for each of them, so nothing large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from udpproxy.identity import Identity
from udpproxy.process.verbs import Arguments, Verb
from udpproxy.process.wire import Plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`columns`: of the table that a verb answers, by its name. `over_bus` asks an instance on
    D-Bus."""

    identity: Identity
    verbs: Mapping[str, Verb]
    columns: Mapping[str, tuple[str, ...]]
    over_bus: Callable[[str, Verb, Arguments], Plain]
    processes: str
    """Of an instance, for help."""
