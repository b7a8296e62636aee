"""A session as the Python engine carries it: the book's session and what each datagram needs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable
from dataclasses import replace

from udpproxy.proxy.config.model import CLIENTS_PORT, SessionType
from udpproxy.proxy.engine import dscp, sockets
from udpproxy.proxy.engine.ends import Claim
from udpproxy.proxy.engine.interface import Arrival, Verdict
from udpproxy.proxy.engine.listened import Listening
from udpproxy.proxy.engine.sockets import Ancillary, answer_from
from udpproxy.proxy.session import layout, proxy_header
from udpproxy.proxy.session.index import Session
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.limits import NEVER
from udpproxy.proxy.session.meters import Meter
from udpproxy.proxy.session.peers import Endpoint, PeerRule

_TYPES = list(SessionType)
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
        "claim",
        "control",
        "download_at",
        "download_bytes",
        "downloads",
        "ends",
        "handed",
        "header",
        "listener",
        "member",
        "meter",
        "one_way",
        "own",
        "patience",
        "peer",
        "pktinfo",
        "plain",
        "receive",
        "reply",
        "rule",
        "screened",
        "send",
        "sock",
        "strips",
        "tells",
        "tos",
        "tos_down",
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
        client: Hashable,
        address: tuple[str, int],
        ends: tuple[proxy_header.Endpoint, proxy_header.Endpoint],
        local: bytes,
        interface: int,
        opened: int,
        verdict: Verdict,
        rule: PeerRule,
        sock: socket.socket,
        member: int = 0,
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
        self.pktinfo: Ancillary = answer_from(local, interface) if listener.wildcard else []
        self.control = self.pktinfo
        # The DSCP of what goes to the server, which the socket gives it, and to the client; and
        # whether the socket tells that of what comes.
        self.tos = self.tos_down = 0
        self.tells = False
        self.reply = listener.reply
        self.plain = rule.type in CONNECTED
        self.member = member
        self.one_way = rule.type is SessionType.ONE_WAY
        self.rule = rule
        self.own: Endpoint = ("", 0)
        self.claim: Claim | None = None
        """On its end of ours, where its socket keeps the port."""
        self.ends = ends
        self.header = b""
        self.meter: Meter | None = None
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
            watched
            or self.handed
            or self.awaited
            or self.budget.counts_upload
            or bool(self.header)
            or bool(self.verdict.mirrors)
            or self.verdict.keeps_dscp
        )
        self.careful_down = (
            watched
            or self.screened
            or self.awaited
            or self.strips
            or self.budget.counts_download
            or bool(self.control)
            or bool(self.verdict.tos)
            or self.verdict.keeps_dscp
            or not self.answered
            or self.unreachable
        )

    def sources(self) -> list[str]:
        """Our addresses towards the server that the rule names, in order."""
        return named_sources(self.verdict, self.ends[0][0], self.rule.server)

    @property
    def fixed_port(self) -> int:
        """The port towards the server that the rule names; 0: none, or it is the client's, who has
        none."""
        return port_of(self.verdict, self.ends[0])

    def source(self) -> bytes:
        """Our end towards the server, packed, where that is one that the rule names."""
        address = self.own[0]
        return sockets.pack(address) if address and address in self.sources() else b""

    def see_socket(self) -> None:
        """Whoever was before us has left it so."""
        self.tos, self.tells = dscp.tos_of(self.sock), dscp.tells(self.sock)

    def mark_by_rule(self) -> bool:
        """DSCP as the rule has it. True: datagrams of the server are to be read in another way."""
        keeps = self.verdict.keeps_dscp
        changed = keeps != self.tells
        if changed:
            dscp.tell(self.sock, on=keeps)
            self.tells = keeps
        if not keeps:
            self._mark(self.verdict.tos)
            self.answer_with(self.verdict.tos)
        return changed

    def unmark(self) -> None:
        """The socket is as it was made."""
        self._mark(0)
        if self.tells:
            dscp.tell(self.sock, on=False)
            self.tells = False

    def keep(self, tos: int) -> None:
        """What comes next from the client has that."""
        if self.verdict.keeps_dscp:
            self._mark(tos)

    def _mark(self, tos: int) -> None:
        if tos != self.tos:
            dscp.set_tos(self.sock, tos)
            self.tos = tos

    def answer_with(self, tos: int) -> None:
        """What goes to the client has that from now on."""
        if tos != self.tos_down:
            self.tos_down = tos
            family = sockets.family_of(self.listener.given.address.packed)
            self.control = [*self.pktinfo, *dscp.with_tos(family, tos)]

    def pin(self, peer: Endpoint) -> None:
        """From now on this is the server."""
        self.peer = peer
        self._point()


def named_sources(verdict: Verdict, client: bytes, server: Endpoint) -> list[str]:
    """Our addresses towards the server that the rule names, in order."""
    size, scope = len(sockets.pack(server[0])), sockets.scope_of(server)
    found = [source or client for source in verdict.sources]
    return [sockets.server_of((one, 0), scope)[0] for one in found if len(one) == size]


def port_of(verdict: Verdict, client: proxy_header.Endpoint) -> int:
    """The same of the port."""
    return client[1] if verdict.source_port == CLIENTS_PORT else verdict.source_port


def sender_of(record: Record) -> tuple[str, int]:
    """Who sends the client's datagrams and gets the replies, as the socket module has it."""
    return sockets.sockaddr(record.via or record.client, record.scope)


def came(record: Record) -> tuple[tuple[str, int], Arrival]:
    """The client, as the socket module has it, and how its datagrams come in."""
    via = sender_of(record) if record.via else None
    client = sockets.unpack(record.client[0]), record.client[1]
    return client if via else sender_of(record), Arrival(
        record.addressed, record.local, record.interface, record.addressed_port, via
    )


def peer_rule(record: Record, verdict: Verdict) -> PeerRule:
    """As the session was opened: a reload may have given the rule another type."""
    server = sockets.server_of(record.server, record.server_scope)
    kind = _TYPES[record.type]
    if record.network is None:  # a version that did not note it has opened it
        return PeerRule(kind, server, verdict.any_port, verdict.network)
    return PeerRule(kind, server, record.any_port, record.network)
