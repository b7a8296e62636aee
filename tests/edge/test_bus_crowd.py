"""Strangers on the bus, and what they can keep root from: a bus of our own, with real callers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_next import Message, Variant

from buses import (
    NAME,
    PROCESS,
    PROPERTIES,
    PROXY,
    ROOT,
    STRANGER,
    ask,
    call,
    caller,
    on_bus,
    open_bus,
)
from echo import Echo, clients, exchange, udp
from host import free_port
from proxy import Proxy, config, until
from udpproxy.instance.bus_service import MOST_ROWS
from udpproxy.proxy.session import table as t

pytestmark = pytest.mark.alone

LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"

# argv: the bus, seconds, flags, path, interface, member. Sends as fast as the bus takes it, and
# counts what comes back by kind: 2 an answer, 3 an error.
FLOOD = r"""
import json, os, select, socket, struct, sys, time
place, seconds, flags, path, interface, member = sys.argv[1:]

def text(kind, key, value):
    data = value.encode()
    return bytes([key, 1]) + kind + b"\0" + struct.pack("<I", len(data)) + data + b"\0"

def call(serial, flags, *fields):
    head = b""
    for kind, key, value in fields:
        head += bytes(-len(head) % 8) + text(kind, key, value)
    start = struct.pack("<4BIII", 0x6c, 1, flags, 1, 0, serial, len(head))
    return start + head + bytes(-len(head) % 8)

sock = socket.socket(socket.AF_UNIX)
sock.connect(place)
sock.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
sock.recv(4096)
bus = "org.freedesktop.DBus"
sock.sendall(b"BEGIN\r\n" + call(1, 0, (b"o", 1, "/org/freedesktop/DBus"), (b"s", 6, bus),
    (b"s", 2, bus), (b"s", 3, "Hello")))
sock.recv(4096)
sock.setblocking(False)
fields = ((b"o", 1, path), (b"s", 6, "org.udpproxy1.one"), (b"s", 2, interface),
    (b"s", 3, member))
sent, kinds, kept, waiting = 0, {2: 0, 3: 0}, b"", b""
end = time.monotonic() + float(seconds)
print("begun", flush=True)
while time.monotonic() < end:
    if not waiting:
        waiting = b"".join(call(2 + sent + one, int(flags), *fields) for one in range(50))
        sent += 50
    time.sleep(0.002)
    select.select([sock], [sock], [], 0.1)
    try:
        waiting = waiting[sock.send(waiting):]
    except BlockingIOError:
        pass
    try:
        kept += sock.recv(1 << 20)
    except BlockingIOError:
        pass
    while len(kept) >= 16:
        body, head = struct.unpack_from("<I4xI", kept, 4)
        size = 16 + (head + 7) // 8 * 8 + body
        if len(kept) < size:
            break
        kinds[kept[1]] = kinds.get(kept[1], 0) + 1
        kept = kept[size:]
