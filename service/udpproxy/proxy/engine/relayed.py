"""A session as the Python engine carries it: the book's session and what each datagram needs."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Hashable
from dataclasses import replace

from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import ListenerSocket, Verdict
from udpproxy.proxy.engine.sockets import Ancillary, answer_from
from udpproxy.proxy.session import layout
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
        "handed",
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
        address: tuple[str, int],
        local: bytes,
        interface: int,
        opened: int,
        verdict: Verdict,
        rule: PeerRule,
        sock: socket.socket,
    ) -> None:
        super().__init__(
            number=number,
            slot=slot,
            owner=listener.sessions,
            key=key,
            client=address[0],
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
        self.send: Callable[[bytes], int] = sock.send
        if not self.plain:
            where = sockets.whole(server)
            self.send = lambda data: sock.sendto(data, where)

    def judge_by(self, verdict: Verdict) -> None:
        """The rules that hold from now on; type, server and who may reply stay as they were."""
        self.verdict = verdict
        self.budget = verdict.budget
        self.handed = verdict.handed
        self.screened = self.handed or self.one_way
        # Does a limit want to know since when its client waits for an answer?
        self.awaited = self.budget.silent < NEVER and not self.one_way
        self.be_careful(watched=False)

    def be_careful(self, *, watched: bool) -> None:
        """Which directions need a look at each datagram; the others take the short way."""
        self.careful_up = watched or self.handed or self.awaited or self.budget.counts_upload
        self.careful_down = (
            watched
            or self.screened
            or self.awaited
            or self.budget.counts_download
            or bool(self.control)
            or not self.answered
            or self.unreachable
        )

    def sources(self) -> list[str]:
        """Our addresses towards the server that the rule names, in order."""
        server = self.rule.server
        size, scope = len(sockets.pack(server[0])), sockets.scope_of(server)
        found = [source or sockets.pack(self.address[0]) for source in self.verdict.sources]
        return [sockets.server_of((one, 0), scope)[0] for one in found if len(one) == size]

    @property
    def goes_as_told(self) -> bool:
        """Does it go by an address that its rule names, whatever the system would choose?"""
        return bool(self.own[1]) and self.own[0] in self.sources()

    def pin(self, peer: Endpoint) -> None:
        """From now on this is the server."""
        self.peer = peer
        self.send = self.sock.send


def _absent(*_: object) -> int:
    """No way to the client, for the listener's interface is not there."""
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


class Listening:
    """A listener and the sessions of its clients, by what their datagrams carry."""

    __slots__ = ("given", "receive", "reply", "reply_from", "sessions", "wildcard")

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
