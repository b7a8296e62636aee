"""What monitoring reads on the bus: it moves while sessions live, and leaves no lines."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dbus_next import Message
from dbus_next.aio import MessageBus

from buses import NAME, PROPERTIES, PROXY, ROOT, ask, call, caller, on_bus, open_bus
from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, config

COUNTERS = ("UploadDatagrams", "UploadBytes", "DownloadDatagrams", "DownloadBytes")


async def counters(bus: MessageBus) -> list[int]:
    """As they are, one by one and all at once."""
    one_by_one = []
    for name in COUNTERS:
        reply = await ask(bus, read("Get", "ss", PROXY, name))
        one_by_one.append(reply.body[0].value)
    every = (await ask(bus, read("GetAll", "s", PROXY))).body[0]
    assert [every[name].value for name in COUNTERS] == one_by_one
    return one_by_one


def read(member: str, signature: str, *body: str) -> Message:
    return Message(
        destination=NAME,
        path=ROOT,
        interface=PROPERTIES,
        member=member,
        signature=signature,
        body=list(body),
    )


def test_counters_move_while_a_session_lives(tmp_path: Path) -> None:
    port = free_port()

    async def run() -> None:
        await on_bus(tmp_path)
        async with caller(tmp_path) as bus:
            assert await counters(bus) == [0, 0, 0, 0]
            with udp() as client:
                for number in (1, 2, 3):
                    exchange(client, ("127.0.0.1", port), b"hello")
                    await asyncio.sleep(1.1)  # an answer may be kept for a second
                    assert await counters(bus) == [number, 5 * number, number, 5 * number]

    with open_bus(tmp_path), Echo() as echo, Proxy(tmp_path, config(port, str(echo))) as proxy:
        asyncio.run(run())
        assert proxy.info()["sessions"] == 1


def test_who_reads_the_state_leaves_no_line(tmp_path: Path) -> None:
    async def run() -> None:
        await on_bus(tmp_path)
        async with caller(tmp_path) as bus:
            for where in ("", "reg"):
                assert (await ask(bus, call("Info", where=where))).error_name is None

    with (
        open_bus(tmp_path),
        Echo() as echo,
        Proxy(tmp_path, config(free_port(), str(echo))) as proxy,
    ):
        before = len(proxy.said("UDPS-302-I"))
        asyncio.run(run())
        proxy.info()
        proxy.info("reg")
        assert len(proxy.said("UDPS-302-I")) == before
        assert proxy.ctl("info").returncode == 0
        assert len(proxy.said("UDPS-302-I")) == before + 1
