"""The reference engine: careful Python. Two system calls a datagram, no task, no log line.

The way of a datagram of a known session: recvfrom, one look into a dict, three words of the
table, send. Everything else (first datagrams, limits, strangers, errors) leaves that way early.
"""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import cast

from udpproxy.config.model import Network
from udpproxy.proxy.engine import dscp, sockets
from udpproxy.proxy.engine.interface import Arrival, ListenerSocket
from udpproxy.proxy.engine.listened import Listening
from udpproxy.proxy.engine.marking import LISTENER_BATCH, MOST_BURST, MOST_IN_VAIN, Marking
from udpproxy.proxy.engine.relayed import Relayed, came
from udpproxy.proxy.session import layout, proxy_header
from udpproxy.proxy.session.limits import (
    Verdict,
    asked_at,
    is_amplified,
    judge_download,
    judge_upload,
)
from udpproxy.proxy.session.reasons import Reason

_LARGEST = sockets.LARGEST
_write_carried = layout.CARRIED.pack_into

_SENDS = range(8)
"""A datagram is sent again so often, after errors of others."""

_PATIENCE = 16
"""A session that had nothing more is read singly for so many turns."""


class PythonEngine(Marking):
    """The datagrams; Lifecycle, Continuity and Handing have the lives of sessions, Mirroring and
    Marking what some of them want besides."""

    name = "python"

    def segment(self, *, on: bool) -> bool:
        """Every datagram goes alone here."""
        return False

    def forget_decisions(self) -> None:
        """None are kept here: the host is asked for each session."""

    def watch(self, *, on: bool) -> None:
        """Tell the host of each datagram from now on, or no more."""
        if on != self._watched:
            self._watched = on
            for session in self._sessions():
                session.be_careful(watched=on)

    def add_listener(self, listener: ListenerSocket) -> None:
        """Take clients' datagrams from it."""
        self._listen(self._enter(listener))

    def expect_headers(self, number: int, header_from: tuple[Network, ...]) -> None:
        """PROXY headers, or none, from now on."""
        listening = self._listeners[number]
        listening.expect_headers(header_from)
        if not listening.given.absent:
            self._reactor.remove_reader(listening.given.socket.fileno())
        self._listen(listening)

    def _client_reader(self, listening: Listening) -> Callable[[], None]:
        read = self._from_wildcard if listening.wildcard else self._from_clients
        if listening.given.tells_dscp:
            read = self._from_marked
        if listening.header_from is not None:
            read = self._from_proxies
        return functools.partial(read, listening)

    def _from_clients(self, listening: Listening) -> None:
        receive = listening.receive
        get = cast("Callable[[Hashable], Relayed | None]", listening.sessions.get)
        memory = self._table.memory
        now, vain = time.monotonic_ns(), 0
        for _ in LISTENER_BATCH:
            try:
                data, client = receive(_LARGEST)
            except BlockingIOError:
                return
            except OSError as problem:
                self._host.failed("receive from clients", problem)
                return
            session = get(client)
            if session is None:
                session = self._open(listening, client, client, now, data, listening.arrival)
                if session is None:
                    vain += 1
                    if vain < MOST_IN_VAIN:
                        continue
                    return
            if session.careful_up:
                self._upload(session, data, now)
                continue
            try:
                session.send(data)
            except OSError as problem:
                if not self._sent_after_all(session, data, problem, now):
                    continue
            session.uploads = count = session.uploads + 1
            session.upload_bytes = volume = session.upload_bytes + len(data)
            _write_carried(memory, session.upload_at, now, count, volume)

    def _from_wildcard(self, listening: Listening) -> None:
        sock = listening.given.socket
        get = cast("Callable[[Hashable], Relayed | None]", listening.sessions.get)
        now, vain = time.monotonic_ns(), 0
        for _ in LISTENER_BATCH:
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
                arrival = Arrival(addressed, own, interface, listening.given.port)
                session = self._open(listening, key, client, now, data, arrival)
            if session is not None:
                self._upload(session, data, now)
            elif (vain := vain + 1) >= MOST_IN_VAIN:
                return

    def _from_proxies(self, listening: Listening) -> None:
        """Each datagram says whose it is."""
        sock = listening.given.socket
        now, vain = time.monotonic_ns(), 0
        for _ in LISTENER_BATCH:
            try:
                data, control, sender = sockets.receive_with_destination(sock)
            except BlockingIOError:
                return
            except OSError as problem:
                self._host.failed("receive from clients", problem)
                return
            session = self._behind_header(listening, data, control, sender, now)
            if session is not None:
                self._upload(*session, now)
            elif (vain := vain + 1) >= MOST_IN_VAIN:
                return

    def _behind_header(
        self,
        listening: Listening,
        data: bytes,
        control: sockets.Ancillary,
        sender: tuple[str, int],
        now: int,
    ) -> tuple[Relayed, bytes] | None:
        """The session of the datagram, and what it says behind its header; None: there is none."""
        header = proxy_header.parse(data)
        arrival, client = listening.arrival, sender
        if listening.wildcard:
            arrival = Arrival(*sockets.addressed_to(control), listening.given.port)
        if listening.given.tells_dscp:
            arrival = replace(arrival, tos=dscp.told(control))
        if header is not None and header.client and header.addressed:
            addressed, port = header.addressed
            arrival = replace(arrival, addressed=addressed, port=port, via=sender)
            client = sockets.unpack(header.client[0]), header.client[1]
        key = listening.key(client, arrival)
        session = cast("Relayed | None", listening.sessions.get(key)) if header else None
        if header is None or (session is None and not listening.believes(sender)):
            self._refuse("bad-header", sender, listening)
            return None
        data = data[header.size :]
        session = session or self._open(listening, key, client, now, data, arrival)
        if session:
            session.keep(arrival.tos)
        return (session, data) if session else None

    def _upload(self, session: Relayed, data: bytes, now: int) -> None:
        """The long way: the host that treats or wants to see it, and limits."""
        if session.budget.datagrams and not self._may_send(session, now):
            return
        if session.handed:
            treated = self._treat(session, "upload", data, now)
            if treated is None:
                return
            data = treated
        size = len(data)
        if session.header and len(session.header) + size > proxy_header.LARGEST:
            self._too_long(session)
            return
        verdict = judge_upload(session.budget, session.uploads, session.upload_bytes, size)
        if verdict is Verdict.OVER:
            self._close(session, Reason.UPLOAD_BYTES)
            return
        if self._watched:
            self._host.datagram(session.id, "upload", memoryview(data))
        try:
            session.send(data)
        except OSError as problem:
            if not self._sent_after_all(session, data, problem, now):
                return
        self._count_upload(session, size, now)
        self._copy(session, data)
        if verdict is Verdict.PASS_LAST and session.one_way:
            self._close(session, Reason.UPLOAD_DATAGRAMS)
        elif verdict is Verdict.PASS_LAST:
            self._close_upload(session)

    def _too_long(self, session: Relayed) -> None:
        problem = OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self._table.count("too-long")
        self._host.failed("put a PROXY header before a datagram", problem, session.slot, session.id)

    def _count_upload(self, session: Relayed, size: int, now: int) -> None:
        session.uploads += 1
        session.upload_bytes += size
        counters = session.uploads, session.upload_bytes
        _write_carried(self._table.memory, session.upload_at, now, *counters)
        if session.awaited and not self._words[session.at + layout.ASKED]:
            self._words[session.at + layout.ASKED] = asked_at(now)

    def _sent_after_all(self, session: Relayed, data: bytes, problem: OSError, now: int) -> bool:
        # An ICMP error is reported by the next call, whatever that does: this datagram was not
        # sent yet. Most numbers can also mean that there is no route: sending it again tells, and
        # has sent it. There may be another ICMP error each time, so fast as somebody can forge
        # them.
        untold = told = 0  # ICMP's, if there is a route
        for _ in _SENDS:
            if self._is_icmp(session, problem):
                if session.verdict.close_on_unreachable:
                    self._reopen(session, data, now)
                    return False
            elif problem.errno in sockets.UNREACHABLE:
                untold, told = untold + 1, problem.errno or 0
            else:
                break
            again = _problem_of(session, data)
            if again is None:
                return self._sent_at_last(session, data, (untold, told), now)
            problem = again
        if problem.errno in sockets.CUT_OFF:
            again = self._reconnect(session, problem) or _problem_of(session, data)
            if again is None:
                return True
            problem = again
        self._copy(session, data)
        self._lost(session, "send to a server", problem)
        return False

    def _sent_at_last(self, session: Relayed, data: bytes, icmp: tuple[int, int], now: int) -> bool:
        """`icmp`: how many errors, and the last one's number. False: the caller has nothing to
        count, for the session is gone."""
        self._count_icmp(session, *icmp)
        if icmp[0] and session.verdict.close_on_unreachable:
            self._count_upload(session, len(data), now)
            self._copy(session, data)
            self._unreachable(session)
            return False
        return True

    def _reopen(self, session: Relayed, data: bytes, now: int) -> None:
        """The session ends before this datagram, which is the first of another."""
        record, tos = self._table.read(session.slot), session.tos
        self._unreachable(session)
        if record is None:
            return
        client, arrival = came(record)
        arrival = replace(arrival, tos=tos)
        another = self._open(session.listener, session.key, client, now, data, arrival)
        if another is not None:
            another.keep(tos)
            self._upload(another, data, now)

    def _start(self, session: Relayed, *, keyed: bool = True) -> None:
        super()._start(session, keyed=keyed)
        if self._watched:
            session.be_careful(watched=True)

    def _reader(self, session: Relayed) -> Callable[[], None]:
        read = self._from_server if session.plain else self._from_anybody
        if session.tells:
            read = self._from_marked_server
        return functools.partial(read, session)

    def _from_server(self, session: Relayed) -> None:
        now = time.monotonic_ns()
        for _ in range(session.burst):
            try:
                data = session.receive(_LARGEST)
            except BlockingIOError:
                session.burst, session.patience = 1, _PATIENCE
                return
            except OSError as problem:
                self._receive_failed(session, problem)
                return
            if session.careful_down:
                if not self._download(session, data, now):
                    return
                continue
            try:
                session.reply(data, session.address)
            except OSError as problem:
                self._lost(session, "send to a client", problem)
                continue
            session.downloads = count = session.downloads + 1
            session.download_bytes = volume = session.download_bytes + len(data)
            _write_carried(self._table.memory, session.download_at, now, count, volume)
        if session.patience:
            session.patience -= 1
        elif session.burst < MOST_BURST:
            session.burst *= 2

    def _from_anybody(self, session: Relayed) -> None:
        now = time.monotonic_ns()
        for turn in range(MOST_BURST):
            try:
                data, sender = session.sock.recvfrom(_LARGEST)
            except BlockingIOError as nothing:
                # Woken by the error queue alone: it has to be emptied, or it rings for ever.
                if not turn and self._is_icmp(session, nothing):
                    self._unreachable(session)
                return
            except OSError as problem:
                self._receive_failed(session, problem)
                return
            if not self._admits(session, sender):
                continue
            if not self._download(session, data, now):
                return

    def _download(self, session: Relayed, data: bytes, now: int, *, screened: bool = False) -> bool:
        """The long way: one-way, a host that treats or wants to see it, limits, first replies,
        wildcard listeners, headers that come back. False: the session is gone."""
        if session.awaited and not screened:
            self._words[session.at + layout.ASKED] = 0
        if session.strips and not screened:
            data = proxy_header.without_simple(session.header, data)
        if session.screened and not screened:
            treated = self._screen(session, data, now)
            if treated is None:
                return self._book.get(session.id) is session
            data = treated
        size = len(data)
        if is_amplified(session.budget, session.upload_bytes, session.download_bytes, size):
            self._drop(session, "dropped-amplification")
            return True
        verdict = judge_download(session.budget, session.downloads, session.download_bytes, size)
        if verdict is Verdict.OVER:
            self._close(session, Reason.DOWNLOAD_BYTES)
            return False
        if self._watched:
            self._host.datagram(session.id, "download", memoryview(data))
        try:
            if session.control:
                session.listener.reply_from((data,), session.control, 0, session.address)
            else:
                session.reply(data, session.address)
        except OSError as problem:
            self._lost(session, "send to a client", problem)
            return True
        session.downloads += 1
        session.download_bytes += size
        counters = session.downloads, session.download_bytes
        _write_carried(self._table.memory, session.download_at, now, *counters)
        if not session.answered or session.unreachable:
            self._answers(session)
        if verdict is Verdict.PASS_LAST:
            self._close(session, Reason.DOWNLOAD_DATAGRAMS)
            return False
        return True


def _problem_of(session: Relayed, data: bytes) -> OSError | None:
    """Send it to the server; what was wrong with that."""
    try:
        session.send(data)
    except OSError as problem:
        return problem
    return None
