"""A link to another process: messages and descriptors over a SOCK_SEQPACKET socket.

Nothing here blocks, and nothing here is without bounds. What the other side does not take at once
waits; a peer that breaks the protocol, lets too much wait or floods us loses the link, and its
supervisor does the rest. A mistake of our own, a message that is too large, costs that message.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence

from udpproxy.errors import LinkError
from udpproxy.process import wire
from udpproxy.process.loop import Reactor, Timer

Item = tuple[wire.Message, Sequence[int]]
"""A message and the descriptors that go with it."""

RATE = 8 << 20
"""Bytes a second that a link reads, and as many at once after a rest. A start with thousands of
listeners takes one of them; to read so many costs about a fifth of a core."""
_A_MESSAGE = 256
"""Bytes that a message costs beside its own, so that small ones cannot take the core either."""
_MESSAGES_A_TURN, _BYTES_A_TURN = 16, 64 << 10
"""What is read before the loop turns: some milliseconds of work, then datagrams, signals and the
other links have their turn."""
_PAUSE = 0.05
"""Seconds of rest for a link that has read more than its rate."""
FLOOD = 10.0
"""Seconds of more than the rate after which the other side has gone mad."""
_MOST_WAITING = 4096
_MOST_BYTES_WAITING = 16 << 20
_MOST_DESCRIPTORS_WAITING = 512
"""Duplicates: a few messages' worth. Who lends more does so by pour()."""
_SCARCE = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
"""The system lacks what it takes to send, which says nothing of the other side (unix(7))."""
_CONTROL = socket.CMSG_SPACE(wire.MOST_DESCRIPTORS * 4)
_CREDENTIALS = struct.Struct("=iII")
_SO_PEERPIDFD = 77
"""Of asm-generic/socket.h, since Linux 6.5."""


@dataclasses.dataclass(slots=True)
class _Packet:
    """One that waits, with descriptors of its own."""

    data: bytes
    descriptors: list[int]


