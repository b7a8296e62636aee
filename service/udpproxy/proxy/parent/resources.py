"""What the parent owns and lends: listening sockets, the pool of sockets towards servers, the
session table and the text of the configuration."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from ipaddress import IPv6Address

from udpproxy.config.model import Address, Name
from udpproxy.errors import UnitError
from udpproxy.process import messages, wire
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs, RateLimit
from udpproxy.proxy.config import firewall
from udpproxy.proxy.config.model import Config, Place
from udpproxy.proxy.engine import dscp, pool, sockets
from udpproxy.proxy.parent import steering
from udpproxy.proxy.parent.listeners import Listeners
from udpproxy.proxy.parent.listening import lack_of_descriptors, links
from udpproxy.proxy.parent.mirrors import Mirrors
from udpproxy.proxy.parent.network import own_addresses, takes_marked
from udpproxy.proxy.parent.socket_pool import SocketPool
from udpproxy.proxy.parent.store import Store
from udpproxy.proxy.parent.table_memory import TableMemory
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.table import STEERING, Table

_SPARE = 64
"""Descriptors beside sockets: links, logs, the interpreter's own."""


def generation(text: str) -> int:
    """A number that stands for this very configuration in the table's records."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def places(config: Config) -> list[Place]:
    """Each to listen in, in the order of the file."""
    return [place for listen in config.listen for place in listen.places()]


def joins(config: Config) -> dict[Place, tuple[Address, ...]]:
    """The multicast groups of places that are to be members of any."""
    return {
        place: groups
        for listen in config.listen
        for place in listen.places()
        if (groups := tuple(one for one in listen.groups if one.version == place.address.version))
    }


def families(config: Config) -> list[socket.AddressFamily]:
    """Towards servers of which families there may be sessions."""
    hosts = [server.host for rule in config.rules for server in rule.servers]
    versions = {host.version for host in hosts if not isinstance(host, Name)}
    if any(isinstance(host, Name) for host in hosts):
        # It can come to have addresses of either, as far as this host knows both.
        versions.add(4)
        if sockets.has_ipv6():
            versions.add(6)
    both = {4: socket.AF_INET, 6: socket.AF_INET6}
    if any(rule.to_addressed for rule in config.rules):
        # To wherever the client wrote.
        taken = [one for listen in config.listen if listen.transparent for one in listen.addresses]
        versions |= {address.version for address in taken}
    return [both[version] for version in sorted(versions)] or [socket.AF_INET]


def writes_as_client(config: Config) -> bool:
    """Do sessions write to servers from their clients' addresses?"""
    return any(None in rule.sources for rule in config.rules if rule.accept)


def needs_foreign(config: Config) -> bool:
    """Are addresses of others taken for ours, which needs CAP_NET_RAW?"""
    return any(listen.transparent for listen in config.listen) or writes_as_client(config)


def descriptors_needed(config: Config) -> int:
    """By REG, when all its sessions have come; those in carriers count as ours, too."""
    listening = len(places(config)) * config.workers
    # Others are there before the ones that keep a port are gone.
    fresh = any(rule.source_port for rule in config.rules if rule.accept) * 2 * pool.BATCH
    copying = len(config.receivers())
    return config.max_sessions * len(families(config)) + listening + copying + fresh + _SPARE


def check_descriptors(config: Config, limit: int) -> None:
    """See check_limit(); though sockets are made as sessions come, this does not wait for them."""
    pool.check_limit(config.max_sessions, descriptors_needed(config), limit)


class Resources:
    """All of it. Listener numbers are never used twice; a place keeps its number."""

    def __init__(
        self, logs: Logs, config: Config, text: str, origin: str, store: Store | None
    ) -> None:
        """What the store has of it, and the rest made; UnitError, and nothing stays open."""
        self._logs = logs
        self._store = store
        self._rate_limit = RateLimit()
        # A client stays with its worker as long as its session lives.
        self._key = (store.table_word(STEERING) if store else 0) or steering.new_key()
        self.listeners = Listeners(logs, config.workers, self._key, store, joins(config))
        self._with_reg: set[int] = set()
        self._untold: set[Place] = set()
        """Listeners made anew of which REG does not know yet."""
        self._news = False
        """REG does not know yet which interfaces and addresses there are."""
        """Listeners, by number, that the present REG was lent."""
        self._lent_to: Link | None = None
        """The present REG's, if it was lent all."""
        self._families = families(config)
        """Those that the configuration wants."""
        self.cut_off: list[Record] = []
        """Sessions that a smaller table had no place for: they end with our start."""
        self.left_over: list[Record] = []
        """The same of those whose listener did not come back from the store."""
        self._rows = SocketPool(logs, store)
        self.mirrors = Mirrors()
        self._memory: TableMemory | None = None
        try:
            wanted = dict.fromkeys(places(config))
            self.listeners.adopt(wanted)
            self.listeners.bind(one for one in wanted if one not in self.listeners.by_place)
            # What goes into the store first is in it, should it have no room for all: sessions can
            # do with other sockets towards servers, but not without a table.
            back = bool(self.listeners.came_back)
            capacity = config.max_sessions
            self._memory = TableMemory(logs, store, self._rows, capacity, expected=back)
            self.cut_off = self._memory.cut_off
            self._watch_table()
            if self._memory.carried_over:
                self._complete()
            sizes = {family: self._rows.size(family) for family in self._families}
            self._miss(sizes)
            # Others are made as sessions come (growth.py), one carrier after the other.
            needed = max(1, self.table.used(), min(sizes.values()))
            whole = -(-needed // pool.BATCH) * pool.BATCH
            self._fill(config, min(whole, capacity))
            self.table.grow(self._least())
            self.fill_mirrors(config)
            self.listeners.store()
            self.set_text(config, text, origin)
        except BaseException:
            self.close()
            raise
        if store:
            store.drop_rest()

    def _miss(self, sizes: dict[socket.AddressFamily, int]) -> None:
        """What the store should have had for the sessions, and has not. `sizes`: for how many
        slots it had sockets of the families that are wanted."""
        deaf = self.table.of_other_listeners(self.listeners.came_back)
        for slot in deaf:
            if record := self.table.read(slot):
                self.left_over.append(record)
                self.table.add(record)
            self.table.free(slot)
        if deaf:
            for sock in self._rows.sockets(set(deaf)):
                sockets.reset(sock)
                dscp.reset(sock)
            self._missing("listeners", f"{len(deaf)} sessions end here")
        moved = sum(
            slot >= sizes.get(sockets.family_of(record.server[0]), slot + 1)
            for slot, record in self.table.records(min(sizes.values()))
        )
        if moved:
            self._missing("sockets towards servers", f"{moved} sessions go on from other ports")

    def _complete(self) -> None:
        """What records of the layout before do not say."""
        ports = {one.number: one.port for one in self.listeners.by_place.values()}
        for slot, record in self.table.records():
            if record.listener in ports:
                self.table.set_addressed_port(slot, ports[record.listener])

    def _missing(self, what: str, so: str) -> None:
        self._logs.say(messages.NOT_TAKEN_OVER, f"systemd's store lacks {what} of before", so)

    @property
    def table(self) -> Table:
        """The sessions."""
        assert self._memory
        return self._memory.table

    @property
    def pool(self) -> SocketPool:
        """The sockets towards servers."""
        return self._rows

    @property
    def stored(self) -> int:
        """How many descriptors systemd is to have of us."""
        return 1 + self._rows.count + self.listeners.shelves

    def _watch_table(self) -> None:
        """Whatever we read it for: a record that makes no sense is left out, and said."""
        self.table.damaged = self._say_damaged

    def _say_damaged(self, slot: int, why: str) -> None:
        held = self._rate_limit.allow("damaged")
        if held is not None:
            self._logs.say(messages.RECORD_LOST, slot, why, held)

    def set_text(self, config: Config, text: str, origin: str) -> None:
        """The configuration that children get from now on."""
        self.generation = generation(text)
        self._text, self._origin = text, origin
        self._ports, self._ports_each = config.ports, config.ports_each
        hosts = [server.host for rule in config.rules for server in rule.servers]
        hosts += config.receivers()
        zones = [host.scope_id for host in hosts if isinstance(host, IPv6Address)]
        self._zones = {zone for zone in zones if zone}
        """Interfaces that servers are at."""
        self._foreign = needs_foreign(config)
        """There are addresses of others that we take for ours."""
        self._own = self._own_addresses()

    def renew_table(self) -> int:
        """Another one, without sessions; how many are lost that nobody could read."""
        assert self._memory
        try:
            return self._memory.renew()
        finally:
            self._watch_table()

    def bind(self, wanted: list[Place]) -> None:
        """Listen there, too, and store it; all or none. UnitError names the one that failed."""
        self.listeners.bind(wanted)
        try:
            self.listeners.store()
        except UnitError:
            self.listeners.unbind(wanted)
            raise

    def replace(self, config: Config, text: str, origin: str, removed: list[Place]) -> None:
        """Another configuration, whose listeners are bound and whose pool is filled."""
        self.set_text(config, text, origin)
        self._families = families(config)
        self.mirrors.keep(config.receivers())
        self.listeners.unbind(removed)
        self.listeners.replace(joins(config))

    def drop_pool(self, added: list[socket.AddressFamily]) -> None:
        """Sockets of fill_pool() that nobody needs after all."""
        self._rows.drop(added)

    def fill_mirrors(self, config: Config) -> list[bytes]:
        """Sockets that copies leave from; for which receivers they are new."""
        return self.mirrors.fill(config, foreign=writes_as_client(config))

    def fill_pool(self, config: Config) -> list[socket.AddressFamily]:
        """Sockets of every family for the slots that have some; which families are new."""
        return self._fill(config, self.table.grown)

    def _fill(self, config: Config, slots: int) -> list[socket.AddressFamily]:
        if writes_as_client(config):
            self._rows.take_foreign()
        return self._rows.fill(families(config), slots)

    def room_needed(self, config: Config, added: list[socket.AddressFamily]) -> int:
        """How many descriptors more REG needs for all sessions, with these new families."""
        wanted = families(config)
        has = sum(self._rows.size(family) for family in wanted if family not in added)
        return self.table.capacity * len(wanted) - has

    def _least(self) -> int:
        """For how many slots there are sockets of every family."""
        return min(self._rows.size(family) for family in self._families)

    def grow(self, slots: int) -> None:
        """Sockets for so many slots. OSError where the system has no more for now."""
        self._rows.extend(self._families, slots)
        self.table.grow(self._least())

    def lend_more(self, link: Link) -> None:
        """What has grown, to a REG that has the rest; another one gets it with that."""
        if self._lent_to is link:
            self._rows.lend(link, anew=False)
            link.send(wire.Tell("slots", {"count": self.table.grown}))

    def send_all(self, link: Link) -> None:
        """Everything to a child that starts; the last one may have left it in any state. OSError
        before anything was lent."""
        assert self._memory
        self.send_text(link)  # first, for these alone can fail
        self.send_own(link)
        self.mirrors.renew()
        self.listeners.mend()
        table = self._memory.table
        table.resize(table.capacity)
        table.words[STEERING] = self._key
        item: wire.Plain = {"capacity": table.capacity, "slots": table.grown}
        link.send(wire.Lend("table", [item]), [self._memory.descriptor])
        self._with_reg = set()
        self._rows.lend(link, anew=True)
        self.send_difference(link)
        self._lent_to = link

    def send_difference(self, link: Link) -> list[int]:
        """What is bound and REG does not have; the numbers of what it has and is to let go."""
        self._rows.lend(link, anew=False)
        self.mirrors.lend(link)
        bound = {one.number: place for place, one in self.listeners.by_place.items()}
        added = [place for number, place in bound.items() if number not in self._with_reg]
        removed = self._with_reg - bound.keys()
        link.pour(self.listeners.lend(added))
        self._with_reg = set(bound)
        return sorted(removed)

    def warn_of_routes(self, config: Config) -> None:
        """Commands without which nothing that the firewall redirects comes here."""
        taking = [listen for listen in config.listen if listen.transparent]
        versions = {address.version for listen in taking for address in listen.addresses}
        if writes_as_client(config):
            versions |= {4 if family == socket.AF_INET else 6 for family in families(config)}
        for version in sorted(versions):
            with contextlib.suppress(OSError):
                if not takes_marked(version, firewall.TAKEN):
                    commands = "; ".join(firewall.routes_of(version))
                    self._logs.say(messages.NOT_REDIRECTED, commands)

    def follow_network(self, link: Link | None) -> None:
        """Interfaces have come or gone, or addresses; `link` to the REG that there is. OSError
        where the system lacks descriptors: what is done is done, the rest is for another call."""
        before = self._server_links(), self._own
        lack: OSError | None = None
        try:
            self.listeners.follow(links(), self._untold)
        except OSError as problem:
            lack = problem
        lack = lack or lack_of_descriptors()
        if lack is None:
            self._own = self._own_addresses()
        self._news |= (self._server_links(), self._own) != before
        if link is not None and (self._untold or self._news):
            self._tell_network(link)
        # Where there is none the next one gets all of it.
        self._untold.clear()
        self._news = False
        if lack:
            raise lack

    def _tell_network(self, link: Link) -> None:
        self.send_own(link)
        there = (one for one in self._untold if one in self.listeners.by_place)
        known = [one for one in there if self.listeners.by_place[one].number in self._with_reg]
        link.pour(self.listeners.lend(known))
        link.send(wire.Tell("links", {"links": self._server_links()}))

    def _own_addresses(self) -> frozenset[bytes]:
        """Those of this host, where REG has to tell them from others."""
        if self._foreign:
            try:
                return own_addresses()
            except OSError as problem:
                self._logs.say(messages.NETWORK_UNSEEN, problem.strerror)
        return frozenset()

    def send_own(self, link: Link) -> None:
        """This host's addresses, which REG alone wants, as a file: they may be thousands."""
        memory = text_file("".join(f"{own.hex()}\n" for own in self._own))
        try:
            link.send(wire.Lend("own", [{}]), [memory])
        finally:
            os.close(memory)

    def _server_links(self) -> dict[str, wire.Plain]:
        """Those that there are, and their numbers: REG cannot see them."""
        return {
            name: number for name, number in self.listeners.links.items() if name in self._zones
        }

    def send_text(self, link: Link) -> None:
        """The configuration, as a file: it may be longer than a message."""
        memory = text_file(self._text)
        try:
            item: wire.Plain = {
                "origin": self._origin,
                "generation": self.generation,
                "ports": self._ports,
                "ports-each": self._ports_each,
                "links": self._server_links(),
            }
            link.send(wire.Lend("config", [item]), [memory])
        finally:
            os.close(memory)

    def give_back(self) -> None:
        """The sessions have ended: what the store has would be of no use to the next parent, and
        is deaf. Where systemd does not listen it keeps all that, and the next parent mends it."""
        if not self._store:
            return
        with contextlib.suppress(OSError):
            self.listeners.give_back()
            self._rows.give_back()
            self._store.drop_table()

    def close(self) -> None:
        """Nothing of ours stays open; the store's duplicates are systemd's."""
        self.listeners.close()
        self._rows.close()
        self.mirrors.close()
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
