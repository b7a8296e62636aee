"""A connection to the bus: bytes in, messages out, so many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
from collections.abc import Callable
from typing import Any

from dbus_next import BusType, Message, MessageFlag, MessageType
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.aio import MessageBus

LARGEST = 64 << 10
"""Bytes of a message that is read. The bus lets 32 MiB pass, and they would take us seconds."""
MOST_UNSENT = 4096
_PART = 64 << 10
"""Bytes that are read before the loop turns: some milliseconds of work."""
_HEAD = 4096
"""Bytes of a header that is read of a message which is too large."""
LIMITS, TOO_MANY = "org.freedesktop.DBus.Error.LimitsExceeded", "too many calls at once"
_CALL, _SIGNAL = MessageType.METHOD_CALL.value, MessageType.SIGNAL.value
_SENDER = 7


class Connection(MessageBus):  # type: ignore[misc]  # it has no types
    """The library's, but for this. Of a bus that hangs up before it has greeted us, it reads
    nothing for ever, and the whole process with it stands still. It reads for as long as there is
    something, and what it cannot read ends the connection. What it cannot send fails in a future
    of its own, which is no mistake of ours: a connection that is lost says so once. And where there
    is no bus it leaves the socket to the collection of garbage."""

    def __init__(
        self,
        bus_type: BusType,
        *,
        welcome: Callable[[str, int], bool],
        ignored: Callable[[str], object],
        largest: int = LARGEST,
    ) -> None:
        """`welcome` says of each call, by its sender and its flags, if it is to be read;
        a stranger can send far more than can be. `ignored` hears why one is not."""
        # dbus-broker tells of a caller by a descriptor, too, and hangs up on whoever cannot have
        # one. We read without room for any, so that the kernel closes what comes.
        super().__init__(bus_type=bus_type, negotiate_unix_fd=True)
        self._welcome = welcome
        self._unsent: set[asyncio.Future[None]] = set()
        self._ignored = ignored
        self._largest = largest
        self._kept = bytearray()
        self._skipped = 0
        self.heard = 0
        """How often something came."""

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()
        except BaseException:
            with contextlib.suppress(AttributeError):  # an address that it does not understand
                self._stream.close()
                self._sock.close()
            raise

    @property
    def full(self) -> bool:
        """Does the other side not take what there is already?"""
        return len(self._unsent) > MOST_UNSENT // 16

    def send(self, msg: Message) -> asyncio.Future[None]:
        """Nobody has to wait for it."""
        future: asyncio.Future[None] = super().send(msg)
        self._unsent.add(future)
        future.add_done_callback(self._sent)
        if len(self._unsent) > MOST_UNSENT:
            self._finalize(ConnectionError("the bus does not read"))
        return future

    def _sent(self, future: asyncio.Future[None]) -> None:
        self._unsent.discard(future)
        forgive(future)

    async def flush(self, limit: float) -> None:
        """What was said leaves, if it can within `limit` seconds."""
        if self._unsent:
            await asyncio.wait(self._unsent, timeout=limit)

    async def ask(self, message: Message, limit: float) -> Message | None:
        """A call of ours; TimeoutError, and whatever the end of a connection is."""
        message.serial = self.next_serial()
        try:
            reply: Message | None = await asyncio.wait_for(self.call(message), limit)
        finally:
            self._method_return_handlers.pop(message.serial, None)
        return reply

    async def _auth_readline(self) -> str:
        loop = asyncio.get_running_loop()
        line = b""
        while not line.endswith(b"\r\n"):
            part = await loop.sock_recv(self._sock, 2)
            if not part:
                raise EOFError("it has hung up")
            line += part
        return line[:-2].decode()

    def _message_reader(self) -> None:
        try:
            part = self._sock.recv(_PART)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as problem:
            self._finalize(problem)
            return
        if not part:
            self._finalize(EOFError())
            return
        self.heard += 1
        self._kept += part
        try:
            while not self._disconnected and (raw := self._whole()) is not None:
                self._take(raw)
        except (ValueError, LookupError, struct.error) as problem:
            self._finalize(problem)
        except Exception as problem:
            # Of nothing that others send: the mistake is ours, and costs this connection.
            self._ignored(repr(problem))
            self._finalize(problem)

    def _whole(self) -> bytes | None:
        """The next message, once all of it is there; b"" for one that was too large."""
        gone = min(self._skipped, len(self._kept))
        del self._kept[:gone]
        self._skipped -= gone
        if self._skipped or len(self._kept) < 16:
            return None
        if self._kept[0] not in b"lB":
            raise ValueError("this is not D-Bus")
        order = _order(self._kept)
        body, fields = struct.unpack_from(f"{order}I4xI", self._kept, 4)
        head = 16 + (fields + 7) // 8 * 8
        size = head + body
        if size > self._largest:
            if head <= _HEAD and len(self._kept) < head:
                return None
            self._skipped = size
            self._refuse(bytes(self._kept[:head]) if head <= _HEAD else b"", size)
            return b""
        if len(self._kept) < size:
            return None
        raw = bytes(self._kept[:size])
        del self._kept[:size]
        return raw

    def _refuse(self, head: bytes, size: int) -> None:
        """One that is too large: whoever waits for an answer hears so."""
        self._ignored(f"it has {size} bytes")
        if not head:
            return
        with contextlib.suppress(Exception):  # what there may be in a header that we do not know
            message = _read(head[:4] + bytes(4) + head[8:])
            calls = message.message_type is MessageType.METHOD_CALL
            if calls and not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                self.send(Message.new_error(message, LIMITS, f"more than {self._largest} bytes"))

    def _take(self, raw: bytes) -> None:
        if not raw or raw[1] == _SIGNAL:  # none is for us
            return
        welcome = raw[1] != _CALL or self._welcome(_sender(raw), raw[2])
        if raw[2] & MessageFlag.NO_REPLY_EXPECTED and not welcome:
            self._ignored("there are too many, and nobody waits for its answer")
            return
        try:
            message = _read(raw)
        except Exception as problem:
            # Kinds of messages and of fields that the library has not heard of, and whatever else
            # it makes of what others send. The next one begins at a place that we know.
            self._ignored(f"{type(problem).__name__}: {problem}")
            return
        if welcome:
            self._on_message(message)
        else:
            self.send(Message.new_error(message, LIMITS, TOO_MANY))

    def drop(self) -> None:
        """For good: the library leaves the socket to the next collection of garbage."""
        self.disconnect()
        self._finalize()
        forgive(self._disconnect_future)
        with contextlib.suppress(OSError):  # what it has not sent yet
            self._stream.close()
        self._sock.close()


def _order(raw: bytes | bytearray) -> str:
    return "<" if raw[0] == ord("l") else ">"


def _sender(raw: bytes) -> str:
    """From the header alone, which the bus has checked: to read a whole message takes a hundred
    times as long."""
    order = _order(raw)
    (length,) = struct.unpack_from(f"{order}I", raw, 12)
    place = 16
    while place < 16 + length:
        kind = raw[place + 2 : place + 3]
        if kind in (b"s", b"o"):
            (size,) = struct.unpack_from(f"{order}I", raw, place + 4)
            if raw[place] == _SENDER:
                return raw[place + 8 : place + 8 + size].decode()
            place += 9 + size
        elif kind == b"g":
            place += 6 + raw[place + 4]
        elif kind == b"u":
            place += 8
        else:
            return ""
        place = (place + 7) // 8 * 8
    return ""


def _read(raw: bytes) -> Message:
    message: Message | None = Unmarshaller(io.BytesIO(raw)).unmarshall()
    if message is None:
        raise ValueError("it ends too early")
    return message


def forgive(future: asyncio.Future[Any]) -> None:
    """Its failure, if it is one, is no news: asyncio would tell of one that nobody looked at."""
    if future.done() and not future.cancelled():
        future.exception()


def failed(future: asyncio.Future[Any]) -> bool:
    """Has it, being done, no result?"""
    return future.cancelled() or future.exception() is not None
