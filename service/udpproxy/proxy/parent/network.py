"""Changes of this host's interfaces, addresses and routes, as the kernel tells (rtnetlink(7)).

Of a message only its kind is looked at. Who hears of a change asks the system how things are now,
so that it does no harm if the kernel had no room for some of the messages, and a storm of them is
one change: a router may have 100,000 routes.
"""

from __future__ import annotations

import enum
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from udpproxy.process.loop import Reactor, Timer
from udpproxy.proxy.parent.listening import links
from udpproxy.proxy.session.limits import Allowance

_MESSAGES_A_TURN = 64
"""More than so many that wait are a storm, which is looked at now and then only."""
_ROOM = 128 << 10
"""Bytes of messages that the kernel keeps for us: some hundred of them, or a storm would be long
over when the last is read."""
_MOST_KEPT = 4096
"""No message takes less than 64 bytes of it."""
_REST = 0.1
"""Seconds between two looks at a storm; what the kernel has no room for meanwhile is lost."""
_SETTLE = 0.02
"""Seconds from the first message to the word about it: one act is often several messages."""
CHANGES_AT_ONCE = 4
SECONDS_PER_CHANGE = 1.0
"""How often that word is given: those who hear it have work to do."""
_LARGEST = 1 << 16

_GROUPS = (
    1,  # RTNLGRP_LINK
    5,  # RTNLGRP_IPV4_IFADDR
    7,  # RTNLGRP_IPV4_ROUTE
    8,  # RTNLGRP_IPV4_RULE
    9,  # RTNLGRP_IPV6_IFADDR
    11,  # RTNLGRP_IPV6_ROUTE
    19,  # RTNLGRP_IPV6_RULE
    32,  # RTNLGRP_NEXTHOP
)  # of linux/rtnetlink.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_NEWADDR = 20


class Kind(enum.Flag):
    """What messages are about."""

    NOTHING = 0
    LINKS = enum.auto()
    ADDRESSES = enum.auto()
    ROUTES = enum.auto()
    ANYTHING = LINKS | ADDRESSES | ROUTES


_KINDS = {
    4: Kind.ANYTHING,  # NLMSG_OVERRUN
    # IPv4 routes go with their interface, and no message says so.
    16: Kind.LINKS | Kind.ROUTES,  # RTM_NEWLINK
    17: Kind.LINKS | Kind.ROUTES,  # RTM_DELLINK
    20: Kind.ADDRESSES,  # RTM_NEWADDR
    21: Kind.ADDRESSES,  # RTM_DELADDR
    24: Kind.ROUTES,  # RTM_NEWROUTE
    25: Kind.ROUTES,  # RTM_DELROUTE
    32: Kind.ROUTES,  # RTM_NEWRULE
    33: Kind.ROUTES,  # RTM_DELRULE
    104: Kind.ROUTES,  # RTM_NEWNEXTHOP
    105: Kind.ROUTES,  # RTM_DELNEXTHOP
}


def kind_of(packet: bytes) -> Kind:
    """Of all messages in a packet; one that cannot be read may have said anything."""
    found, at = Kind.NOTHING, 0
    while at < len(packet):
        if len(packet) - at < _HEADER.size:
            return Kind.ANYTHING
        length, kind, *_ = _HEADER.unpack_from(packet, at)
        if not _HEADER.size <= length <= len(packet) - at:
            return Kind.ANYTHING
        found |= _KINDS.get(kind, Kind.NOTHING)
        at += (length + 3) & ~3
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """What may be different now. An interface that came and went meanwhile is in neither."""

    appeared: Mapping[str, int]
    """Interfaces that there were not, by name, with their numbers; also one that was deleted and
    made again, or has another name."""
    gone: frozenset[str]
    """Names that no interface has any more."""
    addresses: bool
    routes: bool


