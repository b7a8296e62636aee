"""What a configuration gives a resolver to do: all that ACR and APR know of any service's file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from udpproxy.config.model import Address, Log, Name, Resolver


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A server that is asked whether it lives: `group` and `server` are what the service knows it
    by, `header` stands before what it is sent. One of `send` (answered by what has `expect` in
    it), `dns` (a name and a type) and `ntp`."""

    group: str
    server: str
    host: Address | Name
    port: int
    send: bytes = b""
    expect: bytes = b""
    dns: str = ""
    ntp: bool = False
    interval: float
    timeout: float
    header: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`names` are looked up ahead, again and again; `on_demand`: somebody will ask for more."""

    names: tuple[str, ...]
    on_demand: bool
    probes: tuple[Probed, ...] = ()
    resolver: Resolver
    log: Log


Read = Callable[[str, str], Assignment]
"""The service's own: from the text of a configuration that it has found right, and where that is
from."""
