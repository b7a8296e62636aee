"""The parent puts other sockets in the place of those that keep a port: stored first, then lent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from udpproxy.errors import LinkError
from udpproxy.instance.service import Instance
from udpproxy.process import wire
from udpproxy.process.logs import Logs
from udpproxy.proxy.engine.pool import BATCH, peek_carrier
from udpproxy.proxy.parent import replacing
from udpproxy.proxy.parent.replacing import CARRIERS_AT_ONCE, RATE, Replacement
from udpproxy.proxy.parent.resources import Resources
from udpproxy.proxy.parent.socket_pool import SocketPool
from udpproxy.proxy.parent.store import Store

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


class Kept:
    """Systemd's store."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.most = 0
        self.deaf: OSError | None = None

    def take_carriers(self) -> dict[socket.AddressFamily, list[tuple[socket.socket, int, int]]]:
        return {}

    def keep_carrier(
        self,
        family: int,
        place: int,
        count: int,
        version: int,
        sock: socket.socket,
        *,
        wait: bool = True,
    ) -> None:
        if self.deaf:
            raise self.deaf
        self.names.append(f"{int(family)}-{place}-{count}-{version}")

    def drop_carrier(
        self, family: int, place: int, count: int, version: int, *, wait: bool = True
    ) -> None:
        with contextlib.suppress(ValueError):
            self.names.remove(f"{int(family)}-{place}-{count}-{version}")


class Link:
    """REG's end of it."""

    def __init__(self) -> None:
        self.congested = False
        self.said: list[wire.Message] = []
        self.lent: dict[tuple[int, int], int] = {}
        """Inode numbers."""

    def send(self, message: wire.Message, descriptors: Any = ()) -> None:
        self.said.append(message)
        if isinstance(message, wire.Lend):
            assert message.what == "fresh"
            assert len(descriptors) <= wire.MOST_DESCRIPTORS
            for item, fd in zip(message.items, descriptors, strict=True):
                family, slot = cast("list[int]", item)
                with socket.socket(fileno=socket.dup(fd)) as sock:
                    self.lent[family, slot] = inode(sock)


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


class Stage:
    """A pool of 600 slots with both families, and who asks for others."""

    def __init__(self) -> None:
        self.store, self.link = Kept(), Link()
        self.pool = SocketPool(Logs("test"), cast(Store, self.store))
        self.pool.fill([socket.AF_INET, socket.AF_INET6], 600)
        resources = SimpleNamespace(pool=self.pool, table=SimpleNamespace(grown=600))
        reg = SimpleNamespace(link=self.link)
        instance = SimpleNamespace(peers={"reg": reg}, logs=Logs("test"))
        self.replacement = Replacement(cast(Instance, instance), cast(Resources, resources))

    def inodes(self) -> dict[tuple[int, int], int]:
        """Of every socket as the next REG would find it."""
        found = {}
        for family in self.pool.families():
            slot = 0
            for carrier in self.pool._rows[family]:
                for sock in peek_carrier(carrier.socket):
                    with sock:
                        found[int(family), slot] = inode(sock)
                    slot += 1
        return found

    async def done(self) -> None:
        for _ in range(4000):
            if not self.replacement._wanted:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it has not come to an end")


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.pool.close()


def test_those_and_no_others(stage: Stage) -> None:
    before = stage.inodes()
    wanted: list[wire.Plain] = [[V4, 0], [V4, 7], [V4, 599], [V6, 250], [V4, 7]]

    async def play() -> None:
        stage.replacement.ask(wanted)
        await stage.done()

    asyncio.run(play())
    after = stage.inodes()
    changed = {place for place in before if before[place] != after[place]}
    assert changed == {(V4, 0), (V4, 7), (V4, 599), (V6, 250)} == set(stage.link.lent)
    assert all(after[place] == stage.link.lent[place] for place in changed)
    assert sorted(stage.store.names) == sorted(
        ["2-0-250-1", "2-1-250-0", "2-2-100-1", "10-0-250-0", "10-1-250-1", "10-2-100-0"]
    )


@pytest.mark.parametrize(
    "told",
    [None, 5, "x", {}, [None], [[V4]], [[V4, 600]], [[V4, -1]], [[V4, True]], [[True, 0]],
     [[V4, 0.0]], [[V4, 10**400]], [[7, 0]], [["2", 0]], [[V4, 0, 0]]],
)  # fmt: skip
def test_what_there_is_not(stage: Stage, told: wire.Plain) -> None:
    with pytest.raises(LinkError, match="told of spent sockets"):
        stage.replacement.ask(told)
    assert stage.link.said == []


def test_who_asks_for_all_of_them_over_and_over_gets_so_many(stage: Stage) -> None:
    everything: list[wire.Plain] = [[V4, slot] for slot in range(600)]

    async def play() -> float:
        begun = time.monotonic()
        while len(stage.link.said) < CARRIERS_AT_ONCE + 30:
            stage.replacement.ask(everything)
            assert sum(map(len, stage.replacement._wanted.values())) <= 600
            await asyncio.sleep(0)
        stage.replacement.forget()
        return time.monotonic() - begun

    assert asyncio.run(play()) >= 29 / RATE
    assert len(stage.store.names) == 6


def test_where_the_system_has_none(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is said once, REG does without, and it is tried again."""
    monkeypatch.setattr(replacing, "_RETRY", 0.01)
    before = stage.inodes()

    async def play() -> None:
        stage.store.deaf = OSError(errno.EMFILE, "Too many open files")
        stage.replacement.ask([[V4, 0]])
        await asyncio.sleep(0.2)
        assert stage.inodes() == before
        stage.store.deaf = None
        await stage.done()

    asyncio.run(play())
    assert capfd.readouterr().err.count("UDPS-231-W") == 1
    assert wire.Tell("lack", {"errno": errno.EMFILE}) in stage.link.said
    assert set(stage.link.lent) == {(V4, 0)}
    # None of the versions that failed is left.
    assert [name for name in stage.store.names if name.startswith("2-0-")] != []
    assert len(stage.store.names) == 6


@pytest.mark.parametrize("long", [False, True])
def test_while_systemd_has_other_things_to_do(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    long: bool,  # noqa: FBT001
) -> None:
    """A moment is no lack."""
    monkeypatch.setattr(replacing, "_RETRY", 0.1 if long else 60.0)
    monkeypatch.setattr(replacing, "_PAUSE", 0.01)

    async def play() -> None:
        stage.store.deaf = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        stage.replacement.ask([[V4, 0]])
        await asyncio.sleep(0.3)
        stage.store.deaf = None
        await stage.done()

    asyncio.run(play())
    lack = wire.Tell("lack", {"errno": errno.ENOBUFS})
    assert (lack in stage.link.said) is long
    assert set(stage.link.lent) == {(V4, 0)}


def test_reg_reads_first_what_it_was_lent(stage: Stage) -> None:
    async def play() -> None:
        stage.link.congested = True
        stage.replacement.ask([[V4, slot] for slot in range(BATCH + 1)])
        await asyncio.sleep(0.2)
        assert stage.link.said == []
        stage.link.congested = False
        await stage.done()

    asyncio.run(play())
    assert len(stage.link.lent) == BATCH + 1


def test_another_reg_begins_anew(stage: Stage) -> None:
    async def play() -> None:
        stage.replacement.ask([[V4, 0]])
        stage.replacement.forget()
        await asyncio.sleep(0.05)

    asyncio.run(play())
    assert stage.link.said == []