class Network:
    """Calls `on_change` a moment after something has changed, at most CHANGES_AT_ONCE times in a
    row and then once in SECONDS_PER_CHANGE. Where that fails with OSError, as without descriptors,
    it is tried again until it does not. `links` are those of the last time: name, number."""

    def __init__(self, reactor: Reactor, on_change: Callable[[Change], object]) -> None:
        """OSError where this process may not listen, or the kernel does not tell."""
        self._reactor = reactor
        self._on_change = on_change
        self._news = Kind.NOTHING
        self._soon: Timer | None = None
        self._rest: Timer | None = None
        self._rate = Allowance(CHANGES_AT_ONCE, round(SECONDS_PER_CHANGE * 1e9))
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            self._socket.bind((0, sum(1 << (group - 1) for group in _GROUPS)))
            self.links = links()
        except OSError:
            self._socket.close()
            raise
        reactor.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Hear no more."""
        for timer in (self._soon, self._rest):
            if timer:
                timer.cancel()
        self._reactor.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                packet = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the kernel had no room for some of them
                self._drain()
                self._note(Kind.ANYTHING)
                break
            self._note(kind_of(packet))
        self._reactor.remove_reader(self._socket.fileno())
        self._rest = self._reactor.call_later(_REST, self._rested)

    def _drain(self) -> None:
        """Until then the kernel keeps no more, and does not say so again."""
        for _ in range(_MOST_KEPT):
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError:
                continue

    def _rested(self) -> None:
        self._rest = None
        self._reactor.add_reader(self._socket.fileno(), self._readable)

    def _note(self, news: Kind) -> None:
        self._news |= news
        if self._news and self._soon is None:
            allowed = self._rate.allows(time.monotonic_ns())
            delay = _SETTLE if allowed else SECONDS_PER_CHANGE
            self._soon = self._reactor.call_later(delay, self._tell)

    def _tell(self) -> None:
        self._soon = None
        news, self._news = self._news, Kind.NOTHING
        self._rate.pay(time.monotonic_ns())
        try:
            self._see(news)
        except OSError:
            self._news |= news
            if self._soon is None:
                self._soon = self._reactor.call_later(SECONDS_PER_CHANGE, self._tell)

    def _see(self, news: Kind) -> None:
        before = self.links
        now = links() if Kind.LINKS in news else before
        self._on_change(
            Change(
                appeared={name: now[name] for name in now if before.get(name) != now[name]},
                gone=frozenset(before.keys() - now.keys()),
                addresses=Kind.ADDRESSES in news,
                routes=Kind.ROUTES in news,
            )
        )
        self.links = now


_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=8BI")
_RTMSG_TYPE, _RTN_LOCAL = 7, 2
_GETROUTE, _NEWROUTE, _REQUEST = 26, 24, 1
_RTA_DST, _RTA_MARK = 1, 16
# Of the networks for documentation: nobody has a route of his own there.
_ELSEWHERE = {4: bytes((192, 0, 2, 1)), 6: bytes.fromhex("20010db8" + "00" * 11 + "01")}
_GETADDR, _DUMP, _DONE, _ERROR = 22, 0x301, 3, 2  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_MOST_PARTS = 4096
"""Of a dump, each with some tens of addresses."""


def own_addresses() -> frozenset[bytes]:
    """This host's addresses, packed; OSError where the kernel does not tell."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    found: set[bytes] = set()
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(1.0)
        asked = _HEADER.size + _IFADDRMSG.size
        sock.send(_HEADER.pack(asked, _GETADDR, _DUMP, 1, 0) + _IFADDRMSG.pack(0, 0, 0, 0, 0))
        for _ in range(_MOST_PARTS):
            packet = sock.recv(_LARGEST)
            for kind, body in _parts(packet):
                if kind in (_DONE, _ERROR):
                    return frozenset(found)
                attributes = dict(_attributes(body[_IFADDRMSG.size :]))
                # Of a tunnel the first is ours, and the other the far end's.
                address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
                if kind == _NEWADDR and address:
                    found.add(address)
    return frozenset(found)


def takes_marked(version: int, mark: int) -> bool:
    """Would this host take a datagram of that mark for its own, wherever it is sent to? As the
    routes are now; OSError where the kernel does not tell."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = _ELSEWHERE[version]
    told = _attribute(_RTA_DST, address) + _attribute(_RTA_MARK, struct.pack("=I", mark))
    body = _RTMSG.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0) + told
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(1.0)
        sock.send(_HEADER.pack(_HEADER.size + len(body), _GETROUTE, _REQUEST, 1, 0) + body)
        for kind, answer in _parts(sock.recv(_LARGEST)):
            if kind == _NEWROUTE:
                return answer[_RTMSG_TYPE] == _RTN_LOCAL
    return False  # no route at all


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _parts(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message in a packet; one that cannot be read ends them."""
    at = 0
    while len(packet) - at >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(packet, at)
        if not _HEADER.size <= length <= len(packet) - at:
            return
        yield kind, packet[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The same of struct rtattr."""
    at = 0
    while len(body) - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if not _ATTRIBUTE.size <= length <= len(body) - at:
            return
        yield kind, body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
