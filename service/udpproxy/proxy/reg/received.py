"""What the parent has lent to REG: it arrives piece by piece, before the word to begin."""

from __future__ import annotations

import mmap
import os
import socket
from dataclasses import replace
from ipaddress import ip_address

from udpproxy.errors import LinkError
from udpproxy.process import wire
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import Config, Place
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.session.table import Table

_VERSIONS = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}

_ANY = (0, 0)
"""The parent has judged by the kernel's ports, and says how many of them there are for sessions; we
may see others."""


class ReceivedDescriptors:
    """`carriers` and `listeners` are those that nobody has taken yet."""

    def __init__(self) -> None:
        self.config: tuple[Config, int] | None = None
        """With its generation."""
        self.table: Table | None = None
        self.slots = 0
        """Of the table, that the carriers so far have sockets for."""
        self.carriers: list[socket.socket] = []
        self.listeners: list[ListenerSocket] = []
        self.links: dict[str, int] = {}
        """Interfaces that servers are at, and their numbers."""
        self.own: set[bytes] = set()
        """This host's addresses, packed; none where nobody needs to know."""
        self.mirrors: dict[bytes, socket.socket] = {}
        """What copies leave from, by the packed address of who gets them."""
        self._versions: set[int] = set()

    @property
    def versions(self) -> tuple[int, ...]:
        """Of IP, that there are sockets towards servers for."""
        return tuple(sorted(self._versions))

    def know(self, links: wire.Plain) -> None:
        """Interfaces have come or gone; LinkError for what cannot be."""
        match links:
            case dict() if all(type(number) is int for number in links.values()):
                self.links.clear()
                self.links.update((str(name), int(str(one))) for name, one in links.items())
            case _:
                raise LinkError("told of interfaces in an unknown form")

    def unused_mirrors(self) -> list[socket.socket]:
        """Those of hosts that get no copies any more, for the caller to close."""
        wanted = self.config[0].receivers() if self.config else ()
        hosts = {host.packed for host in wanted}
        return [self.mirrors.pop(host) for host in list(self.mirrors) if host not in hosts]

    def close(self) -> None:
        """Nothing is kept: the parent has all of it."""
        lent = [sock for one in self.listeners for sock in one.sockets]
        for sock in (*self.carriers, *lent, *self.mirrors.values()):
            sock.close()
        self.mirrors.clear()
        self.carriers.clear()
        self.listeners.clear()
        self.table = None

    def take(self, what: str, items: list[wire.Plain], descriptors: list[int]) -> None:
        """As many descriptors as items; LinkError, and they are closed, for what is unknown."""
        match what, items:
            case "config", [
                {
                    "origin": str(origin),
                    "generation": int(generation),
                    "ports": int(ports),
                    "ports-each": int(each),
                    "links": dict(links),
                }
            ]:
                with os.fdopen(descriptors[0], "rb") as file:
                    file.seek(0)
                    config = parse(file.read().decode(), origin, ephemeral=_ANY)
                self.config = replace(config, ports=ports, ports_each=each), generation
                self.know(links)
            case "own", _:
                with os.fdopen(descriptors[0], "rb") as file:
                    file.seek(0)
                    self.own.clear()
                    self.own.update(bytes.fromhex(line.decode()) for line in file)
            case "table", [{"capacity": int(capacity), "slots": int(slots)}]:
                memory = mmap.mmap(descriptors[0], 0)
                os.close(descriptors[0])
                self.table = Table(memoryview(memory), capacity, fresh=False)
                self.slots = slots
            case "carriers", _:
                self._versions |= {_VERSIONS[int(str(family))] for family in items}
                self.carriers += [socket.socket(fileno=fd) for fd in descriptors]
            case "mirrors", _:
                for host, fd in zip(items, descriptors, strict=True):
                    self.mirrors[bytes.fromhex(str(host))] = socket.socket(fileno=fd)
            case "absent", [where]:
                self.listeners.append(_listener(where, None))
            case "listeners", _:
                for item, descriptor in zip(items, descriptors, strict=True):
                    self._listen(_listener(item, descriptor))
            case _:
                for fd in descriptors:
                    os.close(fd)
                raise LinkError(f"lent {what} of an unknown form")

    def _listen(self, one: ListenerSocket) -> None:
        """A second one of the same number is for another worker."""
        last = self.listeners[-1] if self.listeners else None
        if last is not None and last.number == one.number:
            self.listeners[-1] = replace(last, others=(*last.others, one.socket))
        else:
            self.listeners.append(one)


def _listener(item: wire.Plain, descriptor: int | None) -> ListenerSocket:
    """None: its interface is not there, and neither is a socket."""
    match item:
        case {
            "number": int(number),
            "address": str(address),
            "port": int(port),
            "interface": str(interface),
            "transparent": bool(transparent),
        }:
            sock = _closed() if descriptor is None else socket.socket(fileno=descriptor)
            place = Place(ip_address(address), port, interface, transparent)
            return ListenerSocket(number, sock, place)
    raise LinkError("lent a listener of an unknown form")


def _closed() -> socket.socket:
    """Of the one kind that this process may make."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.close()
    return sock
