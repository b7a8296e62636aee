"""The sockets that copies of uploads leave from: one for each host that gets copies, lent to REG.

They hear nothing. What waits in one, for a host that is dead, takes no room from the others.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from udpproxy.config.model import Address
from udpproxy.errors import NoRight, UnitError
from udpproxy.process import wire
from udpproxy.process.link import Item, Link
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.engine import pool, sockets
from udpproxy.proxy.parent.listening import deafen

_SMALLEST = 0
"""Bytes of the receive buffer: as few as the system lets it have."""


class Mirrors:
    """All of them, by the packed address of the host. No store keeps them: another one is as good,
    but for its port."""

    def __init__(self) -> None:
        self._sockets: dict[bytes, socket.socket] = {}
        self._foreign = False
        self._with_reg: set[bytes] = set()
        """Whose the present REG was lent."""

    def fill(self, config: Config, *, foreign: bool) -> list[bytes]:
        """One for each of the configuration's receivers; which are new. `foreign`: they may leave
        from clients' addresses. UnitError, and none of the new ones, where the system refuses."""
        new: list[bytes] = []
        try:
            if foreign and not self._foreign:
                for sock in self._sockets.values():
                    pool.take_foreign(sock)
                self._foreign = True
            for host in config.receivers():
                if host.packed not in self._sockets:
                    self._sockets[host.packed] = self._make(len(host.packed), 0)
                    new.append(host.packed)
        except OSError as problem:
            self.drop(new)
            kind = NoRight if isinstance(problem, PermissionError) else UnitError
            raise kind("mirror-to", problem.strerror or str(problem)) from None
        return new

    def drop(self, unwanted: list[bytes]) -> None:
        """Those that nobody needs after all."""
        for host in unwanted:
            self._sockets.pop(host).close()
            self._with_reg.discard(host)

    def keep(self, wanted: tuple[Address, ...]) -> None:
        """These alone get copies from now on."""
        hosts = {host.packed for host in wanted}
        self.drop([host for host in self._sockets if host not in hosts])

    def renew(self) -> None:
        """The last REG may have left them in any state: others, from the same ports where these can
        be had. OSError where the system has none."""
        for host, sock in list(self._sockets.items()):
            port = 0 if sock.fileno() < 0 else sock.getsockname()[1]
            sock.close()
            try:
                self._sockets[host] = self._make(len(host), port)
            except OSError:
                self._sockets[host] = self._make(len(host), 0)
        self._with_reg.clear()

    def lend(self, link: Link) -> None:
        """Those that REG has not."""
        new = [host for host in self._sockets if host not in self._with_reg]
        self._with_reg |= set(new)
        link.pour(self._parts(new))

    def _parts(self, hosts: list[bytes]) -> Iterator[Item]:
        """What is dropped before its turn is not lent."""
        for first in range(0, len(hosts), wire.MOST_DESCRIPTORS):
            part = hosts[first : first + wire.MOST_DESCRIPTORS]
            part = [host for host in part if host in self._sockets]
            fds = [self._sockets[host].fileno() for host in part]
            yield wire.Lend("mirrors", [host.hex() for host in part]), fds

    def close(self) -> None:
        """None of them."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def _make(self, size: int, port: int) -> socket.socket:
        """Bound, so that its port is known: what comes from there is ours."""
        family = socket.AF_INET if size == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            deafen(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALLEST)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sockets.allow_fragments(sock)
            if self._foreign:
                pool.take_foreign(sock)
            sock.bind(("", port))
        except BaseException:
            sock.close()
            raise
        return sock
