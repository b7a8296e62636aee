"""A session as the Python engine carries it: the book's session and what each datagram needs."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Hashable
from dataclasses import replace
from ipaddress import ip_address

from udpproxy.config.model import Network
from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import Arrival, ListenerSocket, Verdict
from udpproxy.proxy.engine.sockets import Ancillary, answer_from
from udpproxy.proxy.policy.hosts import NetSet
from udpproxy.proxy.session import layout, proxy_header
from udpproxy.proxy.session.index import Session
from udpproxy.proxy.session.limits import NEVER
from udpproxy.proxy.session.peers import Endpoint, PeerRule

CONNECTED = (SessionType.NORMAL, SessionType.ONE_WAY)
"""Types whose socket is connected to the server from the start."""


class Relayed(Session):
    """`send` takes a datagram towards the server, wherever that is now."""

    __slots__ = (
        "address",
        "answered",
        "at",
        "awaited",
        "burst",
        "careful_down",
        "careful_up",
        "control",
        "download_at",
        "download_bytes",
        "downloads",
        "ends",
        "handed",
        "header",
        "listener",
        "one_way",
        "own",
        "patience",
        "peer",
        "plain",
        "receive",
        "reply",
        "rule",
        "screened",
        "send",
        "sock",
        "strips",
        "unreachable",
        "upload_at",
        "upload_bytes",
        "uploads",
        "verdict",
    )

    def __init__(
        self,
        *,
        number: int,
        slot: int,
        at: int,
        listener: Listening,
        key: Hashable,
        client: str,
        address: tuple[str, int],
        ends: tuple[proxy_header.Endpoint, proxy_header.Endpoint],
        local: bytes,
        interface: int,
        opened: int,
        verdict: Verdict,
        rule: PeerRule,
        sock: socket.socket,
    ) -> None:
        """`address` is who gets the replies, `ends` the client and the address that it wrote to."""
        super().__init__(
            number=number,
            slot=slot,
            owner=listener.sessions,
            key=key,
            client=client,
            budget=verdict.budget,
            opened=opened,
        )
        self.at = at
        # The counters stand in the table; these copies spare reading them back.
        self.upload_at = (at + layout.LAST_UPLOAD) * 8
        self.download_at = (at + layout.LAST_DOWNLOAD) * 8
        self.uploads = self.upload_bytes = self.downloads = self.download_bytes = 0
        self.listener = listener
        self.address = address
        self.control: Ancillary = answer_from(local, interface) if listener.wildcard else []
        self.reply = listener.reply
        self.plain = rule.type in CONNECTED
        self.one_way = rule.type is SessionType.ONE_WAY
        self.rule = rule
        self.own: Endpoint = ("", 0)
        self.ends = ends
        self.header = b""
        self.aim(sock, rule.server)
        self.answered = False
        # How many datagrams to read at a time: adaptive, since a read in vain costs a datagram.
        self.burst = 1
        self.patience = 0
        self.judge_by(verdict)

    def aim(self, sock: socket.socket, server: Endpoint) -> None:
        """Datagrams go there from now on, by that socket; nobody is pinned."""
        self.sock = sock
        self.receive = sock.recv
        self.rule = replace(self.rule, server=server)
        self.peer: Endpoint | None = None
        self.unreachable = False
        self._point()

    def _point(self) -> None:
        sock, server, header = self.sock, sockets.whole(self.rule.server), self.header
        connected = self.plain or self.peer is not None
        self.send: Callable[[bytes], int] = sock.send
        if header and connected:
            self.send = lambda data: sock.sendmsg((header, data))
        elif header:
            self.send = lambda data: sock.sendmsg((header, data), (), 0, server)
        elif not connected:
            self.send = lambda data: sock.sendto(data, server)

    def judge_by(self, verdict: Verdict) -> None:
        """The rules that hold from now on; type, server and who may reply stay as they were."""
        self.verdict = verdict
        self.budget = verdict.budget
        self.handed = verdict.handed
        self.screened = self.handed or self.one_way
        # Does a limit want to know since when its client waits for an answer?
        self.awaited = self.budget.silent < NEVER and not self.one_way
        self.header = proxy_header.make(verdict.header, *self.ends, self.id)
        self.strips = verdict.header == proxy_header.SIMPLE
        self._point()
        self.be_careful(watched=False)

    def be_careful(self, *, watched: bool) -> None:
        """Which directions need a look at each datagram; the others take the short way."""
        self.careful_up = (
            watched or self.handed or self.awaited or self.budget.counts_upload or bool(self.header)
        )
        self.careful_down = (
            watched
            or self.screened
            or self.awaited
            or self.strips
            or self.budget.counts_download
            or bool(self.control)
            or not self.answered
            or self.unreachable
        )

    def sources(self) -> list[str]:
        """Our addresses towards the server that the rule names, in order."""
        server = self.rule.server
        size, scope = len(sockets.pack(server[0])), sockets.scope_of(server)
        found = [source or self.ends[0][0] for source in self.verdict.sources]
        return [sockets.server_of((one, 0), scope)[0] for one in found if len(one) == size]

    def pin(self, peer: Endpoint) -> None:
        """From now on this is the server."""
        self.peer = peer
        self._point()


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
