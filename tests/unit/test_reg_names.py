"""REG's names and its pending sessions: bounded, in order, told the time."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from udpproxy.config.model import Address
from udpproxy.proxy.config.model import Place, SessionType
from udpproxy.proxy.engine.interface import Arrival, ListenerSocket, PendingName
from udpproxy.proxy.reg import pending
from udpproxy.proxy.reg.name_cache import LEAST, MOST_CLIENTS, NameCache, NameChange
from udpproxy.proxy.reg.pending import MOST_OF_SESSION, PendingSession, PendingSessions
from udpproxy.resolver.resolved import ClientNames, Resolved

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")


class Clock:
    """Stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def nobody(client: Address) -> None:
    """Somebody is asked."""


def test_what_acr_says_holds_until_it_says_otherwise(clock: Clock) -> None:
    known = NameCache(clock, nobody)
    assert known.addresses("a.test") == ()
    word = Resolved("a.test", (A,), 9.0)
    assert known.from_acr(word) == NameChange(word, before=())
    assert known.from_acr(word) is None
    clock.now += 1e6
    assert known.addresses("a.test") == (A,)
    word = Resolved("a.test", (B, A))
    assert known.from_acr(word) == NameChange(word, before=(A,))
    assert known.from_acr(Resolved("a.test", (A, B))) is None
    change = known.from_acr(gone := Resolved("a.test"))
    assert change == NameChange(gone, before=(A, B))
    assert change.name == "a.test"
    assert known.figures()["names-known"] == 0


def test_apr_fills_what_acr_does_not_know(clock: Clock) -> None:
    known = NameCache(clock, nobody)
    word, other = Resolved("a.test", (A,), 9.0), Resolved("a.test", (B,), 9.0)
    assert known.from_apr(Resolved("a.test", (), 9.0)) is None
    assert known.from_apr(word) == NameChange(word, before=())
    assert known.from_apr(other) is None
    assert known.figures()["names-known"] == 1
    assert known.expired() == []
    clock.now += 9.0
    assert known.addresses("a.test") == ()
    assert known.expired() == [NameChange(Resolved("a.test"), before=(A,))]
    assert known.expired() == []
    assert known.from_apr(Resolved("a.test", (A,), 0.0))
    clock.now += LEAST / 2
    assert known.from_acr(word) is None
    assert known.from_acr(other) == NameChange(other, before=(A,))
    assert known.from_apr(word) is None


def test_clients_are_asked_for_once_and_kept_for_their_time(clock: Clock) -> None:
    asked: list[Address] = []
    known = NameCache(clock, asked.append)
    assert known.names_of(A) is None
    known.put_client(A, ClientNames(("a.test",), 5.0))
    assert known.names_of(A) == ("a.test",)
    assert asked == [A]
    clock.now += 5.0
    assert known.cached(A) is None
    assert known.names_of(A) is None
    known.put_client(A, ClientNames((), 0.0))
    assert known.names_of(A) == ()
    known.forget_clients()
    assert known.names_of(A) is None
    assert asked == [A, A, A]


def test_clients_are_bounded_and_the_oldest_goes_first(clock: Clock) -> None:
    known = NameCache(clock, nobody)
    first = int(ip_address("10.0.0.0"))
    for number in range(MOST_CLIENTS):
        known.put_client(ip_address(first + number), ClientNames((), 9.0))
    known.put_client(ip_address(first), ClientNames(("again",), 9.0))
    known.put_client(A, ClientNames(("new",), 9.0))
    assert known.figures()["client-names-kept"] == MOST_CLIENTS
    assert known.cached(ip_address(first)) == ("again",)
    assert known.cached(ip_address(first + 1)) is None
    assert known.cached(ip_address(first + 2)) == ()


def test_another_configuration_forgets_other_names(clock: Clock) -> None:
    known = NameCache(clock, nobody)
    known.from_acr(Resolved("a.test", (A,)))
    known.from_acr(Resolved("b.test", (B,)))
    known.from_apr(Resolved("c.test", (A,), 9.0))
    known.keep(["b.test", "d.test"])
    assert [bool(known.addresses(f"{name}.test")) for name in "abc"] == [False, True, False]


def waiter(port: int = 1, name: str = "srv.test", *, deadline: float = 1.0) -> PendingSession:
    wait = PendingName("server", name, 0, 1, "rule", SessionType.NORMAL, 9)
    with socket.socket() as sock:
        listener = ListenerSocket(1, sock, Place(A, 53))
    arrival = Arrival(A.packed, A.packed, 0, 53)
    return PendingSession(wait, listener, ("192.0.2.9", port), arrival, 0.0, deadline)


def test_the_youngest_datagrams_of_a_session_wait() -> None:
    room = PendingSessions()
    for number in range(MOST_OF_SESSION + 3):
        assert room.add(waiter(), bytes([number]))
    (found,) = room.needing(("server", "srv.test"))
    assert list(found.datagrams) == [bytes([number]) for number in range(3, MOST_OF_SESSION + 3)]
    assert (found.came, found.volume, room.dropped) == (11, 11, 3)
    assert (len(room), room.deadline) == (0, None)
    assert room.needing(("server", "srv.test")) == []


def test_who_is_due_leaves() -> None:
    room = PendingSessions()
    for port, deadline in ((1, 3.0), (2, 1.0), (3, 2.0)):
        room.add(waiter(port, deadline=deadline), b"x")
    assert room.deadline == 1.0
    assert [each.client[1] for each in room.due(2.0)] == [2, 3]
    assert room.due(2.5) == []
    room.needing(("server", "srv.test"))
    assert room.due(9.0) == []


def test_only_those_who_need_it_are_given() -> None:
    room = PendingSessions()
    room.add(waiter(1, "a.test"), b"x")
    room.add(waiter(2, "b.test"), b"x")
    assert [each.client[1] for each in room.needing(("server", "b.test"))] == [2]
    assert room.needing(("client", "a.test")) == []
    assert [each.client[1] for each in room.everybody()] == [1]
    assert len(room) == 0


def test_a_session_that_comes_back_has_its_own_deadline() -> None:
    room = PendingSessions()
    room.add(waiter(deadline=1.0), b"x")
    room.needing(("server", "srv.test"))
    room.add(waiter(deadline=2.0), b"y")
    assert room.deadline == 2.0
    assert room.due(1.5) == []
    assert [list(each.datagrams) for each in room.due(2.0)] == [[b"y"]]


def test_sessions_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MOST_SESSIONS", 3)
    monkeypatch.setattr(pending, "MOST_BYTES", 100)
    room = PendingSessions()
    assert [room.add(waiter(port), bytes(40)) for port in range(1, 6)] == [
        *(True, True, False, False, False)
    ]
    assert (len(room), room.dropped) == (3, 3)
    room.due(1.0)
    assert [room.add(waiter(port), bytes(40)) for port in (7, 8)] == [True, True]
    for _ in range(20):  # entries of those who left do not pile up
        room.everybody()
        for port in (1, 2, 3):
            room.add(waiter(port), b"")
    assert room.deadline == 1.0
    assert len(room._deadlines) <= 2 * 3 + 1
