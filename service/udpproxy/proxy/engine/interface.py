"""What REG and an engine know of each other; two engines, one interface (DESIGN 3).

An engine owns the sessions and carries their datagrams. It decides nothing about policy and
writes no log: it asks its host for a verdict on the first datagram of each (listener, client,
address and port written to) and tells the host what happened. All packed addresses are network
order bytes.

Behind a PROXY header the client and the address that it wrote to are those of the header, in
whatever is asked and told; who sent it gets the replies.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from udpproxy.config.model import Address, Network
from udpproxy.proxy.config.model import Place, SessionType
from udpproxy.proxy.session.balance import Candidate, Member
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.limits import Budget, Pace
from udpproxy.proxy.session.reasons import Reason

SEGMENTATION_REST = 600_000_000_000
"""Nanoseconds until runs of datagrams are tried again where a device could not cut them."""

Socket = socket.socket


@dataclass(frozen=True, slots=True)
class ListenerSocket:
    """A listening socket as the parent made it; `number` outlives restarts and reloads."""

    number: int
    socket: socket.socket
    place: Place
    others: tuple[Socket, ...] = ()
    """Of the workers after the first; all of them listen in the same place."""
    header_from: tuple[Network, ...] = ()
    """Each datagram has a PROXY header and comes from one of these; none: no datagram has one."""
    tells_dscp: bool = False
    """There are rules that keep the DSCP of what comes in here."""

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.place.address

    @property
    def port(self) -> int:
        """The same."""
        return self.place.port

    @property
    def sockets(self) -> tuple[Socket, ...]:
        """One for each worker."""
        return self.socket, *self.others

    @property
    def absent(self) -> bool:
        """Its interface is not there for now, and its sockets are closed ones."""
        return self.socket.fileno() < 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accepted session: where to, and under which rules."""

    rule_number: int
    generation: int
    """Which configuration the ACL's number belongs to."""
    rule: str
    type: SessionType
    server: tuple[str, int]
    budget: Budget
    any_port: bool
    network: tuple[bytes, bytes] | None
    close_on_unreachable: bool
    sources: tuple[bytes, ...] = ()
    """Our addresses towards the server, in the order in which they are tried; empty bytes: the
    client's own."""
    fallback: bool = True
    """Where none of them is there: the one that the system chooses."""
    source_port: int = 0
    """From which of our ports: CLIENTS_PORT, a number, or 0, and the system chooses."""
    handed: bool = False
    """Every datagram goes by Host.handed."""
    header: str = ""
    """Which header each datagram to the server has: one of proxy_header.KINDS."""
    member: int = 0
    """The number of `server` where it is one of a group, see session.balance.Members."""
    candidates: tuple[Candidate, ...] = ()
    """A new session gets one of these, in the place of `server`."""
    balance: str = ""
    """Which one: one of model.BALANCES."""
    mirrors: tuple[tuple[str, int], ...] = ()
    """Who else gets what the server gets."""
    tos: int = 0
    """The DSCP of all datagrams, both ways, as the byte of the IP header (engine/dscp.py)."""
    keeps_dscp: bool = False
    """Instead of that, each datagram's own."""


