"""Which sessions the parent has connected afresh: those for which the system has another way."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import cast

import pytest

from session_records import RECORD
from udpproxy.process import wire
from udpproxy.process.link import Link
from udpproxy.process.loop import Reactor
from udpproxy.proxy.parent import ways as module
from udpproxy.proxy.parent.ways import Ways
from udpproxy.proxy.session import table as t
from udpproxy.proxy.session.layout import State
from udpproxy.proxy.session.table import Table

SLOTS = 300


class Timers:
    """A loop that only has timers, and a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._cancelled: set[int] = set()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timers.Timer:
        number = self.turns = self.turns + 1
        heapq.heappush(self._due, (self.now + delay, number, callback))
        return Timers.Timer(self._cancelled, number)

    class Timer:
        def __init__(self, cancelled: set[int], number: int) -> None:
            self.cancel = lambda: cancelled.add(number)

    def run(self, most: int = 10_000) -> bool:
        """Until nothing is due any more; False: that takes more turns."""
        while self._due and most:
            self.now, number, callback = heapq.heappop(self._due)
            if number not in self._cancelled:
                callback()
            most -= 1
        return not self._due


class Peer:
    """REG's end."""

    def __init__(self) -> None:
        self.congested = False
        self.told: list[tuple[str, list[wire.Plain]]] = []

    def send(self, message: wire.Message) -> None:
        match message:
            case wire.Tell("reconnect", {"source": str(source), "sessions": list(places)}):
                self.told.append((source, places))
            case _:
                raise AssertionError(message)


class Lab:
    """A table, a loop and REG."""

    def __init__(self) -> None:
        self.table = Table(memoryview(bytearray(t.size(SLOTS))), SLOTS, fresh=True)
        self.table.grow(SLOTS)
        self.timers = Timers()
        self.peer: Peer | None = Peer()
        self.named: set[int] = set()
        """Sessions that have their address by a rule."""
        self.ways = Ways(
            cast(Reactor, self.timers),
            lambda: self.table,
            lambda: cast(Link, self.peer),
            lambda record: record.id in self.named,
        )

    def open(self, slot: int, server: str, source: str) -> None:
        packed = ip_address(server).packed
        end = (ip_address(source).packed, 4000) if source else (bytes(len(packed)), 0)
        record = replace(RECORD, id=slot + 1, state=State.OPEN, server=(packed, 53), source=end)
        self.table.write(slot, record)

    def look(self) -> list[tuple[str, list[wire.Plain]]]:
        """What REG hears of it."""
        assert self.peer
        self.peer.told.clear()
        self.ways.look()
        assert self.timers.run()
        return list(self.peer.told)


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.ways.close()


@pytest.mark.parametrize(
    ("server", "now", "other"), [("127.0.0.1", "127.0.0.1", "127.0.0.9"), ("::1", "::1", "fd00::9")]
)
def test_who_would_go_another_way(lab: Lab, server: str, now: str, other: str) -> None:
    lab.open(0, server, now)
    lab.open(1, server, other)
    lab.open(2, server, now)
    lab.open(200, server, other)
    lab.open(299, server, "")
    assert lab.look() == [(now, [[1, 2], [200, 201]]), (now, [[299, 300]])]


def test_where_there_is_no_way_all_stay(lab: Lab) -> None:
    lab.open(0, "fe80::1", "fd00::9")
    lab.open(1, "255.255.255.255", "10.0.0.1")
    assert lab.look() == []


def test_one_that_stays_all_the_same_is_told_once(lab: Lab) -> None:
    """Its socket's way is another than ours, by a rule of the administrator's."""
    lab.open(0, "127.0.0.1", "127.0.0.9")
    lab.open(1, "127.0.0.1", "")
    assert lab.look() == [("127.0.0.1", [[0, 1]]), ("127.0.0.1", [[1, 2]])]
    assert lab.look() == [("127.0.0.1", [[1, 2]])]
    lab.open(0, "127.0.0.1", "127.0.0.8")
    assert lab.look() == [("127.0.0.1", [[0, 1]]), ("127.0.0.1", [[1, 2]])]
    lab.open(0, "127.0.0.1", "127.0.0.1")
    lab.open(1, "127.0.0.1", "127.0.0.1")
    assert lab.look() == []
    lab.open(0, "127.0.0.1", "127.0.0.8")
    assert lab.look() == [("127.0.0.1", [[0, 1]])]


