"""The sockets towards servers, borrowed from the parent: one for each slot and family.

The parent keeps them in carriers: socket pairs that each hold one message with a batch of
descriptors. A carrier is only peeked, never read, so every REG that comes finds the very same
sockets, bound and connected as the last one left them.
"""

from __future__ import annotations

import array
import errno
import functools
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from udpproxy.errors import UnitError
from udpproxy.proxy.config import firewall
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.session.peers import Endpoint

BATCH = 250
"""Sockets in a carrier; the kernel takes 253 descriptors in one message (SCM_MAX_FD)."""

_RECEIVE_BUFFER = 1 << 20

_MOST_RESTING = 4096
"""Ports, of 28,232 that the kernel has by default."""
_MOST_TRIES = 8


_NO_PORT = (errno.EADDRINUSE, errno.EAGAIN)


class Sources(NamedTuple):
    """From where a server is written to: these addresses, in order, and whether another one that
    the system chooses will do where none of them is there."""

    addresses: Sequence[str]
    fallback: bool
    unbind: bool = False
    """The socket may have been bound to an address, which the system never forgets by itself."""
    used_up: bool = False
    """There were others, whose ports sessions have as far as they may."""


ANYWHERE = Sources((), fallback=True)


def why(problem: OSError) -> str:
    """Why there are no more sockets, in words that say what to do."""
    if problem.errno == errno.ETOOMANYREFS:  # unix(7): what is on its way counts by user
        return (
            "the processes of this user have as many descriptors in carriers as the limit allows: "
            "raise LimitNOFILE= (ulimit -n)"
        )
    return problem.strerror or str(problem)


def check_limit(sessions: int, needed: int, limit: int) -> None:
    """UnitError, with both numbers, where not all sessions could have their sockets."""
    if needed > limit:
        raise UnitError(
            "descriptors",
            f"max-sessions = {sessions} needs {needed} descriptors, the limit is {limit}: lower "
            "max-sessions or raise the limit (ulimit -n, LimitNOFILE=)",
        )


def make_carrier(
    family: socket.AddressFamily, count: int, *, foreign: bool = False
) -> socket.socket:
    """A new batch of `count` sockets; the end that is to be kept. `foreign`: see take_foreign().
    OSError where the system has no more descriptors (those in carriers count against
    RLIMIT_NOFILE, too)."""
    made: list[socket.socket] = []
    try:
        made.extend(make_socket(family, foreign=foreign) for _ in range(count))
        return pack_carrier(made)
    finally:
        for sock in made:
            sock.close()


def pack_carrier(batch: Sequence[socket.socket]) -> socket.socket:
    """A carrier of these, which stay ours, too."""
    keep, fill = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with fill:
        try:
            told = bytes([batch[0].family, len(batch)])
            socket.send_fds(fill, [told], [sock.fileno() for sock in batch])
        except OSError:
            keep.close()
            raise
    return keep


def make_socket(family: socket.AddressFamily, *, foreign: bool = False) -> socket.socket:
    """One of a batch."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    # With the default a busy session loses datagrams that wait while others are served.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sockets.allow_fragments(sock)
    if foreign:
        take_foreign(sock)
    return sock


def take_foreign(sock: socket.socket) -> None:
    """It may be bound to a client's address. The mark lets the firewall tell what comes from it, so
    that whoever relays can be held to the clients of the rules (SO_MARK, socket(7));
    PermissionError without CAP_NET_RAW."""
    sockets.take_foreign(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, firewall.OURS)


def peek_carrier(carrier: socket.socket) -> list[socket.socket]:
    """Duplicates of the batch, which stays where it is; [] where somebody has read it. OSError
    where the system has no descriptors for all of them: without one each of the others would be
    that of another slot."""
    try:
        made, fds = peek(carrier, 2)
    except BlockingIOError:
        return []
    if len(made) < 2:
        return []
    family, count = made
    if len(fds) != count:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, f"{len(fds)} of {count} sockets of a carrier could be had")
    kind = socket.AddressFamily(family)
    return [socket.socket(kind, socket.SOCK_DGRAM, 0, fileno=fd) for fd in fds]


def peek(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """The next message and duplicates of its descriptors, as many as the system has room for."""
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    # socket.recv_fds() forgets its flags in Python 3.11 and would take the message.
    text, control, _, _ = sock.recvmsg(size, socket.CMSG_LEN(BATCH * 4), flags)
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return text, list(fds)


class RestingPorts:
    """A port that was given back rests until so many others were: an answer to the old session may
    still be on its way, and from the new one's server it would pass for its own."""

    def __init__(self) -> None:
        self._given_back: dict[int, int] = {}
        self._count = 0
        self._rest = 0

    def add(self, port: int) -> None:
        """It is given back now."""
        self._count += 1
        self._given_back[port] = self._count
        self._rest = min(self._rest + 1, _MOST_RESTING)

    def __contains__(self, port: int) -> bool:
        return self._count - self._given_back.get(port, -_MOST_RESTING) < self._rest

    def rest_less(self) -> None:
        """Ports are scarce here: half of those that rest have rested enough."""
        self._rest //= 2


