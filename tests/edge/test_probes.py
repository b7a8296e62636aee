"""Probes over real loopback sockets, against servers that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from echo import udp
from udpproxy.config.model import Address, Name
from udpproxy.resolver import outcomes
from udpproxy.resolver.assignment import Probed
from udpproxy.resolver.flight import MOST_DATAGRAMS
from udpproxy.resolver.outcomes import Outcome
from udpproxy.resolver.probes import BATCH, MOST_UNDER_WAY, Addresses, Probes

Reply = Callable[[bytes], list[bytes]]
INTERVAL, TIMEOUT = 0.2, 0.1


async def until(condition: Callable[[], object], step: float = 0.005) -> None:
    """run() has the limit."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(step)


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def run(story: Coroutine[None, None, None]) -> None:
    """Fails when a task or a descriptor is left."""

    async def whole() -> None:
        before = descriptors()
        async with asyncio.timeout(60.0):
            await story
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert descriptors() == before

    asyncio.run(whole())


class Server:
    """Answers with what `reply` makes of it, from another port where it is told so."""

    def __init__(self, reply: Reply, host: str = "127.0.0.1", *, elsewhere: bool = False) -> None:
        self.reply = reply
        self.came: list[tuple[float, int, bytes]] = []
        self._socket = udp(host)
        self._other = udp(host) if elsewhere else self._socket
        self._socket.settimeout(0)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, client = self._socket.recvfrom(65_535)
                self.came.append((time.monotonic(), client[1], data))
                for each in self.reply(data):
                    self._other.sendto(each, client)

    @property
    def endpoint(self) -> tuple[str, int]:
        host, port, *_ = self._socket.getsockname()
        return host, port

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._other.close()


def probed(to: tuple[str, int], name: str = "one", **keys: Any) -> Probed:
    words: dict[str, Any] = {"send": b"ping", "expect": b"pong"}
    words |= {"interval": INTERVAL, "timeout": TIMEOUT, **keys}
    return Probed(group="g", server=name, host=ip_address(to[0]), port=to[1], **words)


class Heard:
    """What is told, and when."""

    def __init__(self, addresses: Addresses = lambda name: (), most: int = MOST_UNDER_WAY) -> None:
        self.batches: list[list[Outcome]] = []
        self.moments: list[float] = []
        self.probes = Probes(
            asyncio.get_running_loop(), random.Random(7), addresses, self._told, most=most
        )

    def _told(self, news: list[Outcome]) -> None:
        self.batches.append(news)
        self.moments.append(time.monotonic())

    @property
    def whys(self) -> list[str]:
        return [each.why for batch in self.batches for each in batch]

    async def until(self, count: int) -> list[str]:
        """The first outcomes, as soon as there are so many."""
        await until(lambda: len(self.whys) >= count)
        return self.whys[:count]

    @property
    def sent(self) -> int:
        """So far."""
        return int(str(self.probes.figures()["probes-sent"]))

    async def until_sent(self) -> None:
        """One more; nothing is read meanwhile."""
        before = self.sent
        await until(lambda: self.sent > before, 0)


@contextlib.contextmanager
def heard(*wanted: Probed, **keys: Any) -> Iterator[Heard]:
    one = Heard(**keys)
    one.probes.configure(wanted)
    try:
        yield one
    finally:
        one.probes.close()


