"""What clients' datagrams come in by, as the Python engine has it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable, Iterator
from ipaddress import ip_address

from udpproxy.config.model import Network
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import Arrival, ListenerSocket, Reactor
from udpproxy.proxy.policy.hosts import NetSet
from udpproxy.proxy.session.index import Session


def _absent(*_: object) -> int:
    """No way to the client, for the listener's interface is not there."""
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


class Listening:
    """A listener and the sessions of its clients, by what their datagrams carry."""

    __slots__ = (
        "arrival",
        "given",
        "header_from",
        "receive",
        "reply",
        "reply_from",
        "sessions",
        "wildcard",
    )

    def __init__(self, given: ListenerSocket) -> None:
        self.sessions: dict[Hashable, Session] = {}
        self.wildcard = given.address.is_unspecified
        self.take(given)

    def take(self, given: ListenerSocket) -> None:
        """Datagrams come and go by this socket from now on."""
        self.given = given
        self.receive = given.socket.recvfrom
        self.reply: Callable[..., int] = _absent if given.absent else given.socket.sendto
        self.reply_from: Callable[..., int] = _absent if given.absent else given.socket.sendmsg
        packed = given.address.packed
        self.arrival = Arrival(packed, packed, 0, given.port)
        """Of every datagram, unless it is a wildcard or there are PROXY headers."""
        self.expect_headers(given.header_from)

    def expect_headers(self, header_from: tuple[Network, ...]) -> None:
        """See ListenerSocket."""
        self.header_from = NetSet(header_from) if header_from else None

    def believes(self, sender: tuple[str, int]) -> bool:
        """May he say whose datagrams he sends?"""
        if self.header_from is None:
            return False
        return ip_address(sender[0].partition("%")[0]) in self.header_from

    def key(self, client: tuple[str, int], arrival: Arrival) -> Hashable:
        """What tells a session's datagrams from others that come in here."""
        if arrival.via is not None:
            return arrival.via, client, arrival.addressed, arrival.port
        return (client, arrival.addressed) if self.wildcard else client


class Listened:
    """All listeners that there are, by number."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._listeners: dict[int, Listening] = {}
        self._by_port: dict[int, list[Listening]] = {}
        self._drops: dict[int, int] = {}

    def __getitem__(self, number: int) -> Listening:
        return self._listeners[number]

    def get(self, number: int) -> Listening | None:
        """None: there is none of that number."""
        return self._listeners.get(number)

    def enter(self, listener: ListenerSocket) -> Listening:
        """A new one, or another socket of one that there is."""
        listening = self._listeners.get(listener.number)
        if listening is None:
            listening = self._listeners[listener.number] = Listening(listener)
            self._by_port.setdefault(listener.port, []).append(listening)
        else:
            self.let_go(listening)
            listening.take(listener)
        self._drops[listener.number] = 0 if listener.absent else sockets.drops(listener.socket)
        return listening

    def pop(self, number: int) -> Listening:
        """It is none any more; its socket is still to be let go."""
        listening = self._listeners.pop(number)
        self._by_port[listening.given.port].remove(listening)
        del self._drops[number]
        return listening

    def let_go(self, listening: Listening) -> None:
        """Its socket is not ours any more."""
        if not listening.given.absent:
            self._reactor.remove_reader(listening.given.socket.fileno())
            listening.given.socket.close()

    def has(self, address: str, port: int, own: str) -> bool:
        """Is that where one of them listens? `own`: an address of this host."""
        for other in self._by_port.get(port, ()):
            if address == str(other.given.address):
                return True
            if other.wildcard and (
                address == own or address.startswith("127.") or address == "::1"
            ):
                return True
        return False

    def new_drops(self) -> Iterator[int]:
        """How many datagrams the kernel has dropped of each since the last time."""
        for number, listening in self._listeners.items():
            if listening.given.absent:
                continue
            seen = sockets.drops(listening.given.socket)
            new = (seen - self._drops[number]) & 0xFFFFFFFF
            if new:
                self._drops[number] = seen
                yield new

    def close(self) -> None:
        """None of them."""
        for listening in self._listeners.values():
            self.let_go(listening)
        self._listeners.clear()
        self._by_port.clear()
