"""A link to another process: messages and descriptors over a SOCK_SEQPACKET socket.

Nothing here blocks. What the other side does not take at once waits; a peer that breaks the
protocol or lets too much wait loses the link, and its supervisor does the rest.
"""

from __future__ import annotations

import array
import collections
import os
import socket
import struct
from collections.abc import Callable, Sequence

from udpproxy.errors import LinkError
from udpproxy.process import wire
from udpproxy.process.loop import Reactor

_MOST_WAITING = 4096
_CONTROL = socket.CMSG_SPACE(wire.MOST_DESCRIPTORS * 4)
_CREDENTIALS = struct.Struct("=iII")


class Link:
    """One end. `received` gets each message with its descriptors, which it then owns; `closed`
    is called once, with the reason, after the end or a violation of the protocol."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        *,
        received: Callable[[Link, wire.Message, list[int]], None],
        closed: Callable[[Link, str], None],
    ) -> None:
        sock.settimeout(0)
        self._reactor = reactor
        self._socket = sock
        self._received = received
        self._closed = closed
        self._waiting: collections.deque[tuple[bytes, list[int]]] = collections.deque()
        self._open = True
        reactor.add_reader(sock.fileno(), self._readable)

    @property
    def peer(self) -> tuple[int, int]:
        """(pid, uid) of the other end when it connected (SO_PEERCRED, unix(7))."""
        return peer_of(self._socket)

    def send(self, message: wire.Message, descriptors: Sequence[int] = ()) -> None:
        """At once, or as soon as the other side has room. Descriptors are duplicated if they
        have to wait, so the caller may close his."""
        if not self._open:
            return
        packet = wire.encode(message)
        if self._waiting or not self._try(packet, descriptors):
            if len(self._waiting) >= _MOST_WAITING:
                self.close("the other side does not read")
                return
            self._waiting.append((packet, [os.dup(fd) for fd in descriptors]))
            self._reactor.add_writer(self._socket.fileno(), self._writable)

    @property
    def congested(self) -> bool:
        """Does something wait for the other side to read?"""
        return self._open and bool(self._waiting)

    def close(self, reason: str = "closed") -> None:
        """Once; `closed` is told."""
        if not self._open:
            return
        self._open = False
        self._reactor.remove_reader(self._socket.fileno())
        self._reactor.remove_writer(self._socket.fileno())
        self._socket.close()
        while self._waiting:
            for fd in self._waiting.popleft()[1]:
                os.close(fd)
        self._closed(self, reason)

    def _try(self, packet: bytes, descriptors: Sequence[int]) -> bool:
        try:
            if descriptors:
                socket.send_fds(self._socket, [packet], list(descriptors))
            else:
                self._socket.send(packet)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True  # the other side is gone; reading will say so in its turn
        except OSError as problem:
            self.close(os.strerror(problem.errno or 0))
        return True

    def _writable(self) -> None:
        while self._waiting and self._try(*self._waiting[0]) and self._open:
            for fd in self._waiting.popleft()[1]:
                os.close(fd)
        if not self._waiting and self._open:
            self._reactor.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        while self._open:
            try:
                packet, control, flags, _ = self._socket.recvmsg(
                    wire.LARGEST, _CONTROL, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as problem:
                self.close(os.strerror(problem.errno or 0))
                return
            descriptors = _descriptors(control)
            try:
                message = _message(packet, flags)
            except LinkError as problem:
                for fd in descriptors:
                    os.close(fd)
                self.close(str(problem))
                return
            try:
                self._received(self, message, descriptors)
            except LinkError as problem:
                self.close(str(problem))


def _message(packet: bytes, flags: int) -> wire.Message:
    if not packet:
        raise LinkError("the other side has left")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise LinkError("a message was truncated")
    return wire.decode(packet)


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of who listened or connected at the other end (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid
