"""A bus of our own, open to everybody, and callers on it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from dbus_next import Message
from dbus_next.aio import MessageBus

from proxy import until

NAME, ROOT = "org.udpproxy1.one", "/org/udpproxy1"
PROXY, PROCESS = "org.udpproxy1.Proxy", "org.udpproxy1.Process"
PEER, PROPERTIES = "org.freedesktop.DBus.Peer", "org.freedesktop.DBus.Properties"
STRANGER = 65534

_OPEN_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={place}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
  <limit name="reply_timeout">30000</limit>
</busconfig>
"""


@contextlib.contextmanager
def open_bus(place: Path) -> Iterator[Path]:
    """A bus at place/bus for everybody; what it says itself."""
    for path in (place, *place.parents[:2]):
        path.chmod(0o755)
    file = place / "bus.conf"
    file.write_text(_OPEN_BUS.format(place=place))
    log = place / "bus.log"
    with log.open("wb") as output:
        words = ["dbus-daemon", f"--config-file={file}", "--nofork", "--nopidfile"]
        daemon = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            until((place / "bus").exists)
            yield log
        finally:
            daemon.kill()
            daemon.wait()


@contextlib.asynccontextmanager
async def caller(place: Path, *, descriptors: bool = False) -> AsyncIterator[MessageBus]:
    """Somebody new on the bus. The library leaves the socket to the collection of garbage."""
    bus = MessageBus(bus_address=f"unix:path={place}/bus", negotiate_unix_fd=descriptors)
    try:
        yield await bus.connect()
    finally:
        bus.disconnect()
        bus._finalize()
        with contextlib.suppress(OSError):
            bus._stream.close()
        bus._sock.close()


async def ask(bus: MessageBus, message: Message) -> Message:
    reply = await asyncio.wait_for(bus.call(message), 20)
    assert reply is not None
    return reply


def call(member: str, signature: str = "", *body: object, where: str = "") -> Message:
    return Message(
        destination=NAME,
        path=f"{ROOT}/{where}" if where else ROOT,
        interface=PROCESS if where else PROXY,
        member=member,
        signature=signature,
        body=list(body),
    )


async def on_bus(place: Path) -> None:
    """Wait for the proxy's name."""
    async with caller(place) as bus:
        for _ in range(200):
            if (await ask(bus, call("Info"))).error_name is None:
                return
            await asyncio.sleep(0.05)
        pytest.fail("it has no name")