def pong(data: bytes) -> list[bytes]:
    return [b"pong"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_that_lives(host: str) -> None:
    async def story() -> None:
        with contextlib.closing(Server(pong, host)) as server:
            with heard(probed(server.endpoint, header=b"head ")) as told:
                assert await told.until(4) == [""] * 4
                assert told.sent >= 4
                assert told.probes.figures() == {
                    "probes": 1,
                    "probes-sent": told.sent,
                    "probes-late": 0,
                    "probes-failing": 0,
                    "servers-failing": "",
                }
            assert {data for *_, data in server.came} == {b"head ping"}
            assert len({port for _, port, _ in server.came}) > 1
            moments = [when for when, *_ in server.came]
            apart = [later - when for when, later in itertools.pairwise(moments)]
            assert min(apart) > 0.9 * INTERVAL

    run(story())


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (lambda data: [], "no answer"),
        (lambda data: [b"nonsense"], "wrong answer"),
        (lambda data: [data], "wrong answer"),
        (lambda data: [b"", b"nonsense", b"the pong"], ""),
        (lambda data: [b"x"] * (MOST_DATAGRAMS - 1) + [b"pong"], ""),
        (lambda data: [b"x"] * MOST_DATAGRAMS + [b"pong"], "wrong answer"),
    ],
)
def test_what_comes_back(reply: Reply, why: str) -> None:
    async def story() -> None:
        with (
            contextlib.closing(Server(reply)) as server,
            heard(probed(server.endpoint)) as told,
        ):
            assert await told.until(2) == [why] * 2

    run(story())


def test_an_answer_from_elsewhere_is_none() -> None:
    async def story() -> None:
        with (
            contextlib.closing(Server(pong, elsewhere=True)) as server,
            heard(probed(server.endpoint)) as told,
        ):
            assert await told.until(2) == ["no answer"] * 2

    run(story())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_icmp_ends_it_at_once(host: str) -> None:
    async def story() -> None:
        with udp(host) as sock:
            gone = sock.getsockname()[:2]
        begun = time.monotonic()
        with heard(probed(gone, interval=5.0, timeout=5.0)) as told:
            assert await told.until(1) == ["port unreachable"]
        assert time.monotonic() - begun < 3.0

    run(story())


def test_no_way_there() -> None:
    async def story() -> None:
        with heard(probed(("fe80::1%absent", 9))) as told:
            (why, *_) = await told.until(1)
            assert why not in ("", "no answer")
            assert told.probes.figures()["probes-failing"] == 1

    run(story())


def test_a_server_by_name() -> None:
    """While nobody has looked it up, nothing is said; then it is where the name leads."""
    known: dict[str, tuple[Address, ...]] = {}

    async def story() -> None:
        with contextlib.closing(Server(pong)) as server:
            named = Probed(
                group="g", server="srv.test:9", host=Name("srv.test"), port=server.endpoint[1],
                send=b"ping", interval=0.05, timeout=0.05,
            )  # fmt: skip
            with heard(named, addresses=known.get) as told:
                await asyncio.sleep(0.3)
                assert told.whys == []
                known["srv.test"] = ()
                assert await told.until(1) == ["not resolved"]
                known["srv.test"] = (ip_address("127.0.0.1"), ip_address("127.0.0.2"))
                await told.until(len(told.whys) + 2)
                assert told.whys[-1] == ""

    run(story())


def test_who_reads_late_blames_nobody() -> None:
    """The answer was there in time, and nobody took it."""

    async def story() -> None:
        with (
            contextlib.closing(Server(pong)) as server,
            heard(probed(server.endpoint, timeout=INTERVAL)) as told,
        ):
            for _ in range(3):
                await told.until_sent()
                server._readable()
                time.sleep(3 * INTERVAL)  # noqa: ASYNC251 - this is what it is about
            await told.until(4)
            assert set(told.whys) == {""}

    run(story())


def test_who_was_away_does_not_count_it_but_once() -> None:
    """A silent server, and a process that was stopped meanwhile: one excuse, no second one."""

    async def story() -> None:
        with (
            contextlib.closing(Server(lambda data: [])) as server,
            heard(probed(server.endpoint)) as told,
        ):

            async def away() -> None:
                await told.until_sent()
                time.sleep(4 * TIMEOUT)  # noqa: ASYNC251 - this is what it is about

            await away()
            await asyncio.sleep(TIMEOUT / 2)  # it is sent anew
            assert told.whys == []
            assert told.probes.figures()["probes-late"] == 1
            assert await told.until(1) == ["no answer"]
            await away()
            await away()
            await told.until(2)
            assert told.probes.figures()["probes-late"] == 2

    run(story())


