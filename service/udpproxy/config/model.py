"""What a file of any of our services can hold, as frozen data.

Durations are seconds, and 0 means no limit. Nothing here checks anything: what exists was read and
is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Name:
    """A host's name in place of its address; lower case, with its final dot if it has one."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """An inclusive range of ports; a single port has first == last."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a second, a minute or an hour; of none there are 0, and it is false."""

    count: int = 0
    unit: str = "s"

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}" if self else "0"

    @property
    def interval(self) -> int:
        """Nanoseconds from one to the next; 0: there is no rate."""
        return RATE_UNITS[self.unit] * 1_000_000_000 // self.count if self else 0


RATE_UNITS = {"s": 1, "min": 60, "h": 3600}
"""Seconds."""
NO_RATE = Rate()


@dataclass(frozen=True, slots=True, kw_only=True)
class NameServer:
    """One name server of `[resolver]`."""

    address: Address
    port: int = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """`[resolver]` (SPEC 5); servers empty: those of the system."""

    servers: tuple[NameServer, ...] = ()
    search: tuple[str, ...] = ()
    conf_timeout: float = 15.0
    initial_timeout: float = 1.0
    timeout: float = 2.0
    attempts: int = 2
    tcp_connect_timeout: float = 1.0
    min_ttl: float = 5.0
    max_ttl: float = 86400.0
    retry: float = 30.0
    negative_ttl: float = 300.0
    stale: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """`[log]` (SPEC 7): level 3..9; records is "same" or a path."""

    level: int = 6
    target: str = "auto"
    file: str | None = None
    facility: str = "daemon"
    records: str = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceConfig:
    """What the file of every instance has, whatever it serves (SPEC 8)."""

    stop_timeout: float = 10.0
    crash_limit: int = 5
    crash_window: float = 60.0
    stop_on_child_death: bool = False
    user: str | None = None
    group: str | None = None
    tag: str = ""
    resolver: Resolver = field(default_factory=Resolver)
    log: Log = field(default_factory=Log)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What `check` and the start say at warning level, ready to print."""
