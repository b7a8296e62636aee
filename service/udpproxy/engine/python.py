"""The reference engine: careful Python. Two system calls a datagram, no task, no log line.

The way of a datagram of a known session: recvfrom, one look into a dict, three words of the
table, send. Everything else (first datagrams, limits, strangers, errors) leaves that way early.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import cast

from udpproxy.engine import sockets
from udpproxy.engine.continuity import Continuity
from udpproxy.engine.interface import Host, ListenerSocket, Reactor
from udpproxy.engine.pool import Pool
from udpproxy.engine.relayed import Listening, Relayed
from udpproxy.session import table as t
from udpproxy.session.limits import Verdict, judge_download, judge_upload
from udpproxy.session.peers import Reply, judge
from udpproxy.session.reasons import Reason

_LISTENER_BATCH = 64
"""Datagrams read from a listener before the servers get their turn."""

_MOST_BURST = 32
_PATIENCE = 16
"""A session that had nothing more is read singly for so many turns."""


class PythonEngine(Continuity):
    """The datagrams; Lifecycle and Continuity have the lives of sessions."""

    name = "python"

    def __init__(
        self,
        reactor: Reactor,
        table: t.Table,
        pool: Pool,
        host: Host,
        *,
        per_client: int,
        evict: bool,
    ) -> None:
        super().__init__(reactor, table, pool, host, per_client=per_client, evict=evict)
        self.watch = False

    def add_listener(self, listener: ListenerSocket) -> None:
        """Take clients' datagrams from it."""
        listening = self._enter(listener)
        read = self._from_wildcard if listening.wildcard else self._from_clients
        self._reactor.add_reader(listener.socket.fileno(), functools.partial(read, listening))

    def _from_clients(self, listening: Listening) -> None:
        receive = listening.given.socket.recvfrom
        get = listening.sessions.get
        now = time.monotonic_ns()
        for _ in range(_LISTENER_BATCH):
            try:
                data, client = receive(sockets.LARGEST)
            except BlockingIOError:
                return
            except OSError as problem:
                self._host.failed("receive from clients", problem)
                return
            session = get(client) or self._open(listening, client, client, now)
            if session is not None:
                self._upload(cast(Relayed, session), data, now)

    def _from_wildcard(self, listening: Listening) -> None:
        sock = listening.given.socket
        get = listening.sessions.get
        now = time.monotonic_ns()
        for _ in range(_LISTENER_BATCH):
            try:
                data, control, client = sockets.receive_with_destination(sock)
            except BlockingIOError:
                return
            except OSError as problem:
                self._host.failed("receive from clients", problem)
                return
            addressed, own, interface = sockets.addressed_to(control)
            key = (client, addressed)
            session = get(key)
            if session is None:
                session = self._open(listening, key, client, now, addressed, own, interface)
            if session is not None:
                self._upload(cast(Relayed, session), data, now)

    def _upload(self, session: Relayed, data: bytes, now: int) -> None:
        size = len(data)
        words, at = self._words, session.at
        last = False
        if session.counts_upload:
            count, volume = words[at + t.UPLOADS], words[at + t.UPLOAD_BYTES]
            verdict = judge_upload(session.budget, count, volume, size)
            if verdict is Verdict.OVER:
                self._close(session, Reason.UPLOAD_BYTES)
                return
            last = verdict is Verdict.PASS_LAST
        if self.watch:
            self._host.datagram(session.id, "upload", memoryview(data))
        try:
            session.send(data)
        except OSError as problem:
            if not self._sent_after_all(session, data, problem):
                return
        words[at + t.UPLOADS] += 1
        words[at + t.UPLOAD_BYTES] += size
        words[at + t.LAST] = now
        if last:
            self._close_upload(session)

    def _sent_after_all(self, session: Relayed, data: bytes, problem: OSError) -> bool:
        # An ICMP error is reported by the next call, whatever that does: this datagram was
        # not sent yet.
        if not self._is_icmp(session, problem):
            self._lost(session, "send to a server", problem)
            return False
        if self._unreachable(session):
            return False
        try:
            session.send(data)
        except OSError as again:
            self._lost(session, "send to a server", again)
            return False
        return True

    def _reader(self, session: Relayed) -> Callable[[], None]:
        read = self._from_server if session.plain else self._from_anybody
        return functools.partial(read, session)

    def _from_server(self, session: Relayed) -> None:
        receive = session.sock.recv
        now = time.monotonic_ns()
        for _ in range(session.burst):
            try:
                data = receive(sockets.LARGEST)
            except BlockingIOError:
                session.burst, session.patience = 1, _PATIENCE
                return
            except OSError as problem:
                self._count_icmp(session, problem)
                return
            if session.one_way:
                self._close(session, Reason.UNEXPECTED_REPLY)
                return
            if not self._download(session, data, now):
                return
        if session.patience:
            session.patience -= 1
        elif session.burst < _MOST_BURST:
            session.burst *= 2

    def _from_anybody(self, session: Relayed) -> None:
        now = time.monotonic_ns()
        for _ in range(_MOST_BURST):
            try:
                data, sender = session.sock.recvfrom(sockets.LARGEST)
            except BlockingIOError:
                return
            except OSError as problem:
                self._count_icmp(session, problem)
                return
            endpoint = (sender[0], sender[1])
            reply = judge(session.rule, session.peer, endpoint, sockets.pack(sender[0]))
            if reply is Reply.IGNORE:
                self._words[session.at + t.STRAY] += 1
                self._host.strayed(session.id, session.verdict.rule, endpoint)
                continue
            if reply is Reply.PIN and not self._pin(session, endpoint):
                continue
            if not self._download(session, data, now):
                return

    def _download(self, session: Relayed, data: bytes, now: int) -> bool:
        """False: the session is gone."""
        size = len(data)
        words, at = self._words, session.at
        last = False
        if session.counts_download:
            count, volume = words[at + t.DOWNLOADS], words[at + t.DOWNLOAD_BYTES]
            verdict = judge_download(session.budget, count, volume, size)
            if verdict is Verdict.OVER:
                self._close(session, Reason.DOWNLOAD_BYTES)
                return False
            last = verdict is Verdict.PASS_LAST
        if self.watch:
            self._host.datagram(session.id, "download", memoryview(data))
        listener = session.listener.given.socket
        try:
            if session.control:
                listener.sendmsg((data,), session.control, 0, session.address)
            else:
                listener.sendto(data, session.address)
        except OSError as problem:
            self._lost(session, "send to a client", problem)
            return True
        words[at + t.DOWNLOADS] += 1
        words[at + t.DOWNLOAD_BYTES] += size
        words[at + t.LAST] = now
        if not session.answered:
            session.answered = True
            self._book.answered(session)
        if last:
            self._close(session, Reason.DOWNLOAD_DATAGRAMS)
            return False
        return True
