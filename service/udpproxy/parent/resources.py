"""What the parent owns and lends: listening sockets, the pool of sockets towards servers, the
session table and the text of the configuration."""

from __future__ import annotations

import hashlib
import mmap
import os
import socket
from ipaddress import ip_address

from udpproxy.config.model import Address, Config
from udpproxy.engine import pool, sockets
from udpproxy.engine.interface import ListenerSocket
from udpproxy.errors import UnitError
from udpproxy.process import messages, wire
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs
from udpproxy.session import table

_RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
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
    versions = {acl.server.address.version for acl in config.acls if acl.accept and acl.server}
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

    def __init__(self, logs: Logs, config: Config, text: str, origin: str) -> None:
        """Makes everything, or raises UnitError and leaves nothing open."""
        self._logs = logs
        self._numbers = 0
        self.listeners: dict[Place, ListenerSocket] = {}
        self._carriers: dict[socket.AddressFamily, list[socket.socket]] = {}
        self._capacity = config.max_sessions
        try:
            self.bind([place for place in places(config) if place not in self.listeners])
            self.fill_pool(config)
            self._memfd = os.memfd_create("udp-proxy-sessions", os.MFD_CLOEXEC)
            os.ftruncate(self._memfd, table.size(self._capacity))
            memory = mmap.mmap(self._memfd, 0)
            self.table = table.Table(memoryview(memory), self._capacity, fresh=True)
            self.set_text(text, origin)
        except BaseException:
            self.close()
            raise

    def set_text(self, text: str, origin: str) -> None:
        """The configuration that children get from now on."""
        self.generation = generation(text)
        self._text, self._origin = text, origin

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
        return made

    def unbind(self, unwanted: list[Place]) -> list[int]:
        """Listen there no longer; the listeners' numbers."""
        gone = [self.listeners.pop(place) for place in unwanted]
        for listener in gone:
            listener.socket.close()
        return [listener.number for listener in gone]

    def fill_pool(self, config: Config) -> list[socket.AddressFamily]:
        """Sockets for every session and family; which families are new."""
        new = [family for family in families(config) if family not in self._carriers]
        for family in new:
            made = self._carriers[family] = []
            try:
                for start in range(0, self._capacity, pool.BATCH):
                    count = min(pool.BATCH, self._capacity - start)
                    made.append(pool.make_carrier(family, count))
            except OSError as problem:
                for carrier in self._carriers.pop(family):
                    carrier.close()
                raise UnitError(
                    "descriptors",
                    f"only {len(made) * pool.BATCH} of {self._capacity} sockets towards servers "
                    f"could be made ({problem.strerror}): lower max-sessions or raise the limit",
                ) from None
        return new

    def lend_all(self, link: Link) -> None:
        """Everything to a child that starts."""
        self.lend_text(link)
        link.send(wire.Lend("table", [{"capacity": self._capacity}]), [self._memfd])
        self.lend_carriers(link, list(self._carriers))
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
        """The pool's sockets of these families, a few hundred in each carrier."""
        for family in wanted:
            self._mend(family)
            fds = [carrier.fileno() for carrier in self._carriers[family]]
            for start in range(0, len(fds), wire.MOST_DESCRIPTORS):
                part = fds[start : start + wire.MOST_DESCRIPTORS]
                link.send(wire.Lend("carriers", [int(family)] * len(part)), part)

    def lend_listeners(self, link: Link, wanted: list[Place]) -> None:
        """The sockets of these places."""
        for start in range(0, len(wanted), wire.MOST_DESCRIPTORS):
            part = [self.listeners[place] for place in wanted[start : start + 250]]
            items: list[wire.Plain] = [
                {"number": one.number, "address": str(one.address), "port": one.port}
                for one in part
            ]
            link.send(wire.Lend("listeners", items), [one.socket.fileno() for one in part])

    def _mend(self, family: socket.AddressFamily) -> None:
        """A child that went mad may have read a carrier instead of peeking."""
        carriers = self._carriers[family]
        for number, carrier in enumerate(carriers):
            if not pool.is_full(carrier):
                self._logs.say(messages.POOL_REMADE, number)
                carrier.close()
                count = min(pool.BATCH, self._capacity - number * pool.BATCH)
                carriers[number] = pool.make_carrier(family, count)

    def close(self) -> None:
        """Nothing stays open."""
        self.unbind(list(self.listeners))
        for carriers in self._carriers.values():
            for carrier in carriers:
                carrier.close()
        if hasattr(self, "_memfd"):
            os.close(self._memfd)


def _listening_socket(logs: Logs, address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        _set_options(sock, wildcard=address.is_unspecified)
        sock.bind((str(address), port))
    except OSError as problem:
        sock.close()
        hint = {13: ": ports below 1024 need root or CAP_NET_BIND_SERVICE"}
        raise UnitError(
            f"listen on {address} port {port}",
            f"{problem.strerror}{hint.get(problem.errno or 0, '')}",
        ) from None
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
