"""The configuration as frozen data; SPEC 8 is the list of its keys.

Durations are seconds, sizes bytes, and 0 means no limit. Nothing here checks anything: a
Config that exists was read by load.parse and is right.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from udpproxy.config.addresses import endpoint
from udpproxy.config.model import NO_RATE, Address, InstanceConfig, Name, Network, Ports, Rate

SEGMENTATION = ("auto", "off")
KEEP = "keep"
"""`dscp`: the one of each datagram is kept."""

CLIENTS_PORT = -1
"""In the place of a port's number: the one that the client writes from."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """`*.domain` in `from`: every client whose verified name ends so."""

    domain: str

    def __str__(self) -> str:
        return f"*.{self.domain}"

    def fits(self, name: str) -> bool:
        """`name` in lower case, without a final dot."""
        return name.endswith(f".{self.domain}")


class SessionType(enum.Enum):
    """Who may reply in a session (SPEC 3)."""

    NORMAL = "normal"
    ONE_WAY = "one-way"
    ANY_PORT = "any-port"
    ANY_SOCK = "any-sock"
    BROADCAST = "broadcast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a session ends by itself, and what it or its client may not exceed; the key names with
    "-" for "_"."""

    idle: float = 60.0
    lifetime: float = 0.0
    upload_datagrams: int = 0
    download_datagrams: int = 0
    upload_bytes: int = 0
    download_bytes: int = 0
    silent: float = 0.0
    new_sessions_per_client: Rate = NO_RATE
    datagrams_per_client: Rate = NO_RATE
    amplification: int = 0
    """Downloads in bytes are at most so many times uploads, and 512."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one listener is: an address, with its zone, or all of an interface; and a port."""

    address: Address
    port: int
    interface: str = ""
    transparent: bool = False
    """It also takes what the firewall redirects and was sent to others."""

    def __str__(self) -> str:
        where = f" on {self.interface}" if self.interface else ""
        return f"{self.address} port {self.port}{where}"

    @property
    def link(self) -> str:
        """The interface without which it cannot be; "": it can without any."""
        zone = self.address.scope_id if isinstance(self.address, IPv6Address) else ""
        return self.interface or zone or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """One `[[listen]]`: a socket for each port, and at an interface for each version of IP.

    `addresses` has one, or of an interface those that stand for all of it.
    """

    addresses: tuple[Address, ...]
    interface: str = ""
    ports: tuple[Ports, ...]
    groups: tuple[Address, ...] = ()
    """Multicast groups to join."""
    transparent: bool = False
    header_from: tuple[Network, ...] = ()
    """Who sends PROXY headers, and nobody else may send anything; none: nobody does."""
    line: int = field(compare=False)  # a listener that moved in the file is the same listener

    def __str__(self) -> str:
        return self.interface or str(self.addresses[0])

    def places(self) -> Iterator[Place]:
        """Each of them, in the order of the file."""
        for address in self.addresses:
            for ports in self.ports:
                for port in ports:
                    yield Place(address, port, self.interface, self.transparent)

    @property
    def count(self) -> int:
        """Of ports."""
        return sum(map(len, self.ports))

    def has(self, port: int) -> bool:
        """Is it one of its ports?"""
        return any(port in ports for ports in self.ports)

    def place_of(self, port: int) -> int:
        """The how many-th of its ports that is, from 0 on."""
        before = 0
        for ports in self.ports:
            if port in ports:
                return before + port - ports.first
            before += len(ports)
        raise ValueError(f"{self} has no port {port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One item of `to`: None means any."""

    host: Network | Name | None
    ports: Ports | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a session is plugged to. Ports None: the one that the client wrote to; several: the
    first for the listener's first, and so on."""

    host: Address | Name
    ports: Ports | None

    def __str__(self) -> str:
        if isinstance(self.host, Name):
            return str(self.host) if self.ports is None else f"{self.host}:{self.ports}"
        if self.ports is None:
            return f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return endpoint(self.host, self.ports)

    def port(self, listened: int, place: int) -> int:
        """For a client that wrote to the port `listened`, the listener's `place`-th."""
        if self.ports is None:
            return listened
        return self.ports.first + (place if len(self.ports) > 1 else 0)


BALANCES = ("client", "client-port", "least-sessions", "two-choices")
DOWN_SESSIONS = ("keep", "move", "close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a server that is well answers: `send` is answered by something that has `expect` in it
    (bytes), `dns` is a question such as "example.org A", `ntp` asks for the time."""

    send: bytes = b""
    expect: bytes = b""
    dns: str = ""
    ntp: bool = False
    interval: float = 5.0
    timeout: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How it is known whether a server of a group lives."""

    passive: bool = True
    fall: int = 3
    rise: int = 2
    retry: float = 10.0
    probe: Probe | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One `[[servers]]`: each of its members has a weight, standby ones have 1."""

    name: str
    members: tuple[Server, ...]
    weights: tuple[int, ...]
    standby: tuple[Server, ...] = ()
    """Used while no member is up."""
    balance: str = BALANCES[0]
    down_sessions: str = DOWN_SESSIONS[0]
    health: Health = Health()
    line: int = field(default=0, compare=False)

    @property
    def servers(self) -> tuple[Server, ...]:
        """All of them, standby last."""
        return self.members + self.standby


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """One item of `time`: every part that is given must hold, None means always.

    `days` are days of the month 1..31, `months` 1..12, `weekdays` 0..6 with Monday 0, each as a
    set already unrolled (ranges that wrap included). `minutes` is (start, end) in minutes since
    midnight, end excluded; end <= start wraps over midnight and then belongs to the day on which
    it began. `dates` is (first, last) as (month, day), last included; last < first wraps over the
    year. `text` is the item as written.
    """

    days: frozenset[int] | None
    months: frozenset[int] | None
    weekdays: frozenset[int] | None
    minutes: tuple[int, int] | None
    text: str
    dates: tuple[tuple[int, int], tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionName:
    """`extension`: a class in an installed Python module, as `module:Class`."""

    module: str
    attribute: str
    path: tuple[str | int, ...] = field(
        compare=False
    )  # where it stands, for whoever cannot find it
    line: int = field(compare=False)

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One `[[session-acl]]`: conditions (None: any), then what is done with the session."""

    name: str
    source: tuple[Network | Name | Pattern, ...] | None
    destinations: tuple[Destination, ...] | None
    time: tuple[Period, ...] | None
    not_time: tuple[Period, ...] | None
    transparent: bool | None
    """Of datagrams that were sent to others, or to this host; None: of both."""
    accept: bool
    type: SessionType
    server: Server | None
    group: Group | None = None
    """One of its servers, in the place of `server`."""
    sources: tuple[Address | None, ...]
    """From which addresses the server is written to, in that order; None: the client's own."""
    fallback: bool
    """Where none of them can be had: from the one that the system chooses."""
    source_port: int = 0
    """From which port: CLIENTS_PORT, a number, or 0, and the system chooses."""
    broadcast_network: Network | None
    reply_any_port: bool
    unreachable_close: bool
    resolve_policy: str
    reload_policy: str
    header: str = ""
    """Which header each datagram to the server has (session/proxy_header.py); "": none."""
    mirrors: tuple[Server, ...] = ()
    """Who gets copies of uploads: each is an address, with one port or the client's."""
    dscp: int | str = 0
    """Of what goes to servers and to clients, or KEEP."""
    limits: Limits
    extension: ExtensionName | None
    line: int = field(compare=False)

    @property
    def servers(self) -> tuple[Server, ...]:
        """Where its sessions may go; none: it denies, or they go where their clients wrote to."""
        if not self.accept:
            return ()
        if self.group:
            return self.group.servers
        return (self.server,) if self.server else ()

    @property
    def to_addressed(self) -> bool:
        """Do its sessions go where their clients wrote to?"""
        return self.accept and self.server is None and self.group is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(InstanceConfig):
    """One instance's file, whole."""

    max_sessions: int
    listen: tuple[Listen, ...]
    rules: tuple[Rule, ...] = ()
    groups: tuple[Group, ...] = ()
    max_sessions_per_client: int = 0
    client_prefix6: int = 64
    """IPv6 clients whose addresses begin with so many equal bits count as one."""
    new_sessions: Rate = NO_RATE
    evict_idlest: bool = False
    singleproc: bool = False
    workers: int = 1
    engine: str = "auto"
    segmentation: str = SEGMENTATION[0]
    use_all_ports: bool = False
    ports: int = field(default=0, compare=False)
    """How many ports of this host the sessions may have; 0: as many as there are."""
    ports_each: int = field(default=0, compare=False)
    """The same, of one source address."""

    def receivers(self) -> tuple[Address, ...]:
        """Each host that gets copies, once, in the order of the file."""
        found = (mirror.host for rule in self.rules if rule.accept for mirror in rule.mirrors)
        return tuple(dict.fromkeys(host for host in found if not isinstance(host, Name)))

    def headed(self) -> dict[Place, tuple[Network, ...]]:
        """Listen.header_from of each place where that is given."""
        return {
            place: listen.header_from
            for listen in self.listen
            if listen.header_from
            for place in listen.places()
        }