print(json.dumps({"sent": sent, "done": kinds[2], "errors": kinds[3]}))
"""


@pytest.fixture
def bus_log(tmp_path: Path) -> Iterator[Path]:
    with open_bus(tmp_path) as log:
        yield log


@pytest.fixture
def proxy(tmp_path: Path, bus_log: Path) -> Iterator[Proxy]:
    with Echo() as echo, Proxy(tmp_path, config(free_port(), str(echo))) as started:
        yield started


def flood(place: Path, seconds: float, *words: object) -> subprocess.Popen[str]:
    begun = subprocess.Popen(
        ["/usr/bin/python3", "-c", FLOOD, f"{place}/bus", str(seconds), *map(str, words)],
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert begun.stdout
    assert begun.stdout.readline() == "begun\n"
    return begun


def ended(process: subprocess.Popen[str]) -> dict[str, int]:
    output, _ = process.communicate(timeout=30)
    found = json.loads(output)
    assert isinstance(found, dict)
    return found


async def slowest(place: Path, process: subprocess.Popen[str]) -> tuple[int, float]:
    """How often root was answered while that goes on, each time anew on the bus, and after how
    long at most."""
    answered, longest = 0, 0.0
    while process.poll() is None:
        begun = time.monotonic()
        async with caller(place) as bus:
            reply = await ask(bus, call("LogLevel", "s", "6"))
        assert reply.error_name is None, (reply.error_name, reply.body)
        longest = max(longest, time.monotonic() - begun)
        answered += 1
        await asyncio.sleep(0.02)
    return answered, longest


@contextlib.contextmanager
def crowding(place: Path, seconds: float, *words: object) -> Iterator[subprocess.Popen[str]]:
    process = flood(place, seconds, *words)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("where", ["", "/reg"])
@pytest.mark.parametrize("flags", [0, 1], ids=["answered", "no reply wanted"])
def test_root_is_answered_all_the_same(
    proxy: Proxy, tmp_path: Path, bus_log: Path, where: str, flags: int
) -> None:
    asyncio.run(on_bus(tmp_path))
    interface = PROCESS if where else PROXY
    with crowding(tmp_path, 5, flags, f"{ROOT}{where}", interface, "Info") as crowd:
        answered, longest = asyncio.run(slowest(tmp_path, crowd))
        found = ended(crowd)
    assert answered >= 3
    # One second where nobody else wants the processor; without a bound it is the whole flood.
    assert longest < 3.0, (answered, longest, found)
    assert found["sent"] > 1000
    if flags:
        assert found["done"] + found["errors"] == 0
    assert "Rejected" not in bus_log.read_text()


async def several(place: Path, messages: list[Message]) -> list[Message]:
    """The answers to calls that one sender makes at once."""
    async with caller(place) as bus:
        await ask(bus, call("Info"))
        return list(await asyncio.gather(*(ask(bus, each) for each in messages)))


def test_many_at_once_by_one_sender(proxy: Proxy, tmp_path: Path) -> None:
    """Root may have many under way."""
    asyncio.run(on_bus(tmp_path))
    levels = [call("LogLevel", "s", "6") for _ in range(16)]
    answers = asyncio.run(several(tmp_path, levels))
    assert {answer.error_name for answer in answers} == {None}


HEADER_OF_ALL = b"".join(
    struct.pack("<BB2sI", key, 1, kind + b"\0", len(value)) + value + b"\0"
    + bytes(-(len(value) + 9) % 8)
    for key, kind, value in (
        (1, b"o", ROOT.encode()),
        (6, b"s", NAME.encode()),
        (2, b"s", PROXY.encode()),
        (3, b"s", b"Info"),
    )
)  # fmt: skip


def raw(kind: int, flags: int, body: bytes = b"", extra: bytes = b"") -> bytes:
    head = HEADER_OF_ALL + extra
    start = struct.pack("<4BIII", 0x6C, kind, flags, 1, len(body), 77, len(head))
    return start + head + bytes(-len(head) % 8) + body


SIGNATURE = b"\x08\x01g\0\x02ay\0"
HOSTILE = {
    "a kind that nobody knows": raw(9, 1),
    "a flag that nobody knows": raw(1, 0x81),
    "a signal": raw(4, 1),
    "a field that nobody knows": raw(1, 1, extra=struct.pack("<BB2sI", 99, 1, b"u\0", 7)),
    "a megabyte": raw(1, 1, struct.pack("<I", 1 << 20) + bytes(1 << 20), SIGNATURE),
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=list(HOSTILE))
def test_no_message_ends_the_connection(proxy: Proxy, tmp_path: Path, message: bytes) -> None:
    asyncio.run(on_bus(tmp_path))
    asyncio.run(hurl(tmp_path, message))
    asyncio.run(on_bus(tmp_path))
    assert not proxy.said("UDPS-320-N")
    assert not proxy.said("UDPS-530-C")


async def hurl(place: Path, message: bytes) -> None:
    """At the proxy, by somebody who then waits until it has read it, or is thrown out."""
    async with caller(place) as bus:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(bus._sock, message)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(bus.call(call("Info")), 2)


def test_a_large_call_is_refused(proxy: Proxy, tmp_path: Path) -> None:
    asyncio.run(on_bus(tmp_path))
    huge = call("Explain", "a{sv}", {"from": Variant("s", "x" * 100_000)})
    (answer,) = asyncio.run(several(tmp_path, [huge]))
    assert answer.error_name == LIMITS
    until(lambda: proxy.said("UDPS-324-W"))


def test_wrong_arguments(proxy: Proxy, tmp_path: Path) -> None:
    """Refused with a text that is short, whatever was given."""
    asyncio.run(on_bus(tmp_path))
    calls = [
        call("LogLevel", "s", "x" * 10_000),
        call("Segmentation", "s", "\N{SNOWMAN}" * 10_000),
        call("KillSession", "t", 2**64 - 1),
        call("Explain", "a{sv}", {"from": Variant("as", ["10.0.0.1"])}),
        call("Explain", "a{sv}", {"x" * 20_000: Variant("s", "")}),
        call("ListSessions", "a{sv}", {"client": Variant("d", 1.5)}),
        call("ListSessions", "a{sv}", {f"key{each}": Variant("s", "") for each in range(500)}),
        call("y" * 200),
    ]
    for answer in asyncio.run(several(tmp_path, calls)):
        assert answer.error_name is not None
        assert len(answer.body[0]) <= 500
    assert not proxy.said("UDPS-530-C")


def test_more_sessions_than_go_over_the_bus(tmp_path: Path, bus_log: Path) -> None:
    """The error says so; a filter, and the command, have them."""
    top = f"max-sessions = {MOST_ROWS + 1}"
    with (
        Echo() as echo,
        Echo() as other,
        Proxy(tmp_path, config(port := free_port(), str(echo), top=top)) as proxy,
        clients(MOST_ROWS + 1) as socks,
    ):
        asyncio.run(on_bus(tmp_path))
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"x")
        one = f"127.0.0.1:{socks[0].getsockname()[1]}"
        wanted = [{}, {"client": Variant("s", one)}, {"server": Variant("s", str(other))}]
        calls = [call("ListSessions", "a{sv}", each) for each in wanted]
        many, found, none = asyncio.run(several(tmp_path, calls))
        assert f"{MOST_ROWS + 1} sessions are more" in many.body[0]
        assert [len(answer.body[0]) for answer in (found, none)] == [1, 0]
        assert len(proxy.sessions()) == MOST_ROWS + 1


def test_descriptors_that_callers_send_are_not_kept(proxy: Proxy, tmp_path: Path) -> None:
    """Nor does anybody hang up on us because we could not have them."""

    def opened() -> int:
        return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))

    async def run() -> int:
        await on_bus(tmp_path)
        async with caller(tmp_path, descriptors=True) as bus, caller(tmp_path) as other:
            owner = (await ask(bus, call("Info"))).sender
            before = opened()
            for _ in range(50):
                message = call("Info", "ah", list(range(8)))
                message.unix_fds = [0] * 8
                assert (await ask(bus, message)).sender == owner
            assert (await ask(other, call("Info"))).error_name is None
            return opened() - before

    assert asyncio.run(run()) == 0
    assert proxy.said("UDPS-320") == []


def test_a_table_that_reg_wrote_over(tmp_path: Path, bus_log: Path) -> None:
    """Figures on the bus start again at their end, as counters do."""
    port, largest = free_port(), (1 << 64) - 1
    message = call("GetAll", "s", PROXY)
    message.interface = PROPERTIES

    async def shown() -> dict[str, Any]:
        await on_bus(tmp_path)
        async with caller(tmp_path) as bus:
            reply = await ask(bus, message)
            assert reply.error_name is None, reply.body
            return {name: value.value for name, value in reply.body[0].items()}

    with Echo() as echo, udp() as client, Proxy(tmp_path, config(port, str(echo))) as proxy:
        asyncio.run(on_bus(tmp_path))
        with proxy.table() as shared:
            shared[16 : t.HEADER_SIZE] = bytes([0xFF]) * (t.HEADER_SIZE - 16)
        exchange(client, ("127.0.0.1", port), b"tells the bus of a session")
        time.sleep(1.5)
        values = asyncio.run(shown())
        assert values["Sessions"] == 1
        assert values["Drops"] == largest - 1
        assert proxy.info()["drops-listeners"] == largest
        assert proxy.said("UDPS-530") == []
        assert proxy.stop() == 0