class Pool:
    """Socket i of each family belongs to slot i of the table."""

    def __init__(self, carriers: list[socket.socket]) -> None:
        """See extend()."""
        self._sockets: dict[int, list[socket.socket]] = {socket.AF_INET: [], socket.AF_INET6: []}
        self._resting = RestingPorts()
        self.extend(carriers)

    def extend(self, carriers: list[socket.socket]) -> None:
        """Peek into all carriers and close our ends of them. UnitError where one is empty or the
        system lacks descriptors: then nothing has changed."""
        found: list[list[socket.socket]] = []
        try:
            for carrier in carriers:
                found.append(peek_carrier(carrier))
                if not found[-1]:
                    raise UnitError("socket pool", "a carrier is empty")
        except (OSError, UnitError) as problem:
            for sock in itertools.chain(*found):
                sock.close()
            if isinstance(problem, UnitError):
                raise
            raise UnitError(
                "socket pool",
                f"{problem.strerror}: raise the limit of descriptors or lower max-sessions",
            ) from None
        for batch in found:
            self._sockets[batch[0].family].extend(batch)
        for carrier in carriers:
            carrier.close()
        carriers.clear()

    def get(self, family: socket.AddressFamily, slot: int) -> socket.socket:
        """The slot's socket towards a server of that family."""
        return self._sockets[family][slot]

    def replace(self, family: int, slot: int, sock: socket.socket) -> None:
        """Another socket for the slot, whose own keeps a port."""
        row = self._sockets[family]
        row[slot].close()
        row[slot] = sock

    def kept(self, slot: int) -> list[int]:
        """The families whose socket of the slot keeps a port."""
        return [
            family
            for family, row in self._sockets.items()
            if slot < len(row) and sockets.keeps_port(row[slot])
        ]

    def size(self, family: socket.AddressFamily) -> int:
        """How many sessions that family can have."""
        return len(self._sockets[family])

    def connect(
        self, sock: socket.socket, server: Endpoint, sources: Sources = ANYWHERE
    ) -> Endpoint:
        """Only `server` may reply from now on. Our own end of the association; OSError where
        there is no port (EAGAIN) or no route."""
        server = sockets.whole(server)

        def attach(source: str) -> None:
            if source or sources.unbind:
                sock.bind(sockets.whole((source or anywhere(sock), 0)))
            sock.connect(server)

        return self._from(sock, sources, attach)

    def _from(
        self, sock: socket.socket, sources: Sources, attach: Callable[[str], None]
    ) -> Endpoint:
        """By the first source that has a port. Where those that there are have none, the system
        would find none either."""
        if sources is ANYWHERE:
            return self._get_port(sock, functools.partial(attach, ""))
        if sources.addresses or sources.unbind:
            # Only what has no port can be bound, and a slot's last session may have left one.
            sockets.disconnect(sock)
        used_up = sources.used_up
        number = errno.EAGAIN if used_up else errno.EADDRNOTAVAIL
        problem = OSError(number, os.strerror(number))
        for source in sources.addresses:
            try:
                return self._get_port(sock, functools.partial(attach, source))
            except OSError as why:
                problem = why
                used_up = used_up or why.errno in _NO_PORT
                sockets.disconnect(sock)
        if used_up or not sources.fallback:
            raise problem
        return self._get_port(sock, lambda: attach(""))

    def _get_port(self, sock: socket.socket, attach: Callable[[], None]) -> Endpoint:
        """The kernel picks one, again while that still rests; where all do, the last one is it.

        What is there already is thrown away, for we have sent nothing that could be answered: a
        late one of the socket's last session, and whoever hit the moment before the kernel noted
        the peer. Where that has no end soon, somebody shoots at the port, and we do without."""
        for tries in range(1, _MOST_TRIES + 1):
            attach()
            own = name_of(sock)
            empty = sockets.discard(sock, sockets.MOST_EARLY) < sockets.MOST_EARLY
            resting = own[1] in self._resting
            if empty and not resting:
                return own
            if tries < _MOST_TRIES:
                sockets.disconnect(sock)
        if resting:
            self._resting.rest_less()
        if not empty:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return own

    def bind(
        self,
        sock: socket.socket,
        server: Endpoint,
        sources: Sources = ANYWHERE,
        *,
        broadcast: bool,
    ) -> Endpoint:
        """Anybody may reply. Our own end as `server` will see it."""
        if broadcast:
            sockets.allow_broadcast(sock, on=True)
        server = sockets.whole(server)
        chosen = ""

        def attach(source: str) -> None:
            nonlocal chosen
            if not source:
                if sources.unbind:
                    sock.bind((anywhere(sock), 0))
                sock.connect(server)
                chosen, _ = name_of(sock)
                sockets.disconnect(sock)
            sock.bind(sockets.whole((source or anywhere(sock), 0)))
            chosen = source or chosen

        _, port = self._from(sock, sources, attach)
        sockets.report_errors(sock, on=True)
        return chosen, port

    def pin(self, sock: socket.socket, peer: Endpoint) -> None:
        """From now on only `peer` may reply; what others sent before still has to be judged."""
        sock.connect(sockets.whole(peer))
        sockets.report_errors(sock, on=False)
        sockets.take_errors(sock)

    def reset(self, sock: socket.socket, *, plain: bool, port: int = 0) -> None:
        """As it was made: no port, no peer, nothing waiting. `plain`: it was connected only;
        `port`: what a session had, which rests."""
        if port:
            self._resting.add(port)
        if plain:
            sockets.disconnect(sock)
            sockets.drain(sock)
        else:
            sockets.reset(sock)

    def close(self) -> None:
        """Give all of them back; the parent keeps its own."""
        for batch in self._sockets.values():
            for sock in batch:
                sock.close()


def anywhere(sock: socket.socket) -> str:
    """The address that stands for all of ours."""
    return "0.0.0.0" if sock.family == socket.AF_INET else "::"


def name_of(sock: socket.socket) -> Endpoint:
    """Its own end."""
    name = sock.getsockname()
    return name[0], name[1]


def is_full(carrier: socket.socket) -> bool:
    """Does it still hold its batch?"""
    try:
        return len(carrier.recv(2, socket.MSG_PEEK | socket.MSG_DONTWAIT)) == 2
    except BlockingIOError:
        return False
