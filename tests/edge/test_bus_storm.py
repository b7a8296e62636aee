"""Calls by luck over the bus, of strangers and of root, many of whom go before they are answered.

BORDERS_REQUESTS makes it longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_next import Message, MessageFlag, Variant

from buses import (
    NAME,
    PEER,
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
from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, config

pytestmark = pytest.mark.alone

REQUESTS = int(os.environ.get("BORDERS_REQUESTS", "10000"))
USERS = (0, STRANGER, STRANGER)
PACKETS = 2000
SLOWEST = 1.0 if REQUESTS > 10_000 else 3.0
"""Seconds to root's answer. The promised one is for where nobody else wants the processor, as in
the long form."""

# argv: the bus, how many calls, seed, a file of packets with the length of each before it. Now and
# then it goes in the middle of a call, and comes anew.
STORM = r"""
import os, random, select, socket, struct, sys
place, count, seed, file = sys.argv[1:]
luck, count, packets = random.Random(int(seed)), int(count), []
raw = open(file, "rb").read()
while raw:
    (size,) = struct.unpack_from("<I", raw)
    packets.append(raw[4 : 4 + size])
    raw = raw[4 + size :]
HELLO, sent = packets.pop(0), 0
while sent < count:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(place)
    sock.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
    sock.recv(4096)
    sock.sendall(b"BEGIN\r\n" + HELLO)
    sock.recv(4096)
    sock.setblocking(False)
    for _ in range(luck.choice([1, 5, 50, 200])):
        burst = b"".join(
            packet[:8] + struct.pack("<I", serial) + packet[12:]
            for serial, packet in enumerate(luck.choices(packets, k=20), 2)
        )
        sent += 20
        while burst:
            readable, writable, _ = select.select([sock], [sock], [], 10)
            try:
                if readable and not sock.recv(1 << 20):
                    break
                if writable:
                    burst = burst[sock.send(burst):]
            except BlockingIOError:
                pass
            except OSError:
                break
        else:
            continue
        break
    else:
        try:
            if luck.random() < 0.5:
                sock.send(luck.choice(packets)[:luck.randrange(16, 40)])
        except OSError:
            pass
    sock.close()
print(sent)
"""

PATHS = [ROOT, f"{ROOT}/parent", f"{ROOT}/reg", f"{ROOT}/acr", f"{ROOT}/apr", "/", "/x"]
INTERFACES = [PROXY, PROCESS, PROPERTIES, PEER, "org.freedesktop.LogControl1"]
INTERFACES += ["org.freedesktop.DBus.Introspectable", "x.y"]
CHANGES = ["LogLevel", "Reopen", "KillSession", "Segmentation", "ResolveNow"]
READS = ["Info", "ListSessions", "Explain", "Get", "GetAll", "Set", "Ping", "Introspect"]
READS += ["GetMachineId", "x" * 200]
TEXTS = ["", "6", "off", "x" * 5000, "\N{SNOWMAN}", "State", "LogLevel", "reg", *INTERFACES]
NUMBERS = [0, 1, 2**32, 2**63, 2**64 - 1]


def body(luck: random.Random) -> tuple[str, list[Any]]:
    """Arguments, mostly of the wrong kind."""
    text, other, number = luck.choice(TEXTS), luck.choice(TEXTS), luck.choice(NUMBERS)
    inner = luck.choice([Variant("s", text), Variant("as", [text] * 20), Variant("d", 1.5)])
    some: list[tuple[str, list[Any]]] = [
        ("", []),
        ("s", [text]),
        ("t", [number]),
        ("ss", [other, text]),
        ("ssv", [other, text, inner]),
        ("a{sv}", [{text: inner, "client": inner, "from": Variant("s", "10.0.0.1")}]),
        ("a{sv}", [{}]),
        ("av", [[inner] * 50]),
    ]
    return luck.choice(some)


def packets(luck: random.Random, uid: int) -> Iterator[bytes]:
    """The greeting, then what anybody may send but for what would end the proxy, if he can."""
    bus = "org.freedesktop.DBus"
    yield bytes(
        Message(destination=bus, path="/", interface=bus, member="Hello", serial=1)._marshall()
    )
    members = [*CHANGES, *READS, *([] if uid == 0 else ["Terminate", "Reload"])]
    for _ in range(PACKETS):
        signature, values = body(luck)
        message = Message(
            destination=NAME,
            path=luck.choice(PATHS),
            interface=luck.choice([*INTERFACES, PROXY, PROCESS, None]),
            member=luck.choice(members),
            flags=MessageFlag(luck.choice([0, 0, 1, 4])),
            signature=signature,
            body=values,
            serial=2,
        )
        yield bytes(message._marshall())


@contextlib.contextmanager
def storms(place: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """One of each user."""
    begun: list[subprocess.Popen[str]] = []
    try:
        for seed, uid in enumerate(USERS):
            file = place / f"packets{seed}"
            with file.open("wb") as out:
                for packet in packets(random.Random(seed), uid):
                    out.write(struct.pack("<I", len(packet)) + packet)
            words = [f"{place}/bus", str(REQUESTS // len(USERS)), str(seed), str(file)]
            begun.append(
                subprocess.Popen(
                    ["/usr/bin/python3", "-c", STORM, *words],
                    user=uid,
                    group=uid,
                    extra_groups=[],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        yield begun
    finally:
        for process in begun:
            with process:
                process.kill()


@pytest.fixture
def bus_log(tmp_path: Path) -> Iterator[Path]:
    with open_bus(tmp_path) as log:
        yield log


def test_a_storm_over_the_bus(tmp_path: Path, bus_log: Path) -> None:
    """Root is answered, the relay relays, and nothing of ours ends."""

    async def slowest(begun: list[subprocess.Popen[str]], port: int) -> tuple[int, float]:
        answered, longest = 0, 0.0
        with udp() as client:
            while any(process.poll() is None for process in begun):
                start = time.monotonic()
                async with caller(tmp_path) as bus:
                    reply = await ask(bus, call("LogLevel", "s", "6"))
                assert reply.error_name is None, (reply.error_name, reply.body)
                longest = max(longest, time.monotonic() - start)
                answered += 1
                await asyncio.to_thread(exchange, client, ("127.0.0.1", port), b"goes on")
                await asyncio.sleep(0.02)
        return answered, longest

    with Echo() as echo, Proxy(tmp_path, config(port := free_port(), str(echo))) as proxy:
        asyncio.run(on_bus(tmp_path))
        before = bus_log.read_text()
        with storms(tmp_path) as begun:
            answered, longest = asyncio.run(slowest(begun, port))
            sent = [int(process.communicate()[0]) for process in begun]
        print(f"{sum(sent)} calls; root answered {answered} times, {longest:.2f} s at most")
        assert sum(sent) >= REQUESTS - len(USERS)
        assert answered >= 3
        assert longest < SLOWEST
        assert proxy.info()["reg-ends"] == 0
        assert json.loads(proxy.ctl("info", "--json").stdout)["state"] == "running"
        for sign in ("UDPS-530", "UDPS-320", "Traceback"):
            assert not proxy.said(sign), proxy.said(sign)
        assert bus_log.read_text() == before
