"""What a configuration gives a resolver to do: all that ACR and APR know of any service's file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from udpproxy.config.model import Log, Resolver


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`names` are looked up ahead, again and again; `on_demand`: somebody will ask for more."""

    names: tuple[str, ...]
    on_demand: bool
    resolver: Resolver
    log: Log


Read = Callable[[str, str], Assignment]
"""The service's own: from the text of a configuration that it has found right, and where that is
from."""
