"""The connection to a bus that comes to its end, on either side, with words still unsent."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from dbus_next import Message, MessageType
from dbus_next._private.unmarshaller import Unmarshaller

from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, config, until
from udpproxy.bus import Bus
from udpproxy.process.lasting import lasting
from udpproxy.process.logs import Logs
from udpproxy.proxy.identity import IDENTITY

PATH, INTERFACE = IDENTITY.root, IDENTITY.interface


class FakeBus:
    """Greets, gives every name, and keeps the members of the signals that it hears."""

    def __init__(self) -> None:
        self.signals: list[str] = []
        self.signalled = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        await reader.readuntil(b"\r\n")
        writer.write(b"OK 1234deadbeef1234deadbeef12345678\r\n")
        await reader.readuntil(b"NEGOTIATE_UNIX_FD\r\n")
        writer.write(b"AGREE_UNIX_FD\r\n")
        await reader.readuntil(b"BEGIN\r\n")
        while head := await reader.read(16):
            head += await reader.readexactly(16 - len(head))
            body, fields = struct.unpack("<4xI4xI", head)
            rest = await reader.readexactly((fields + 7) // 8 * 8 + body)
            message = Unmarshaller(io.BytesIO(head + rest)).unmarshall()
            if message.message_type is MessageType.METHOD_CALL:
                writer.write(self._answer(message))
            else:
                self.signals.append(message.member)
                self.signalled.set()
        writer.close()

    def _answer(self, message: Message) -> bytes:
        values = {"Hello": ("s", [":1.7"]), "RequestName": ("u", [1])}
        signature, body = values[message.member]
        reply = Message(
            message_type=MessageType.METHOD_RETURN,
            reply_serial=message.serial,
            sender="org.freedesktop.DBus",
            destination=":1.7",
            signature=signature,
            body=body,
            serial=message.serial,
        )
        return bytes(reply._marshall())


class Nobody:
    """Objects that nobody asks for anything; it keeps the mistakes that it hears of."""

    def __init__(self) -> None:
        self.mistakes: list[Exception] = []

    def broken(self, problem: Exception) -> None:
        """See bus.Service."""
        self.mistakes.append(problem)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


async def connected(
    path: Path,
    work: Callable[[FakeBus, Bus, asyncio.Event], Awaitable[None]],
    nobody: Nobody | None = None,
) -> list[str]:
    """Do the work while connected (the event is set once that is over), and end in order; why the
    connection was lost, each time, and all that asyncio was left with."""
    said: list[str] = []
    joined, gone = asyncio.Event(), asyncio.Event()
    fake = FakeBus()

    def lost(why: str) -> None:
        said.append(why)
        gone.set()

    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(str(context)))
    server = await asyncio.start_unix_server(fake.serve, path)
    objects = {PATH: [INTERFACE]}
    service = nobody or Nobody()
    bus = Bus(
        IDENTITY,
        "test",
        objects,
        service,
        session=False,
        open_methods=frozenset(),
        allowed_group=None,
    )
    run = asyncio.ensure_future(bus.run(joined=joined.set, lost=lost))
    await asyncio.wait_for(joined.wait(), 10)
    await work(fake, bus, gone)
    await bus.close()
    run.cancel()
    await asyncio.wait([run])
    await asyncio.wait_for(fake.signalled.wait(), 10)
    server.close()
    del bus, run
    gc.collect()  # what nobody looked at is told of now
    await asyncio.sleep(0)
    return said


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the system's bus, as far as this process knows."""
    path = tmp_path / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    return path


def test_what_was_said_leaves_before_the_end(address: Path) -> None:
    async def work(fake: FakeBus, bus: Bus, gone: asyncio.Event) -> None:
        bus.emit(PATH, INTERFACE, "SessionEnded", "t", [7])

    assert asyncio.run(connected(address, work)) == []