def test_what_this_host_lacks_says_nothing_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with contextlib.closing(Server(pong)) as server:
            real = socket.socket

            def none(*words: Any) -> socket.socket:
                raise OSError(24, "Too many open files")

            monkeypatch.setattr(socket, "socket", none)
            with heard(probed(server.endpoint)) as told:
                await asyncio.sleep(3 * INTERVAL)
                assert told.whys == []
                monkeypatch.setattr(socket, "socket", real)
                assert await told.until(1) == [""]

    run(story())


def test_a_reload_keeps_the_rhythm_of_those_that_stay() -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stays, goes, changes = (
                stack.enter_context(contextlib.closing(Server(pong))) for _ in range(3)
            )
            one = probed(stays.endpoint, "stays", interval=0.5)
            two = probed(goes.endpoint, "goes", timeout=5.0, interval=5.0)
            three = probed(changes.endpoint, "changes", interval=60.0)
            goes.reply = lambda data: []
            with heard(one, two, three) as told:
                await until(lambda: stays.came and goes.came and changes.came)
                for _ in range(20):
                    told.probes.configure([one, probed(changes.endpoint, "changes")])
                    await asyncio.sleep(0.1)
                assert told.probes.figures()["probes"] == 2
            assert 4 <= len(stays.came) <= 6
            assert len(goes.came) == 1
            assert len(changes.came) > 5
            assert {each.server for batch in told.batches for each in batch} == {
                "stays",
                "changes",
            }

    run(story())


def test_outcomes_are_told_in_batches() -> None:
    async def story() -> None:
        with udp() as silent:
            many = [
                probed(silent.getsockname(), str(number), interval=1.0, timeout=0.01)
                for number in range(1000)
            ]
            with heard(*many) as told:
                await told.until(2000)
            assert max(map(len, told.batches)) <= outcomes.MOST
            full = sum(len(batch) == outcomes.MOST for batch in told.batches)
            elapsed = told.moments[-1] - told.moments[0]
            assert len(told.batches) - full <= elapsed / BATCH + 2
            counts = Counter(each.server for batch in told.batches for each in batch)
            assert len(counts) == 1000
            assert max(counts.values()) <= 4

    run(story())


@pytest.mark.alone
@pytest.mark.parametrize("lives", [True, False], ids=["live", "silent"])
def test_thousands_of_servers_leave_the_loop_its_turns(*, lives: bool) -> None:
    """4,000, as often as the defaults have it: nobody else waits for them."""

    async def story() -> None:
        reply = pong if lives else lambda data: []
        loop = asyncio.get_running_loop()
        with contextlib.closing(Server(reply)) as server:
            many = [
                probed(server.endpoint, str(number), interval=5.0, timeout=1.0)
                for number in range(4000)
            ]
            worst, most, ends = 0.0, 0, loop.time() + 12.0
            cpu = time.process_time()
            with heard(*many) as told:
                while loop.time() < ends:
                    before = time.process_time()  # whatever else the machine does
                    await asyncio.sleep(0.005)
                    worst = max(worst, time.process_time() - before)
                    most = max(most, told.probes._under_way)
                spent = time.process_time() - cpu
                sent = told.sent
            print(f"{sent} probes, {len(told.batches)} messages, at most {most} ")
            print(f"under way, {spent / 12:.0%} of a core, others waited {worst * 1000:.1f} ms")
            assert most <= MOST_UNDER_WAY
            assert 8000 <= len(server.came) <= 4000 * 4
            assert set(told.whys) == ({""} if lives else {"no answer"})
            assert worst < 0.1
            assert spent < 6.0

    run(story())


def test_no_more_at_once_than_there_are_descriptors_for() -> None:
    async def story() -> None:
        with udp() as silent:
            many = [
                probed(silent.getsockname(), str(number), interval=0.3, timeout=0.3)
                for number in range(100)
            ]
            with heard(*many, most=10) as told:
                before = len(descriptors())
                for _ in range(100):
                    assert len(descriptors()) - before <= 10
                    await asyncio.sleep(0.01)
                assert told.sent > 20

    run(story())