@dataclass(frozen=True, slots=True)
class PendingName:
    """The third answer of Host.decide: a name is not known yet. To an engine all of it is opaque:
    it hands the object back with the datagram, in Host.wait."""

    kind: str
    """"client": the client's name is asked for; "server": the server's address."""
    name: str
    rule_number: int
    generation: int
    rule: str
    type: SessionType
    port: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a client's datagram came in, as an engine needs it back in Engine.inject. The address
    written to, the one to answer from (both packed), the receiving interface's number, the port
    written to, who sent it where that was not the client, and its DSCP (Verdict.tos) where the
    listener tells that."""

    addressed: bytes
    local: bytes
    interface: int
    port: int
    via: tuple[str, int] | None = None
    tos: int = 0


ExtensionResult = tuple[str, bytes] | Reason | None
"""What becomes of a datagram that was handed over: a payload leaves ("upload": to the server,
"download": to the client) if the limits let it, the session ends, or nothing leaves."""


class Host(Protocol):
    """REG, as an engine sees it. None of these may block."""

    def decide(
        self, listener: ListenerSocket, client: str, addressed: str, port: int
    ) -> Verdict | PendingName | None:
        """None: refused, and the host has counted and logged it. PendingName: hand the datagram to
        wait() and forget it; nothing of the session exists so far."""

    def wait(
        self,
        waiting: PendingName,
        listener: ListenerSocket,
        client: tuple[str, int],
        arrival: Arrival,
        data: bytes,
    ) -> None:
        """A datagram for which decide() has just said `waiting`. The host keeps it (or drops and
        counts it) and calls Engine.inject when the answer is there or the time is over."""

    def decided(self, record: Record) -> Verdict | None:
        """The verdict for a session found in the table; None: no longer accepted."""

    def handed(
        self, verdict: Verdict, slot: int, number: int, direction: str, payload: bytes
    ) -> ExtensionResult:
        """A datagram of a session whose verdict says so, from somebody who may send it; those of
        one session come in order. `slot` is where its record stands."""

    def opened(
        self, number: int, rule: str, client: tuple[str, int], server: tuple[str, int]
    ) -> None:
        """A session was opened."""

    def ended(self, record: Record, rule: str, reason: Reason) -> None:
        """A session ended; `record` has its last counters."""

    def lost(self, slot: int, why: str) -> None:
        """The slot's session cannot go on: what the table has of it makes no sense."""

    def refused(
        self,
        counter: str,
        client: tuple[str, int],
        listener: ListenerSocket,
        problem: OSError | None = None,
        count: int = 1,
    ) -> None:
        """A new session was refused for want of something, the first of `count`; `counter` is one
        of table.TOTALS, `problem` why the system did not open it. "bad-header": nobody knows whose
        datagram it was, and `client` is who sent it."""

    def strayed(self, number: int, rule: str, sender: tuple[str, int]) -> None:
        """A reply from somebody who may not reply was ignored."""

    def rerouted(self, slot: int, number: int, rule: str) -> None:
        """A session goes on from another end of ours, for the old one was of no use any more."""

    def silent(self, slot: int, number: int, rule: str) -> None:
        """A session's server does not answer: it was connected afresh, and waits as long again."""

    def unreachable(self, slot: int, number: int, rule: str, problem: int) -> None:
        """The first ICMP error of a session since its server's last reply; `problem` is the errno
        that the system makes of it."""

    def answers(self, slot: int, number: int, rule: str) -> None:
        """A session's first reply since ICMP errors came; while the host awaits answers, each
        session's first one."""

    def failed(self, what: str, problem: OSError, slot: int = 0, number: int = 0) -> None:
        """The system refused to carry a datagram, which is lost and counted; `number` is 0 where
        that was no session's."""

    def not_copied(
        self, rule: str, receiver: tuple[str, int], problem: OSError, count: int = 1
    ) -> None:
        """So many copies for a receiver of the rule could not be sent; they are counted."""

    def unsegmented(self, sessions: int) -> None:
        """A device cannot cut runs of datagrams, as so many sessions have found out: all do without
        for SEGMENTATION_REST."""

    def scarce(self) -> None:
        """Few slots with sockets are left, and there can be more: Engine.extend, or lack."""

    def spent(self, sockets: list[tuple[int, int]]) -> None:
        """Families and slots whose sockets keep a port that sessions have had: until
        Engine.replace brings others no session can have these slots. Many at a time, and not
        before those of the last time are back."""

    def datagram(self, number: int, direction: str, payload: memoryview) -> None:
        """Called for each datagram, but only while the host has asked for it (level full)."""


class DecisionCacheHost(Protocol):
    """A host that spares an engine questions and answers: for whom else and how long a decision
    holds, and many records at a time."""

    def lasting(
        self, listener: ListenerSocket, client: str, addressed: str, port: int
    ) -> tuple[int, int]:
        """About what decide() just said: it is the same for all clients whose addresses begin
        with so many bits of this one's, until that moment (monotonic, nanoseconds); 0: it holds
        for this one session."""

    def denied(
        self, listener: ListenerSocket, client: str, addressed: str, port: int, count: int
    ) -> None:
        """So many more datagrams were refused, as decide() had said of others."""

    def tells(self, rule: str, reason: Reason, *, answered: bool) -> bool:
        """Is a record wanted of a session that ended so? If not the host has counted it."""

    def wants_texts(self) -> bool:
        """Are lines all that is wanted of records? Then ended_texts() takes the place of ended(),
        which costs much for each session."""

    def ended_texts(self, texts: list[str]) -> None:
        """Sessions ended; their records as session.record.text() writes them."""


class Timer(Protocol):
    """What call_later returns."""

    def cancel(self) -> object:
        """It does not fire."""


