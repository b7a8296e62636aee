"""Sockets towards servers come while an engine relays: whoever finds none waits for the next."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest

from host import descriptors_left
from rig import Rig, has_nothing, verdict
from udpproxy.errors import UnitError
from udpproxy.proxy.session.index import FEW
from udpproxy.proxy.session.reasons import Reason

MANY = 10_000
BOUND = {"python": 256, "native": 1024}
"""How many first datagrams wait."""


def addresses(count: int) -> list[str]:
    """To be written to, one for each session of a wildcard listener."""
    return [f"127.2.{number // 250}.{number % 250 + 1}" for number in range(count)]


def wide(
    new_rig: Callable[..., Rig], **options: object
) -> tuple[Rig, socket.socket, socket.socket, int]:
    """A rig that listens everywhere, a client, an answering server, and the port."""
    rig = new_rig(**options)
    rig.listen("0.0.0.0")
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    return rig, client, server, rig.where()[1]


def test_more_are_wanted_ahead_of_need(new_rig: Callable[..., Rig]) -> None:
    rig, client, server, port = wide(new_rig, sessions=1000, slots=250)
    names = addresses(600)
    for number, name in enumerate(names[:500], 1):
        client.sendto(b"question", (name, port))
        rig.take(server)
        left = rig.table.grown - number
        if left == max(FEW, rig.table.grown // 4) - 1:
            rig.until(lambda: rig.host.wishes)
            rig.grow(rig.table.grown * 2)
            rig.host.wishes = 0
        else:
            assert rig.host.wishes == 0
    assert (rig.table.grown, rig.host.refusals) == (1000, [])
    # There can be no more than these.
    for name in names[500:]:
        client.sendto(b"question", (name, port))
        rig.take(server)
    assert rig.host.wishes == 0
    assert rig.count("sessions") == 600


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_newcomer_waits_for_its_socket(new_rig: Callable[..., Rig], address: str) -> None:
    rig = new_rig(sessions=4, slots=1)
    rig.listen(address)
    server, first, second = rig.udp(address), rig.udp(address), rig.udp(address)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2])
    rig.converse(first, server, rig.where())
    for number in range(3):
        second.sendto(b"%d" % number, rig.where())
    assert rig.host.wishes == 1
    rig.until(rig.is_quiet)
    assert has_nothing(server)
    first.sendto(b"goes on", rig.where())
    assert rig.take(server)[0] == b"goes on"
    rig.grow(2)
    second.sendto(b"3", rig.where())
    assert [rig.take(server)[0] for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    assert rig.count("sessions") == 2
    assert rig.count("waiting-dropped") == 0
    assert rig.host.refusals == []
    # The only free slot is taken first by who has waited.
    third, fourth = rig.udp(address), rig.udp(address)
    third.sendto(b"third", rig.where())
    rig.until(rig.is_quiet)
    rig.grow(3)
    fourth.sendto(b"fourth", rig.where())
    assert rig.take(server)[0] == b"third"
    rig.grow(4)
    assert rig.take(server)[0] == b"fourth"


def test_only_so_many_wait(new_rig: Callable[..., Rig]) -> None:
    rig, client, server, port = wide(new_rig, sessions=MANY, slots=1)
    bound = BOUND[rig.engine.name]
    for name in addresses(1 + bound + 100):
        client.sendto(b"question", (name, port))
    rig.take(server)
    rig.until(lambda: rig.count("waiting-dropped") == 100)
    rig.grow(2 * bound)
    for _ in range(bound):
        rig.take(server)
    assert rig.count("sessions") == 1 + bound
    assert rig.host.refusals == []


def test_where_there_are_none_to_be_had_newcomers_are_refused(new_rig: Callable[..., Rig]) -> None:
    rig, client, server, port = wide(new_rig, sessions=4, slots=1)
    names = addresses(4)
    client.sendto(b"0", (names[0], port))
    rig.take(server)
    client.sendto(b"1", (names[1], port))
    rig.until(rig.is_quiet)
    rig.engine.lack(errno.EMFILE)
    rig.until(lambda: rig.host.refusals)
    client.sendto(b"2", (names[2], port))
    rig.until(lambda: len(rig.host.refusals) == 2)
    assert rig.host.refusals == ["refused-no-port"] * 2
    assert set(rig.host.problems) == {errno.EMFILE}
    assert rig.count("refused-no-port") == 2
    client.sendto(b"0", (names[0], port))
    assert rig.take(server)[0] == b"0"
    rig.grow(4)
    for number in (1, 2, 3):
        client.sendto(b"%d" % number, (names[number], port))
        assert rig.take(server)[0] == b"%d" % number
    assert rig.count("sessions") == 4


def test_a_newcomer_replaces_another_only_where_there_are_none(
    new_rig: Callable[..., Rig],
) -> None:
    rig, client, server, port = wide(new_rig, sessions=4, slots=1, evict=True)
    names = addresses(3)
    client.sendto(b"0", (names[0], port))
    rig.take(server)
    client.sendto(b"1", (names[1], port))
    rig.until(rig.is_quiet)
    assert rig.count("evicted") == 0
    rig.engine.lack(errno.EMFILE)
    assert rig.take(server)[0] == b"1"
    assert rig.expect_end(1, Reason.EVICTED)
    rig.grow(2)
    client.sendto(b"2", (names[2], port))
    assert rig.take(server)[0] == b"2"
    assert rig.count("evicted") == 1


def test_ports_that_the_host_keeps_want_no_sockets(new_rig: Callable[..., Rig]) -> None:
    rig, client, server, port = wide(new_rig, sessions=4, slots=2)
    rig.engine.limit_ports(2, 0)
    for name in addresses(2):
        client.sendto(b"question", (name, port))
        rig.take(server)
    client.sendto(b"too many", (addresses(3)[2], port))
    rig.until(lambda: rig.host.refusals)
    assert (rig.host.refusals, rig.host.wishes) == (["refused-ports-kept"], 0)
    rig.engine.limit_ports(3, 0)
    client.sendto(b"question", (addresses(4)[3], port))
    rig.until(lambda: rig.host.wishes)
    rig.grow(4)
    rig.take(server)
    client.sendto(b"too many", (addresses(3)[2], port))
    rig.until(lambda: len(rig.host.refusals) == 2)
    assert rig.host.refusals == ["refused-ports-kept"] * 2


def test_what_has_grown_is_as_what_was_there(new_rig: Callable[..., Rig]) -> None:
    """Killed, led elsewhere, judged anew, adopted, and each slot used again."""
    rig, client, server, port = wide(new_rig, sessions=40, slots=2)
    names = addresses(6)
    for name in names[:2]:
        client.sendto(b"question", (name, port))
        rig.take(server)
    rig.grow(6)
    for name in names[2:]:
        client.sendto(b"question", (name, port))
        rig.take(server)
    numbers = {slot: record.id for slot, record in rig.table.records()}
    assert numbers == {slot: slot + 1 for slot in range(6)}
    assert rig.engine.kill(5)
    assert rig.engine.end(5, 6)
    rig.until(lambda: len(rig.host.reasons) == 2)
    other = rig.udp()
    assert rig.engine.redirect(4, other.getsockname())
    client.sendto(b"elsewhere", (names[3], port))
    assert rig.take(other)[0] == b"elsewhere"
    assert rig.engine.reconsider() == 0
    rig.crash()
    assert rig.restart() == 4
    rig.grow(12)
    for name in names:
        client.sendto(b"again", (name, port))
    assert rig.take(other)[0] == b"again"
    for _ in range(5):
        assert rig.take(server)[0] == b"again"
    assert {slot for slot, _ in rig.table.records()} == set(range(6))
    assert (rig.host.losses, rig.host.refusals) == ({}, [])


def test_an_engine_that_begins_with_few_left_asks(new_rig: Callable[..., Rig]) -> None:
    rig, client, server, port = wide(new_rig, sessions=8, slots=2)
    client.sendto(b"question", (addresses(1)[0], port))
    rig.take(server)
    rig.crash()
    rig.host.wishes = 0
    assert rig.restart() == 1
    rig.until(lambda: rig.host.wishes == 1)


def test_a_carrier_that_does_not_fit_changes_nothing(new_rig: Callable[..., Rig]) -> None:
    rig, client, server, port = wide(new_rig, sessions=1000, slots=1)
    names = addresses(2)
    client.sendto(b"0", (names[0], port))
    rig.take(server)
    client.sendto(b"1", (names[1], port))
    rig.until(rig.is_quiet)
    carriers = [carrier.dup() for carrier in rig._grow(200)]
    with descriptors_left(100), pytest.raises(UnitError, match="100 of 199 sockets of a carrier"):
        rig.engine.extend(carriers, 200)
    assert has_nothing(server)
    rig.engine.extend(carriers, 200)
    assert rig.take(server)[0] == b"1"