class Link:
    """One end. `received` gets each message with its descriptors, which it then owns; `closed`
    is called once, with the reason, after the end or a violation of the protocol; `failed` is told
    what an administrator should know: each violation, before `closed`, and each message of ours
    that could not be sent. `rate` is the bytes a second that are read."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        *,
        received: Callable[[Link, wire.Message, list[int]], None],
        closed: Callable[[Link, str], None],
        failed: Callable[[Link, str], None],
        rate: int = RATE,
    ) -> None:
        sock.settimeout(0)
        self._reactor = reactor
        self._socket = sock
        self._received = received
        self._closed = closed
        self._failed = failed
        self.peer = peer_of(sock)
        """(pid, uid) of the other end when it connected: it may be gone when somebody asks."""
        self._waiting: collections.deque[_Packet | Iterator[Item]] = collections.deque()
        self._bytes_waiting = self._descriptors_waiting = 0
        self._rate = self._budget = float(rate)
        self._counted_at = time.monotonic()
        self._over_since: float | None = None
        self._rest: Timer | None = None
        self._pause: Timer | None = None
        self.undelivered = False
        """Had the other side left when we sent something?"""
        self.unread = False
        """Did the other side leave without having read all that we sent?"""
        self._open = True
        reactor.add_reader(sock.fileno(), self._readable)

    def send(self, message: wire.Message, descriptors: Sequence[int] = ()) -> None:
        """At once, or as soon as the other side has room. Descriptors are duplicated if they
        have to wait, so the caller may close his. Never raises: who has gone hears nothing."""
        packet = self._packet(message)
        if packet is None:
            return
        if self._waiting or not self._try(packet, descriptors):
            self._wait(packet, descriptors)

    def pour(self, items: Iterator[Item]) -> None:
        """Many messages, each taken from `items` only when the other side has room for it: the
        descriptors need not wait as duplicates. What is sent later comes after them."""
        if self._open:
            self._waiting.append(items)
            self._flush()
            self._await_room()

    @property
    def congested(self) -> bool:
        """Does something wait for the other side to read?"""
        return self._open and bool(self._waiting)

    @property
    def gone(self) -> bool:
        """Has the other side left, though we may not have heard of it yet?"""
        if not self._open:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLHUP)
        return bool(poll.poll(0))

    def close(self, reason: str = "closed") -> None:
        """Once; `closed` is told."""
        if not self._open:
            return
        self._open = False
        for timer in (self._rest, self._pause):
            if timer:
                timer.cancel()
        self._reactor.remove_reader(self._socket.fileno())
        self._reactor.remove_writer(self._socket.fileno())
        self._socket.close()
        while self._waiting:
            first = self._waiting.popleft()
            if isinstance(first, _Packet):
                self._let_go(first)
        self._closed(self, reason)

    def fail(self, reason: str) -> None:
        """Close it, for something that should not happen."""
        if self._open:
            self._failed(self, f"closed: {reason}")
            self.close(reason)

    def _packet(self, message: wire.Message) -> bytes | None:
        """What goes over the wire; None: nothing does."""
        if not self._open:
            return None
        if isinstance(message, wire.Answer) and message.error:
            message = dataclasses.replace(message, error=wire.cut(message.error))
        try:
            return wire.encode(message)
        except LinkError as problem:
            self._failed(self, f"not sent: {type(message).__name__}: {problem}")
        if isinstance(message, wire.Answer):  # somebody waits for it
            return wire.encode(wire.Answer(message.number, error="the answer is too large"))
        return None

    def _wait(self, packet: bytes, descriptors: Sequence[int], *, first: bool = False) -> None:
        if not self._open:
            return
        if (
            len(self._waiting) >= _MOST_WAITING
            or self._bytes_waiting + len(packet) > _MOST_BYTES_WAITING
            or self._descriptors_waiting + len(descriptors) > _MOST_DESCRIPTORS_WAITING
        ):
            self.fail("the other side does not read")
            return
        waiting = _Packet(packet, [])
        self._bytes_waiting += len(packet)
        (self._waiting.appendleft if first else self._waiting.append)(waiting)
        try:
            for fd in descriptors:
                waiting.descriptors.append(os.dup(fd))
                self._descriptors_waiting += 1
        except OSError as problem:
            self.fail(f"what is lent cannot wait: {problem.strerror}")
            return
        self._await_room()

    def _let_go(self, packet: _Packet) -> None:
        self._bytes_waiting -= len(packet.data)
        self._descriptors_waiting -= len(packet.descriptors)
        for fd in packet.descriptors:
            os.close(fd)

    def _try(self, packet: bytes, descriptors: Sequence[int]) -> bool:
        try:
            if descriptors:
                socket.send_fds(self._socket, [packet], list(descriptors))
            else:
                self._socket.send(packet)
        except BlockingIOError:
            return False
        except ConnectionError:
            self.undelivered = True
            return True  # the other side is gone; reading will say so in its turn
        except OSError as problem:
            if problem.errno in _SCARCE:
                self._pause = self._pause or self._reactor.call_later(_PAUSE, self._go_on)
                return False
            self.fail(os.strerror(problem.errno or 0))
        return True

    def _await_room(self) -> None:
        """At the other side, or, after a pause, in the system."""
        if self._open and self._waiting and not self._pause:
            self._reactor.add_writer(self._socket.fileno(), self._writable)

    def _go_on(self) -> None:
        self._pause = None
        self._await_room()

    def _writable(self) -> None:
        self._flush()
        if self._open and (self._pause or not self._waiting):
            self._reactor.remove_writer(self._socket.fileno())

    def _flush(self) -> None:
        """Whatever the other side has room for."""
        while self._waiting and self._open:
            first = self._waiting[0]
            if isinstance(first, _Packet):
                if not self._try(first.data, first.descriptors):
                    return
                if self._open:
                    self._waiting.popleft()
                    self._let_go(first)
                continue
            if not self._has_room():  # else its descriptors had to wait as duplicates
                return
            item = next(first, None)
            if item is None:
                self._waiting.popleft()
            elif (packet := self._packet(item[0])) and not self._try(packet, item[1]):
                self._wait(packet, item[1], first=True)
                return

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(0))

    def _readable(self) -> None:
        taken = 0
        for _ in range(_MESSAGES_A_TURN):
            if not self._open or taken > _BYTES_A_TURN or not self._affordable():
                return
            try:
                packet, control, flags, _ = self._socket.recvmsg(
                    wire.LARGEST, _CONTROL, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as problem:
                # So the kernel says it of a UNIX socket that was closed with something to read.
                self.unread = problem.errno == errno.ECONNRESET
                self.close(os.strerror(problem.errno or 0))
                return
            taken += len(packet)
            self._budget -= len(packet) + _A_MESSAGE
            self._take(packet, _descriptors(control), flags)

    def _take(self, packet: bytes, descriptors: list[int], flags: int) -> None:
        if not packet:
            for fd in descriptors:
                os.close(fd)
            self.close("the other side has left")
            return
        try:
            message = _message(packet, flags)
        except LinkError as problem:
            for fd in descriptors:
                os.close(fd)
            self.fail(wire.cut(str(problem)))
            return
        try:
            self._received(self, message, descriptors)
        except LinkError as problem:
            self.fail(wire.cut(str(problem)))

    def _affordable(self) -> bool:
        """May it read now? If not, it does so after a rest, or never again."""
        now = time.monotonic()
        self._budget = min(self._rate, self._budget + (now - self._counted_at) * self._rate)
        self._counted_at = now
        if self._budget == self._rate:
            self._over_since = None
        if self._budget > 0:
            return True
        if self._over_since is None:
            self._over_since = now
        if now - self._over_since > FLOOD:
            self.fail(
                f"it has sent more than {self._rate / (1 << 10):g} KiB a second for {FLOOD:g} s"
            )
            return False
        self._reactor.remove_reader(self._socket.fileno())
        self._rest = self._reactor.call_later(_PAUSE, self._rested)
        return False

    def _rested(self) -> None:
        self._rest = None
        if self._open:
            self._reactor.add_reader(self._socket.fileno(), self._readable)


def _message(packet: bytes, flags: int) -> wire.Message:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise LinkError("a message was truncated")
    return wire.decode(packet)


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def is_there(sock: socket.socket) -> bool:
    """Is the process at the other end still the one that connected? Its number may have been given
    to another since. Linux before 6.5 cannot tell: then yes."""
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as problem:
        return problem.errno == errno.ENOPROTOOPT
    try:
        # It is readable once the process has ended.
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(pidfd)


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of who listened or connected at the other end (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid
