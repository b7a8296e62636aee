"""An engine on real loopback sockets, with everything that a parent and REG would give it.

Only what engine.interface promises is used, so that every engine can stand in here. The loop is
driven by the test itself: nothing moves except while it waits for something.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Protocol, TypeVar

from built import NAMES, expect_native
from udpproxy.process.loop import EpollLoop
from udpproxy.proxy.config.model import Limits, Place, SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.dscp import byte_of, tells, tos_of
from udpproxy.proxy.engine.interface import (
    Arrival,
    DecisionCacheHost,
    Engine,
    ExtensionResult,
    Host,
    ListenerSocket,
    PendingName,
    Reactor,
    Verdict,
)
from udpproxy.proxy.engine.pool import (
    BATCH,
    Pool,
    make_carrier,
    make_socket,
    pack_carrier,
    peek_carrier,
)
from udpproxy.proxy.engine.python import PythonEngine
from udpproxy.proxy.session.balance import Candidate
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.limits import budget
from udpproxy.proxy.session.peers import network_bounds
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import Table, size

T = TypeVar("T")
Endpoint = tuple[str, int]
SECOND = 1_000_000_000
LIMIT = 20.0
_LARGE = 4 << 20


class Factory(Protocol):
    """How an engine is made."""

    def __call__(
        self,
        reactor: Reactor,
        table: Table,
        carriers: list[socket.socket],
        host: Host,
        *,
        per_client: int,
        prefix6: int,
        evict: bool,
    ) -> Engine: ...


def _python(
    reactor: Reactor,
    table: Table,
    carriers: list[socket.socket],
    host: Host,
    *,
    per_client: int,
    prefix6: int,
    evict: bool,
) -> Engine:
    pool = Pool(carriers)
    return PythonEngine(
        reactor, table, pool, host, per_client=per_client, prefix6=prefix6, evict=evict
    )


def native_with(lasting: DecisionCacheHost | None) -> Factory:
    """Without a thread of its own: nothing moves except while the test waits."""

    def make(
        reactor: Reactor,
        table: Table,
        carriers: list[socket.socket],
        host: Host,
        *,
        per_client: int,
        prefix6: int,
        evict: bool,
    ) -> Engine:
        expect_native()
        from udpproxy.proxy.engine.native import NativeEngine

        return NativeEngine(
            reactor,
            table,
            Pool(carriers),
            host,
            per_client=per_client,
            prefix6=prefix6,
            evict=evict,
            workers=1,
            threads=False,
            lasting=lasting,
        )

    return make


_FACTORIES: dict[str, Factory] = {"python": _python, "native": native_with(None)}
ENGINES = {name: _FACTORIES[name] for name in NAMES}


def verdict(
    server: Endpoint,
    kind: SessionType = SessionType.NORMAL,
    *,
    limits: Limits | None = None,
    any_port: bool = False,
    network: str | None = None,
    close_on_unreachable: bool = False,
    generation: int = 1,
    rule: str = "rule",
    handed: bool = False,
    sources: tuple[str, ...] = (),
    fallback: bool = True,
    source_port: int = 0,
    header: str = "",
    candidates: Sequence[Candidate] = (),
    balance: str = "",
    member: int = 0,
    mirrors: Sequence[Endpoint] = (),
    dscp: int | None = 0,
) -> Verdict:
    """An accepted session as REG would describe it; a source "" is the client's own address, no
    DSCP that of each datagram."""
    return Verdict(
        rule_number=0,
        generation=generation,
        rule=rule,
        type=kind,
        server=server,
        budget=budget(limits or Limits()),
        any_port=any_port,
        network=network_bounds(ip_network(network)) if network else None,
        close_on_unreachable=close_on_unreachable,
        handed=handed,
        sources=tuple(sockets.pack(one) if one else b"" for one in sources),
        fallback=fallback,
        source_port=source_port,
        header=header,
        candidates=tuple(candidates),
        balance=balance,
        member=member,
        mirrors=tuple(mirrors),
        tos=byte_of(dscp or 0),
        keeps_dscp=dscp is None,
    )


class Witness:
    """REG's place: says what it was told to say and notes what it hears."""

    def __init__(self) -> None:
        self.policy: Callable[[str], Verdict | PendingName | None] = lambda client: None
        """What decide() says about a client, by its address."""
        self.later: Callable[[Record], Verdict | None] | None = None
        """What decided() says; None: the same as the policy."""
        self.on_datagram: Callable[[str, bytes], object] = lambda direction, data: None
        self.treat: Callable[[str, bytes], ExtensionResult] = lambda direction, data: (
            direction,
            data,
        )
        """What handed() says of a datagram."""
        self.handed_over: list[tuple[int, str, bytes]] = []
        self.asked: list[tuple[int, str, str]] = []
        self.ports: list[int] = []
        """Which ports those wrote to."""
        self.kept: list[tuple[int, tuple[str, int], Arrival, bytes]] = []
        """What wait() got."""
        self.opened_ids: list[int] = []
        self.opened_to: list[Endpoint] = []
        self.records: dict[int, Record] = {}
        self.reasons: dict[int, list[Reason]] = {}
        self.losses: dict[int, str] = {}
        """What lost() got, by slot."""
        self.refusals: list[str] = []
        self.problems: list[int | None] = []
        """What the system said to refused() of them."""
        self.strays: list[Endpoint] = []
        self.unable: list[int] = []
        self.failures: list[str] = []
        self.uncopied: list[tuple[Endpoint, int | None, int]] = []
        """What not_copied() got."""
        self.reroutes: list[int] = []
        self.tries: list[int] = []
        """Sessions that were connected afresh, for their server is silent."""
        self.dead: list[tuple[int, int]] = []
        """Sessions whose server is unreachable, and why."""
        self.answering: list[int] = []
        self.wishes = 0
        """How often sockets for more slots were wanted."""
        self.used_up: list[list[tuple[int, int]]] = []
        """What spent() was told, each time."""

    def decide(
        self, listener: ListenerSocket, client: str, addressed: str, port: int
    ) -> Verdict | PendingName | None:
        self.asked.append((listener.number, client, addressed))
        self.ports.append(port)
        return self.policy(client)

    def wait(
        self,
        waiting: PendingName,
        listener: ListenerSocket,
        client: tuple[str, int],
        arrival: Arrival,
        data: bytes,
    ) -> None:
        self.kept.append((listener.number, client, arrival, data))

    def decided(self, record: Record) -> Verdict | None:
        if self.later is not None:
            return self.later(record)
        found = self.policy(sockets.unpack(record.client[0]))
        return found if isinstance(found, Verdict) else None

    def handed(
        self, verdict: Verdict, slot: int, number: int, direction: str, payload: bytes
    ) -> ExtensionResult:
        self.handed_over.append((number, direction, payload))
        return self.treat(direction, payload)

    def opened(self, number: int, rule: str, client: Endpoint, server: Endpoint) -> None:
        self.opened_ids.append(number)
        self.opened_to.append(server[:2])

    def ended(self, record: Record, rule: str, reason: Reason) -> None:
        self.records[record.id] = record
        self.reasons.setdefault(record.id, []).append(reason)

    def lost(self, slot: int, why: str) -> None:
        self.losses[slot] = why

    def refused(
        self,
        counter: str,
        client: tuple[str, int],
        listener: ListenerSocket,
        problem: OSError | None = None,
        count: int = 1,
    ) -> None:
        self.refusals += [counter] * count
        if problem:
            self.problems.append(problem.errno)

    def strayed(self, number: int, rule: str, sender: tuple[str, int]) -> None:
        self.strays.append(sender)

    def rerouted(self, slot: int, number: int, rule: str) -> None:
        self.reroutes.append(number)

    def silent(self, slot: int, number: int, rule: str) -> None:
        self.tries.append(number)

    def unreachable(self, slot: int, number: int, rule: str, problem: int) -> None:
        self.dead.append((number, problem))

    def answers(self, slot: int, number: int, rule: str) -> None:
        self.answering.append(number)

    def failed(self, what: str, problem: OSError, slot: int = 0, number: int = 0) -> None:
        self.failures.append(what)

    def not_copied(
        self, rule: str, receiver: tuple[str, int], problem: OSError, count: int = 1
    ) -> None:
        self.uncopied.append((receiver, problem.errno, count))

    def unsegmented(self, sessions: int) -> None:
        self.unable.append(sessions)

    def scarce(self) -> None:
        self.wishes += 1

    def spent(self, sockets: list[tuple[int, int]]) -> None:
        self.used_up.append(sockets)

    def datagram(self, number: int, direction: str, payload: memoryview) -> None:
        self.on_datagram(direction, bytes(payload))


class CountingLoop(EpollLoop):
    """Counts what it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks = 0

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        def counted() -> None:
            self.callbacks += 1
            callback()

        super().add_reader(fd, counted)


class Rig:
    """The parent's part outlives the engine: carriers, table, listeners."""

    def __init__(
        self,
        make: Factory,
        *,
        sessions: int = 8,
        slots: int | None = None,
        per_client: int = 0,
        prefix6: int = 64,
        evict: bool = False,
        families: Sequence[socket.AddressFamily] = sockets.FAMILIES,
    ) -> None:
        """With sockets for so many `slots`, or all of them."""
        self._make = make
        self._per_client = per_client
        self._prefix6 = prefix6
        self._evict = evict
        self._stack = contextlib.ExitStack()
        self.capacity = sessions
        self._families = families
        memory = memoryview(mmap.mmap(-1, size(sessions)))
        self.table = Table(memory, sessions, fresh=True)
        self.carriers: list[socket.socket] = []
        self._grow(sessions if slots is None else slots)
        self.listeners: dict[int, ListenerSocket] = {}
        self.mirrors: dict[bytes, socket.socket] = {}
        self.host = Witness()
        self._engine: Engine | None = None
        self._loop = CountingLoop()
        self._start()

    @property
    def engine(self) -> Engine:
        assert self._engine
        return self._engine

    def _start(self) -> None:
        carriers = [carrier.dup() for carrier in self.carriers]
        table = Table(self.table.memory, self.capacity, fresh=False)
        self._engine = self._make(
            self._loop,
            table,
            carriers,
            self.host,
            per_client=self._per_client,
            prefix6=self._prefix6,
            evict=self._evict,
        )
        for listener in self.listeners.values():
            self._lend(listener)
        self._engine.take_mirrors(self.mirrors)

    def mirror(self, *addresses: str) -> None:
        """Copies can go to these, from a socket each; they hear what comes back, for the test."""
        for address in addresses:
            anywhere = "::" if ":" in address else "0.0.0.0"
            self.mirrors[sockets.pack(address)] = self.udp(anywhere)
        self.engine.take_mirrors(self.mirrors)

    def _grow(self, slots: int) -> list[socket.socket]:
        """Sockets for so many slots; the carriers that were made for it."""
        made = []
        for first in range(self.table.grown, slots, BATCH):
            count = min(BATCH, slots - first)
            made += [make_carrier(family, count) for family in self._families]
        self.carriers += made
        self.table.grow(slots)
        return made

    def grow(self, slots: int) -> None:
        """The same, and the engine is lent them."""
        self.engine.extend([carrier.dup() for carrier in self._grow(slots)], slots)

    def renew(self) -> None:
        """What the parent does with all that the engine has said to be spent."""
        spent, self.host.used_up = self.host.used_up, []
        for told in spent:
            fresh = []
            for family, slot in told:
                row = [one for one in self.carriers if peeked(one).family == family]
                at = self.carriers.index(row[slot // BATCH])
                batch = peek_carrier(self.carriers[at])
                batch[slot % BATCH].close()
                batch[slot % BATCH] = make_socket(socket.AddressFamily(family))
                self.carriers[at].close()
                self.carriers[at] = pack_carrier(batch)
                fresh.append((family, slot, batch.pop(slot % BATCH)))
                for sock in batch:
                    sock.close()
            self.engine.replace(fresh)

    def _lend(self, kept: ListenerSocket) -> None:
        self.engine.add_listener(replace(kept, socket=kept.socket.dup()))

    def stop(self) -> None:
        """The engine leaves in order; the sessions stay in the table."""
        self.engine.close()
        self._forget()

    def crash(self) -> None:
        """The engine is gone as after SIGKILL: its descriptors are closed, and that is all."""
        self._forget()

    def _forget(self) -> None:
        self._engine = None
        self._loop.close()
        self._loop = CountingLoop()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def use(self, make: Factory) -> None:
        """The next engine is made so."""
        self._make = make

    def restart(self) -> int:
        """A new engine with the same belongings; how many sessions it adopted."""
        self._start()
        return self.engine.adopt()

    def close(self) -> None:
        """Nothing stays open."""
        if self._engine:
            self.stop()
        self._loop.close()
        self._stack.close()
        for kept in [*self.carriers, *(one.socket for one in self.listeners.values())]:
            kept.close()

    def listen(
        self,
        address: str = "127.0.0.1",
        *,
        buffer: int = _LARGE,
        header_from: Sequence[str] = (),
        tells_dscp: bool = False,
    ) -> int:
        """One more listener, on a port of the kernel's choice; its number. `header_from`:
        networks whose PROXY headers it expects."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sockets.allow_fragments(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, sockets.IP_PKTINFO, 1)
        sock.bind((address, 0))
        number = len(self.listeners) + 1
        place = Place(ip_address(address), sock.getsockname()[1])
        networks = tuple(map(ip_network, header_from))
        listener = ListenerSocket(number, sock, place, header_from=networks, tells_dscp=tells_dscp)
        self.listeners[number] = listener
        self._lend(listener)
        return number

    def where(self, number: int = 1) -> Endpoint:
        """The listener's address and port."""
        listener = self.listeners[number]
        return str(listener.address), listener.port

    def udp(self, address: str = "127.0.0.1", port: int = 0) -> socket.socket:
        """A client's or a server's; closed with the rig."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self._stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LARGE)
        sock.settimeout(0)
        sock.bind((address, port))
        return sock

    def turn(self, patience: float = 0.0) -> None:
        """One look at what is ready."""
        self._loop.call_later(patience, self._loop.stop)
        self._loop.run()

    def until(self, condition: Callable[[], object], limit: float = LIMIT) -> None:
        """Let the engine work until `condition` holds."""
        deadline = time.monotonic() + limit
        patience = 0.0
        while not condition():
            assert time.monotonic() < deadline, f"it did not come to pass in {limit:g} s"
            self.turn(patience)
            patience = 0.001

    def is_quiet(self) -> bool:
        """Did nothing happen for 50 ms? Says so by the engine's callbacks, not by the clock."""
        seen = self._loop.callbacks
        self.turn(0.05)
        return self._loop.callbacks == seen

    def take(self, sock: socket.socket) -> tuple[bytes, Endpoint]:
        """The next datagram that `sock` gets, and its sender."""
        got: list[tuple[bytes, Endpoint]] = []

        def came() -> bool:
            with contextlib.suppress(BlockingIOError):
                data, sender = sock.recvfrom(sockets.LARGEST)
                got.append((data, (sender[0], sender[1])))
            return bool(got)

        self.until(came)
        return got[0]

    def converse(self, client: socket.socket, server: socket.socket, to: Endpoint) -> Endpoint:
        """A question and its answer, which pass; the session's address as the server sees it."""
        client.sendto(b"question", to)
        data, source = self.take(server)
        assert data == b"question"
        server.sendto(b"answer", source)
        assert self.take(client) == (b"answer", to)
        return source

    def expect_end(self, number: int, reason: Reason) -> Record:
        """Wait until the session has ended, for that reason and no other."""
        self.until(lambda: number in self.host.reasons)
        assert self.host.reasons[number] == [reason]
        return self.host.records[number]

    def pass_time(self, seconds: float) -> int | None:
        """What is due in so many seconds is done now; when the engine wants to be called."""
        return self.engine.work(time.monotonic_ns() + round(seconds * SECOND))

    def count(self, name: str) -> int:
        """One of the engine's figures."""
        return self.engine.figures()[name]

    def has_counted(self, name: str, wanted: int) -> bool:
        """Has the figure come to that?"""
        return self.count(name) == wanted

    def lent_sockets(self) -> Iterator[socket.socket]:
        """Every socket of the pool, as the next engine would find it."""
        for carrier in self.carriers:
            for sock in peek_carrier(carrier):
                with sock:
                    yield sock

    def expect_clean_pool(self) -> None:
        """No port, no peer, nothing waiting, no option left on."""
        for sock in self.lent_sockets():
            assert sock.getsockname()[1] == 0
            assert _peer(sock) is None
            assert sockets.drain(sock) == 0
            assert sockets.take_errors(sock)[0] == 0
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 0
            assert not _reports_errors(sock)
            assert (tos_of(sock), tells(sock)) == (0, False)


def peeked(carrier: socket.socket) -> socket.socket:
    """The first of its sockets, closed."""
    batch = peek_carrier(carrier)
    for sock in batch:
        sock.close()
    return batch[0]


def has_nothing(sock: socket.socket) -> bool:
    """Is no datagram waiting there? Ask only after something that came later has arrived."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def _peer(sock: socket.socket) -> object:
    try:
        return sock.getpeername()
    except OSError:
        return None


def _reports_errors(sock: socket.socket) -> int:
    if sock.family == socket.AF_INET:
        return sock.getsockopt(socket.IPPROTO_IP, sockets.IP_RECVERR)
    return sock.getsockopt(socket.IPPROTO_IPV6, sockets.IPV6_RECVERR)