class Reactor(Protocol):
    """A loop that calls back; asyncio's event loop is one."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Once, after `delay` seconds."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object:
        """Call back while `fd` is readable or has an error."""

    def remove_reader(self, fd: int, /) -> object:
        """No more."""


class Engine(Protocol):
    """The relay, as REG sees it."""

    name: str

    def watch(self, *, on: bool) -> None:
        """Tell the host of each datagram (level full): costs much, so off at first."""

    def announce(self, *, openings: bool) -> None:
        """Whether the host is told of each session that opens; at first it is."""

    def await_answers(self, *, on: bool) -> None:
        """Whether the host is told of each session's first reply; at first it is not."""

    def segment(self, *, on: bool) -> bool:
        """Hand runs of equal datagrams over in one go, as at first. False: it never can."""

    def forget_decisions(self) -> None:
        """What the host said of clients may not hold any more: ask again."""

    @property
    def sessions(self) -> int:
        """How many there are now."""

    def limit_ports(self, most: int, each: int) -> None:
        """How many of the host's ports sessions may have at a time, each takes one, and of those
        of one source address; 0, as at first: no limit. Those that there are stay."""

    def limit_openings(self, pace: Pace) -> None:
        """How fast sessions may open, all together; at first as fast as they like."""

    def extend(self, carriers: list[socket.socket], slots: int) -> None:
        """More sockets towards servers, for new slots or of a family that was not needed before:
        the first `slots` of all have theirs by now. UnitError, and nothing has changed, where the
        system lacks what it takes."""

    def lack(self, problem: int) -> None:
        """There are no sockets for slots for now, and this errno says why: sessions that need one
        are refused till extend() or replace()."""

    def replace(self, fresh: list[tuple[int, int, socket.socket]]) -> None:
        """Other sockets for what Host.spent was told of, by family and slot."""

    def add_listener(self, listener: ListenerSocket) -> None:
        """Take clients' datagrams from it. One of a number that there is takes that one's place,
        and its sessions."""

    def expect_headers(self, number: int, header_from: tuple[Network, ...]) -> None:
        """The listener's ListenerSocket.header_from from now on; sessions stay until the host is
        asked about them."""

    def tell_dscp(self, number: int, *, on: bool) -> None:
        """The listener's ListenerSocket.tells_dscp from now on."""

    def take_mirrors(self, mirrors: dict[bytes, socket.socket]) -> None:
        """Copies leave from these, by the packed addresses of their receivers. Those that it had
        before are not used once it has asked the host about every session; whoever lends them
        closes them."""

    def remove_listener(self, number: int) -> int:
        """Its sessions end as `policy`; how many."""

    def adopt(self) -> int:
        """Go on with the sessions in the table; how many there were."""

    def reconsider(self) -> int:
        """The rules have changed: ask the host about every session; how many ended."""

    def kill(self, number: int, reason: Reason = Reason.KILLED) -> bool:
        """End one session; False: there is none of that number."""

    def end(self, slot: int, number: int) -> bool:
        """The same as killed, of the session whose slot is known: one of many."""

    def inject(
        self, listener: int, client: tuple[str, int], arrival: Arrival, datagrams: list[bytes]
    ) -> None:
        """Treat these, which Host.wait got, as if they came now, in this order: known session,
        else decide() (which may say Wait again). A listener that is gone: they are dropped."""

    def redirect(self, number: int, server: tuple[str, int], member: int = 0) -> bool:
        """The session goes on to another server (its name has another address): a fresh port
        towards it, a pinned peer is forgotten, limits and counters go on, the table's record
        shows the new server, whose number in its group is `member`. Where the system refuses, the
        session ends as `error`. False: there is none of that number."""

    def choose(self, verdict: Verdict, record: Record) -> tuple[tuple[str, int], int] | None:
        """Which of the verdict's candidates the record's session would get now, and its number;
        None: there is none."""

    def set_member(self, number: int, state: int, *, trial: bool = False) -> None:
        """How a server of a group does from now on: bits of session.balance; `trial`: the next
        session is one for it, though it is down."""

    def member(self, number: int) -> Member:
        """How it does, and what its sessions have seen."""

    def reconnect(self, slot: int, number: int) -> bool:
        """That session goes on from another port, and from the address that the system has for it
        now; what its server has sent so far is passed on. False: it is there no more, or its
        socket has no peer, so that the system chooses for each datagram anyway."""

    def work(self, now: int) -> int | None:
        """Expire what is due and do what is done now and then. Returns when to call again, in
        nanoseconds of the monotonic clock."""

    def figures(self) -> dict[str, int]:
        """How it is doing: counters and gauges for info."""

    def close(self) -> None:
        """Stop carrying datagrams; the sessions stay in the table for the next one."""