def test_an_address_that_a_rule_names(lab: Lab) -> None:
    """It is the right one as long as it is there."""
    lab.named = {1, 2, 3, 5}
    lab.open(0, "127.0.0.1", "127.0.0.9")
    lab.open(1, "127.0.0.1", "203.0.113.9")
    lab.open(2, "127.0.0.1", "")
    lab.open(3, "127.0.0.1", "127.0.0.9")
    lab.open(4, "127.0.0.1", str(ip_address(RECORD.client[0])))  # the client's own
    told = [place for _, places in lab.look() for place in places]
    assert sorted(map(str, told)) == ["[1, 2]", "[2, 3]", "[3, 4]"]


def test_in_parts(lab: Lab) -> None:
    for slot in range(SLOTS):
        lab.open(slot, "127.0.0.1", "127.0.0.9")
    told = lab.look()
    assert [len(places) for _, places in told] == [64, 64, 64, 64, 44]
    assert [place for _, places in told for place in places] == [
        [slot, slot + 1] for slot in range(SLOTS)
    ]


def test_reg_reads_one_part_before_the_next(lab: Lab) -> None:
    assert lab.peer
    for slot in range(SLOTS):
        lab.open(slot, "127.0.0.1", "127.0.0.9")
    lab.ways.look()
    assert not lab.timers.run(1)
    lab.peer.congested = True
    assert not lab.timers.run(100)
    assert len(lab.peer.told) == 1
    lab.peer.congested = False
    assert lab.timers.run()
    assert len(lab.peer.told) == 5


def test_many_servers_in_parts(lab: Lab) -> None:
    for slot in range(SLOTS):
        lab.open(slot, f"127.0.{slot // 200}.{slot % 200 + 1}", "127.0.0.9")
    before = lab.timers.turns
    assert len(lab.look()) == SLOTS
    assert lab.timers.turns - before > SLOTS / module._LOOK_UPS


def test_another_change_meanwhile(lab: Lab) -> None:
    """One more look, however many there were."""
    assert lab.peer
    for slot in range(100):
        lab.open(slot, "127.0.0.1", "127.0.0.9")
    lab.ways.look()
    assert not lab.timers.run(1)
    lab.ways.look()
    lab.ways.look()
    for slot in range(100):
        lab.open(slot, "127.0.0.1", "127.0.0.8")
    assert lab.timers.run()
    # What the first look found of the others was not so any more.
    assert [len(places) for _, places in lab.peer.told] == [64, 64, 36]


def test_without_reg(lab: Lab) -> None:
    lab.open(0, "127.0.0.1", "127.0.0.9")
    peer, lab.peer = lab.peer, None
    lab.ways.look()
    assert lab.timers.run()
    lab.peer = peer
    assert lab.timers.run()
    assert lab.look() == [("127.0.0.1", [[0, 1]])]


def test_the_end(lab: Lab) -> None:
    lab.open(0, "127.0.0.1", "127.0.0.9")
    lab.ways.look()
    lab.ways.close()
    assert lab.timers.run()
    assert lab.peer
    assert lab.peer.told == []


OWN = {
    "fd00::1": (2, 64),
    "fd00::2": (2, 64),
    "fd00:0:0:1::1": (2, 64),
    "fd00::3": (3, 64),
    "fd00::4": (2, 128),
}


@pytest.mark.parametrize(
    ("old", "new", "good"),
    [
        ("fd00::1", "fd00::2", True),
        ("fd00::1", "fd00:0:0:1::1", False),
        ("fd00::1", "fd00::3", False),
        ("fd00::4", "fd00::1", False),
        ("fd00::1", "fd00::9", False),
        ("fd00::9", "fd00::1", False),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_addresses_that_are_as_good(old: str, new: str, *, good: bool) -> None:
    own = {ip_address(address).packed: where for address, where in OWN.items()}
    assert module._is_as_good(ip_address(old).packed, ip_address(new).packed, own) == good


def test_own_addresses() -> None:
    """As the kernel writes them; this host has its own."""
    assert module._own_addresses()[ip_address("::1").packed] == (1, 128)
