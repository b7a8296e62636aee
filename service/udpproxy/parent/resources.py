"""What the parent owns and lends: listening sockets, the pool of sockets towards servers, the
session table and the text of the configuration."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from udpproxy.config.model import Address, Config, Name
from udpproxy.engine import sockets
from udpproxy.engine.interface import ListenerSocket
from udpproxy.errors import UnitError
from udpproxy.parent import steering
from udpproxy.parent.carriers import Rows
from udpproxy.parent.listening import RECEIVE_BUFFER, listening_sockets, refuse_all
from udpproxy.parent.memory import TableMemory
from udpproxy.parent.mending import DEAF, Spoilt, empty, mend
from udpproxy.parent.store import Store
from udpproxy.process import messages, wire
from udpproxy.process.link import Item, Link
from udpproxy.process.logs import Damper, Logs
from udpproxy.session.layout import Record
from udpproxy.session.table import STEERING, Table

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
    listening = len(places(config)) * config.workers
    needed = config.max_sessions * len(families(config)) + listening + _SPARE
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
        self._damper = Damper()
        self._numbers = 0
        self._workers = config.workers
        # A client stays with its worker as long as its session lives.
        self._key = (store.table_word(STEERING) if store else 0) or steering.new_key()
        self.listeners: dict[Place, ListenerSocket] = {}
        self._lost: dict[Place, ListenerSocket] = {}
        """Spoilt, and their places taken: tried again with the next REG."""
        self._with_reg: set[int] = set()
        """Listeners, by number, and families that the present REG was lent."""
        self._families_with_reg: set[socket.AddressFamily] = set()
        self.cut_off: list[Record] = []
        """Sessions that a smaller table had no place for: they end with our start."""
        self._rows = Rows(logs, store)
        self._memory: TableMemory | None = None
        try:
            self._adopt_listeners(places(config))
            self.bind([place for place in places(config) if place not in self.listeners])
            self._memory = TableMemory(logs, store, self._rows, config.max_sessions)
            self.cut_off = self._memory.cut_off
            self._watch_table()
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

    def _watch_table(self) -> None:
        """Whatever we read it for: a record that makes no sense is left out, and said."""
        self.table.damaged = self._say_damaged

    def _say_damaged(self, slot: int, why: str) -> None:
        held = self._damper.passes("damaged")
        if held is not None:
            self._logs.say(messages.RECORD_LOST, slot, why, held)

    def set_text(self, text: str, origin: str) -> None:
        """The configuration that children get from now on."""
        self.generation = generation(text)
        self._text, self._origin = text, origin

    def _adopt_listeners(self, wanted: list[Place]) -> None:
        for number, found in (self._store.take_listeners() if self._store else {}).items():
            self._numbers = max(self._numbers, number)
            name = found[0].getsockname()
            place = ip_address(name[0].partition("%")[0]), name[1]
            listener = ListenerSocket(number, found[0], *place, tuple(found[1:]))
            if place not in wanted or place in self.listeners:
                self._forget(listener)
                continue
            self.listeners[place] = listener
            if len(found) != self._workers:
                # Another number of workers: the place keeps its number, and so its sessions.
                self._bind_again(listener)
            elif DEAF in self._mend(listener):
                # An end of the proxy has made it so: nobody waits for an answer any more.
                empty(self.listeners[place])

    def _mend(self, listener: ListenerSocket) -> list[str]:
        """As good as new, and if only by a new one; what was wrong with it."""
        where = f"{listener.address} port {listener.port}"
        try:
            wrong = mend(listener, self._key)
        except Spoilt as problem:
            self._logs.say(messages.LISTENER_REMADE, where, problem)
            self._bind_again(listener)
            return []
        if wrong:
            self._logs.say(messages.LISTENER_MENDED, where, ", ".join(sorted(set(wrong))))
        return wrong

    def _mend_or_lose(self, listener: ListenerSocket) -> None:
        """One place that somebody else has taken meanwhile must not cost the others."""
        place = listener.address, listener.port
        try:
            if place in self._lost:
                self.listeners[place] = self._lost.pop(place)
            self._mend(listener)
        except UnitError as problem:
            self._logs.say(messages.LISTENER_REMADE, f"{place[0]} port {place[1]}", problem)
            self._forget(self.listeners.pop(place))
            self._lost[place] = listener

    def _bind_again(self, listener: ListenerSocket) -> None:
        """The same place and number, other sockets. UnitError, and nothing has changed, where we
        may not have them. systemd's store, and a REG that does not go, hold the old ones for a
        while: they are bound beside each other."""
        place = listener.address, listener.port
        old = [one for one in (listener.socket, *listener.others) if one.fileno() >= 0]
        try:
            _share(old, on=False)  # the new ones are to be a group of their own, in their order
            new = self._listen(place, listener.number, old)
        except UnitError:
            _share(old, on=len(old) > 1)
            raise
        self._forget(listener)
        self.listeners[place] = new
        self._keep(new)

    def renew_table(self) -> int:
        """Another one, without sessions; how many are lost that nobody could read."""
        assert self._memory
        try:
            return self._memory.renew()
        finally:
            self._watch_table()

    def renew_listeners(self) -> int:
        """Other sockets in the same places, as far as we may have them again; how many."""
        renewed = 0
        for place, listener in list(self.listeners.items()):
            try:
                self._bind_again(listener)
            except UnitError as problem:
                # Without rights for a low port the old one is better than none.
                self._logs.say(messages.LISTENER_REMADE, f"{place[0]} port {place[1]}", problem)
            else:
                renewed += 1
        return renewed

    def _keep(self, listener: ListenerSocket) -> None:
        if self._store:
            self._store.keep_listener(listener.number, [listener.socket, *listener.others])

    def _forget(self, listener: ListenerSocket) -> None:
        self._let_go([listener])

    def _let_go(self, gone: list[ListenerSocket]) -> None:
        for listener in gone:
            for sock in (listener.socket, *listener.others):
                sock.close()
        for listener in gone if self._store else ():
            assert self._store
            try:
                self._store.drop_listener(listener.number, 1 + len(listener.others))
            except OSError as problem:
                # The next start gives back what it does not want. Each try waits: no second one.
                where = f"the listener on {listener.address} port {listener.port}"
                self._logs.say(messages.STORE_SILENT, where, problem)
                return

    def bind(self, wanted: list[Place]) -> list[Place]:
        """Listen there, too, and store it; all or none. UnitError names the one that failed."""
        made: list[Place] = []
        try:
            for place in wanted:
                self._numbers += 1
                beside = self._in_the_way(place)
                self.listeners[place] = self._listen(place, self._numbers, beside)
                made.append(place)
            for place in made:
                self._keep(self.listeners[place])
        except UnitError:
            self.unbind(made)
            raise
        except OSError as problem:
            self.unbind(made)
            raise UnitError("systemd's store", str(problem.strerror or problem)) from None
        return made

    def _listen(self, place: Place, number: int, beside: Sequence[socket.socket]) -> ListenerSocket:
        address, port = place
        first, *others = listening_sockets(address, port, self._workers, self._key, beside)
        size = first.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        if size < RECEIVE_BUFFER:
            self._logs.say(messages.RECEIVE_BUFFER, f"{address} port {port}", size, RECEIVE_BUFFER)
        return ListenerSocket(number, first, address, port, tuple(others))

    def _in_the_way(self, place: Place) -> list[socket.socket]:
        """Our sockets on the same port that a wildcard excludes, or that are one."""
        address, port = place
        return [
            sock
            for (other, its_port), listener in self.listeners.items()
            if its_port == port and other.version == address.version
            if other != address and (other.is_unspecified or address.is_unspecified)
            for sock in (listener.socket, *listener.others)
        ]

    def unbind(self, unwanted: list[Place]) -> None:
        """Listen there no longer."""
        self._let_go([self.listeners.pop(place) for place in unwanted])

    def replace(self, text: str, origin: str, removed: list[Place]) -> None:
        """Another configuration, whose listeners are bound and whose pool is filled."""
        self.set_text(text, origin)
        self._lost.clear()
        self.unbind(removed)

    def drop_pool(self, added: list[socket.AddressFamily]) -> None:
        """Sockets of fill_pool() that nobody needs after all."""
        self._rows.drop(added)

    def fill_pool(self, config: Config) -> list[socket.AddressFamily]:
        """Sockets for every session and family; which families are new."""
        return self._rows.fill(families(config), config.max_sessions)

    def lend_all(self, link: Link) -> None:
        """Everything to a child that starts; the last one may have left it in any state. OSError
        before anything was lent."""
        assert self._memory
        self.lend_text(link)  # first, for this alone can fail
        for listener in [*self.listeners.values(), *self._lost.values()]:
            self._mend_or_lose(listener)
        capacity = self._memory.table.capacity
        self._memory.table.resize(capacity)
        self._memory.table.words[STEERING] = self._key
        link.send(wire.Lend("table", [{"capacity": capacity}]), [self._memory.descriptor])
        self._with_reg, self._families_with_reg = set(), set()
        self.lend_difference(link)

    def lend_difference(self, link: Link) -> list[int]:
        """What is bound and REG does not have; the numbers of what it has and is to let go."""
        families = [one for one in self._rows.families() if one not in self._families_with_reg]
        self._rows.lend(link, families)
        self._families_with_reg |= set(families)
        bound = {listener.number: place for place, listener in self.listeners.items()}
        added = [place for number, place in bound.items() if number not in self._with_reg]
        removed = self._with_reg - bound.keys()
        link.pour(self._listeners(added))
        self._with_reg = set(bound)
        return sorted(removed)

    def lend_text(self, link: Link) -> None:
        """The configuration, as a file: it may be longer than a message."""
        memory = text_file(self._text)
        try:
            items: list[wire.Plain] = [{"origin": self._origin, "generation": self.generation}]
            link.send(wire.Lend("config", items), [memory])
        finally:
            os.close(memory)

    def _listeners(self, wanted: list[Place]) -> Iterator[Item]:
        """A message for each of so many sockets, as the other side has room; what is removed before
        its turn is not lent."""
        items: list[wire.Plain] = []
        descriptors: list[int] = []
        for one in (self.listeners[place] for place in wanted if place in self.listeners):
            where: wire.Plain = {
                "number": one.number, "address": str(one.address), "port": one.port,
            }  # fmt: skip
            sockets = [sock.fileno() for sock in (one.socket, *one.others)]
            if len(items) + len(sockets) > wire.MOST_DESCRIPTORS:
                yield wire.Lend("listeners", items), descriptors
                items, descriptors = [], []
            items += [where] * len(sockets)
            descriptors += sockets
        if items:
            yield wire.Lend("listeners", items), descriptors

    def stop_taking(self) -> None:
        """No datagram comes in any more, even where REG does not obey: the end has begun."""
        for listener in self.listeners.values():
            for sock in (listener.socket, *listener.others):
                refuse_all(sock)

    def give_back(self) -> None:
        """The sessions have ended: what the store has would be of no use to the next parent, and
        is deaf. Where systemd does not listen it keeps all that, and the next parent mends it."""
        if not self._store:
            return
        with contextlib.suppress(OSError):
            for listener in self.listeners.values():
                self._store.drop_listener(listener.number, 1 + len(listener.others))
            self._rows.give_back()
            self._store.drop_table()

    def close(self) -> None:
        """Nothing of ours stays open; the store's duplicates are systemd's."""
        for listener in self.listeners.values():
            for sock in (listener.socket, *listener.others):
                sock.close()
        self._rows.close()
        if self._memory:
            self._memory.close()


def text_file(text: str) -> int:
    """It, in memory of its own."""
    memory = os.memfd_create("udp-proxy-configuration", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(text.encode())
    except BaseException:
        os.close(memory)
        raise
    return memory


def _share(each: Sequence[socket.socket], *, on: bool) -> None:
    """Are they a group between whose members clients are divided?"""
    for sock in each:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, on)


def is_local(address: Address) -> bool:
    """Is that an address of this host? Those of many hosts, multicast and broadcast, can be bound,
    too; to a broadcast address nobody may connect without SO_BROADCAST (EACCES)."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    if ip_address(str(address)).is_multicast or ip_address(str(address)).is_unspecified:
        return False
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
        return sock.connect_ex((str(address), 9)) != errno.EACCES
