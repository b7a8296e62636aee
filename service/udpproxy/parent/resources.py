"""What the parent owns and lends: listening sockets, the pool of sockets towards servers, the
session table and the text of the configuration."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from ipaddress import ip_address

from udpproxy.config.model import Address, Config, Name
from udpproxy.engine import sockets
from udpproxy.engine.interface import ListenerSocket
from udpproxy.errors import UnitError
from udpproxy.parent.carriers import Rows
from udpproxy.parent.memory import TableMemory
from udpproxy.parent.store import Store
from udpproxy.process import messages, wire
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs
from udpproxy.session.table import Record, Table

_RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_LOW_PORT = ": ports below 1024 need root or CAP_NET_BIND_SERVICE, see udp-proxy-units(7)"
_SPARE = 64
"""Descriptors beside sockets: links, logs, the interpreter's own."""

Place = tuple[Address, int]


def generation(text: str) -> int:
    """A number that stands for this very configuration in the table's records."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def places(config: Config) -> list[Place]:
    """Each address and port to listen on, in the order of the file."""
    return [
        (listen.address, port)
        for listen in config.listen
        for port in range(listen.ports.first, listen.ports.last + 1)
    ]


def families(config: Config) -> list[socket.AddressFamily]:
    """Towards servers of which families there may be sessions."""
    hosts = [acl.server.host for acl in config.acls if acl.accept and acl.server]
    versions = {host.version for host in hosts if not isinstance(host, Name)}
    if any(isinstance(host, Name) for host in hosts):
        # It can come to have addresses of either, as far as this host knows both.
        versions.add(4)
        if sockets.has_ipv6():
            versions.add(6)
    both = {4: socket.AF_INET, 6: socket.AF_INET6}
    return [both[version] for version in sorted(versions)] or [socket.AF_INET]


def check_descriptors(config: Config, limit: int) -> None:
    """UnitError, with both numbers, where the sessions cannot all have their sockets."""
    needed = config.max_sessions * len(families(config)) + len(places(config)) + _SPARE
    if needed > limit:
        raise UnitError(
            "descriptors",
            f"max-sessions = {config.max_sessions} needs {needed} descriptors, the limit is "
            f"{limit}: lower max-sessions or raise the limit (ulimit -n, LimitNOFILE=)",
        )


class Resources:
    """All of it. Listener numbers are never used twice; a place keeps its number."""

    def __init__(
        self, logs: Logs, config: Config, text: str, origin: str, store: Store | None
    ) -> None:
        """What the store has of it, and the rest made; UnitError, and nothing stays open."""
        self._logs = logs
        self._store = store
        self._numbers = 0
        self.listeners: dict[Place, ListenerSocket] = {}
        self.cut_off: list[Record] = []
        """Sessions that a smaller table had no place for: they end with our start."""
        self._rows = Rows(logs, store)
        self._memory: TableMemory | None = None
        try:
            self._adopt_listeners(places(config))
            self.bind([place for place in places(config) if place not in self.listeners])
            self._memory = TableMemory(logs, store, self._rows, config.max_sessions)
            self.cut_off = self._memory.cut_off
            self.fill_pool(config)
            self.set_text(text, origin)
        except BaseException:
            self.close()
            raise
        if store:
            store.drop_rest()

    @property
    def table(self) -> Table:
        """The sessions."""
        assert self._memory
        return self._memory.table

    def set_text(self, text: str, origin: str) -> None:
        """The configuration that children get from now on."""
        self.generation = generation(text)
        self._text, self._origin = text, origin

    def _adopt_listeners(self, wanted: list[Place]) -> None:
        for number, sock in (self._store.take_listeners() if self._store else {}).items():
            self._numbers = max(self._numbers, number)
            name = sock.getsockname()
            place = ip_address(name[0].partition("%")[0]), name[1]
            if place in wanted and place not in self.listeners:
                self.listeners[place] = ListenerSocket(number, sock, *place)
            else:
                self._forget(number, sock)

    def _forget(self, number: int, sock: socket.socket) -> None:
        sock.close()
        if self._store:
            self._store.drop_listener(number)

    def bind(self, wanted: list[Place]) -> list[Place]:
        """Listen there, too; all or none. UnitError names the one that failed."""
        made: list[Place] = []
        try:
            for place in wanted:
                self._numbers += 1
                sock = _listening_socket(self._logs, *place)
                self.listeners[place] = ListenerSocket(self._numbers, sock, *place)
                made.append(place)
        except UnitError:
            self.unbind(made)
            raise
        if self._store:
            for place in made:
                listener = self.listeners[place]
                self._store.keep_listener(listener.number, listener.socket)
        return made

    def unbind(self, unwanted: list[Place]) -> list[int]:
        """Listen there no longer; the listeners' numbers."""
        gone = [self.listeners.pop(place) for place in unwanted]
        for listener in gone:
            self._forget(listener.number, listener.socket)
        return [listener.number for listener in gone]

    def fill_pool(self, config: Config) -> list[socket.AddressFamily]:
        """Sockets for every session and family; which families are new."""
        return self._rows.fill(families(config), config.max_sessions)

    def lend_all(self, link: Link) -> None:
        """Everything to a child that starts."""
        assert self._memory
        self.lend_text(link)
        capacity = self._memory.table.capacity
        link.send(wire.Lend("table", [{"capacity": capacity}]), [self._memory.descriptor])
        self.lend_carriers(link, self._rows.families())
        self.lend_listeners(link, list(self.listeners))

    def lend_text(self, link: Link) -> None:
        """The configuration, as a file: it may be longer than a message."""
        memory = os.memfd_create("udp-proxy-configuration", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(memory), "wb") as file:
                file.write(self._text.encode())
            items: list[wire.Plain] = [{"origin": self._origin, "generation": self.generation}]
            link.send(wire.Lend("config", items), [memory])
        finally:
            os.close(memory)

    def lend_carriers(self, link: Link, wanted: list[socket.AddressFamily]) -> None:
        """The pool's sockets of these families."""
        self._rows.lend(link, wanted)

    def lend_listeners(self, link: Link, wanted: list[Place]) -> None:
        """The sockets of these places."""
        for start in range(0, len(wanted), wire.MOST_DESCRIPTORS):
            part = [self.listeners[place] for place in wanted[start : start + 250]]
            items: list[wire.Plain] = [
                {"number": one.number, "address": str(one.address), "port": one.port}
                for one in part
            ]
            link.send(wire.Lend("listeners", items), [one.socket.fileno() for one in part])

    def close(self) -> None:
        """Nothing of ours stays open; the store's duplicates are systemd's."""
        for listener in self.listeners.values():
            listener.socket.close()
        self._rows.close()
        if self._memory:
            self._memory.close()


def _listening_socket(logs: Logs, address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        _set_options(sock, wildcard=address.is_unspecified)
        sock.bind((str(address), port))
    except OSError as problem:
        sock.close()
        hint = _LOW_PORT if problem.errno == errno.EACCES and port < 1024 else ""
        raise UnitError(f"listen on {address} port {port}", f"{problem.strerror}{hint}") from None
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    if size < _RECEIVE_BUFFER:
        logs.say(messages.RECEIVE_BUFFER, f"{address} port {port}", size, _RECEIVE_BUFFER)
    return sock


def _set_options(sock: socket.socket, *, wildcard: bool) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sockets.allow_fragments(sock)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if wildcard:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif wildcard:
        sock.setsockopt(socket.IPPROTO_IP, sockets.IP_PKTINFO, 1)


def is_local(address: Address) -> bool:
    """Is that an address of this host?"""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return not ip_address(str(address)).is_unspecified