def test_a_word_that_cannot_be_said(address: Path) -> None:
    """It costs itself: what we say next is heard."""

    async def work(fake: FakeBus, bus: Bus, gone: asyncio.Event) -> None:
        bus.emit(PATH, INTERFACE, "SessionEnded", "t", [1 << 64])
        bus.emit(PATH, INTERFACE, "SessionEnded", "t", [7])

    nobody = Nobody()
    assert asyncio.run(connected(address, work, nobody)) == []
    assert len(nobody.mistakes) == 1


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_without_a_bus_no_socket_stays(address: Path) -> None:
    """Not even until the next collection of garbage, which may be a while."""
    objects: dict[str, list[str]] = {}
    bus = Bus(
        IDENTITY,
        "test",
        objects,
        Nobody(),
        session=False,
        open_methods=frozenset(),
        allowed_group=None,
    )

    async def attempts() -> tuple[int, int]:
        run = asyncio.ensure_future(bus.run(joined=lambda: None, lost=lambda why: None))
        await asyncio.sleep(0.1)
        first = descriptors()
        await asyncio.sleep(1.6)  # three more
        last = descriptors()
        run.cancel()
        await asyncio.wait([run])
        return first, last

    gc.disable()
    try:
        first, last = asyncio.run(attempts())
    finally:
        gc.enable()
    assert last == first


def test_a_bus_that_goes_while_we_speak(address: Path) -> None:
    """Between the moment when it could be written to and the write."""

    async def work(fake: FakeBus, bus: Bus, gone: asyncio.Event) -> None:
        assert bus._bus
        bus.emit(PATH, INTERFACE, "SessionEnded", "t", [7])
        await asyncio.sleep(0)
        bus._bus._sock.shutdown(socket.SHUT_RDWR)
        await asyncio.wait_for(gone.wait(), 10)
        assert fake.signals == []
        fake.signalled.set()

    assert asyncio.run(connected(address, work)) == ["disconnected"]


MISTAKEN = """
import sys
if "--runtime-dir" in sys.orig_argv and "run" in sys.orig_argv:
    from udpproxy.bus import Bus
    run, mistakes = Bus.run, iter("ab")
    async def mistaken(self, **words):
        for which in mistakes:
            raise KeyError(f"on purpose, {which}")
        await run(self, **words)
    Bus.run = mistaken
    from udpproxy.instance.commands import Commands
    signalled = Commands.signalled
    async def confused(self, number):
        if number == 10:
            raise KeyError("on purpose, of a signal")
        await signalled(self, number)
    Commands.signalled = confused
"""


def test_a_mistake_of_ours_ends_nothing(tmp_path: Path) -> None:
    """It is said, and after a moment the bus is tried again; so it is with a signal's verb."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(MISTAKEN)
    port = free_port()
    with Echo() as echo, udp() as client:
        text = config(port, str(echo), more='[log]\nlevel = "debug"')
        proxy = Proxy(tmp_path, text)
        proxy.environment["PYTHONPATH"] = str(tmp_path / "first")
        with proxy:
            exchange(client, ("127.0.0.1", port), b"before")
            until(lambda: proxy.said("UDPS-323-D"))  # no bus is there, and that is known by asking
            assert len(proxy.said("KeyError: 'on purpose, a'")) == 1
            assert len(proxy.said("KeyError: 'on purpose, b'")) == 1
            proxy.kill(signal.SIGUSR1)
            until(lambda: proxy.said("KeyError: 'on purpose, of a signal'"))
            exchange(client, ("127.0.0.1", port), b"after")
            assert len(echo.sources) == 1
            assert proxy.stop() == 0


def test_work_that_fails_begins_again_later_each_time(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[float] = []
    monkeypatch.setattr("udpproxy.process.lasting.SHORTEST", 0.05)
    monkeypatch.setattr("udpproxy.process.lasting.LONGEST", 0.2)

    async def work() -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) < 6:
            raise KeyError("on purpose")

    asyncio.run(lasting(Logs("test"), work))
    pauses = [after - before for before, after in itertools.pairwise(begun)]
    for pause, least in zip(pauses, [0.05, 0.1, 0.2, 0.2, 0.2], strict=True):
        assert least <= pause < least + 1
    assert capfd.readouterr().err.count("KeyError: 'on purpose'") == 5
