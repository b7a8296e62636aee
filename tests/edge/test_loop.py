"""The small loop: readers, writers, timers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from udpproxy.process.loop import EpollLoop


@pytest.fixture
def loop() -> Iterator[EpollLoop]:
    loop = EpollLoop()
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    for sock in (one, other):
        sock.settimeout(0)
    with one, other:
        yield one, other


Pair = tuple[socket.socket, socket.socket]


def run(loop: EpollLoop, limit: float = 2.0) -> None:
    """Until somebody stops it, or the test fails."""
    late = loop.call_later(limit, lambda: pytest.fail("nobody stopped the loop"))
    loop.run()
    late.cancel()


def turn(loop: EpollLoop) -> None:
    loop.call_later(0, loop.stop)
    loop.run()


def test_a_reader_is_called_while_there_is_something(loop: EpollLoop, pair: Pair) -> None:
    one, other = pair
    got: list[bytes] = []

    def read() -> None:
        got.append(one.recv(1))
        if len(got) == 3:
            loop.stop()

    loop.add_reader(one.fileno(), read)
    other.send(b"abc")
    run(loop)
    assert got == [b"a", b"b", b"c"]
    assert loop.remove_reader(one.fileno())
    assert not loop.remove_reader(one.fileno())
    other.send(b"d")
    turn(loop)
    assert len(got) == 3


def test_a_reader_learns_of_the_end(loop: EpollLoop, pair: Pair) -> None:
    one, other = pair
    loop.add_reader(one.fileno(), loop.stop)
    other.close()
    run(loop)
    assert one.recv(1) == b""


def test_a_writer_is_called_while_there_is_room(loop: EpollLoop, pair: Pair) -> None:
    one, other = pair
    calls: list[str] = []
    loop.add_writer(one.fileno(), lambda: calls.append("write"))
    turn(loop)
    assert calls == ["write"]
    loop.add_reader(one.fileno(), lambda: calls.append("read"))
    turn(loop)
    assert calls == ["write", "write"]
    other.send(b"x")
    turn(loop)
    assert calls == ["write", "write", "read", "write"]
    assert loop.remove_writer(one.fileno())
    assert not loop.remove_writer(one.fileno())
    turn(loop)
    assert calls[4:] == ["read"]
    loop.remove_reader(one.fileno())
    turn(loop)
    assert len(calls) == 5


def test_a_callback_can_be_replaced(loop: EpollLoop, pair: Pair) -> None:
    one, other = pair
    calls: list[str] = []
    loop.add_reader(one.fileno(), lambda: calls.append("old"))
    loop.add_reader(one.fileno(), lambda: calls.append("new"))
    other.send(b"x")
    turn(loop)
    assert calls == ["new"]


def test_a_descriptor_that_was_closed_first(loop: EpollLoop) -> None:
    reader, writer = os.pipe()
    loop.add_reader(reader, loop.stop)
    os.close(reader)
    assert loop.remove_reader(reader)
    again = os.dup(writer)
    assert again == reader, "the lowest free number"
    loop.add_writer(again, loop.stop)
    run(loop)
    loop.remove_writer(again)
    os.close(again)
    os.close(writer)


def test_who_was_removed_in_the_same_turn_is_not_called(loop: EpollLoop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    calls: list[int] = []

    def first_come(number: int) -> None:
        calls.append(number)
        for one, _ in pairs:
            loop.remove_reader(one.fileno())

    for number, (one, other) in enumerate(pairs):
        loop.add_reader(one.fileno(), partial(first_come, number))
        other.send(b"x")
    turn(loop)
    assert len(calls) == 1
    for one, other in pairs:
        one.close()
        other.close()


def test_timers_fire_in_order_and_once(loop: EpollLoop) -> None:
    begin = time.monotonic()
    fired: list[str] = []
    loop.call_later(0.03, lambda: fired.append("c"))
    loop.call_later(0.03, loop.stop)
    loop.call_later(0.01, lambda: fired.append("a"))
    cancelled = loop.call_later(0.015, lambda: fired.append("never"))
    loop.call_later(0.02, lambda: fired.append("b"))
    loop.call_later(0.02, lambda: fired.append("b2"))
    cancelled.cancel()
    run(loop)
    assert fired == ["a", "b", "b2", "c"]
    assert time.monotonic() - begin >= 0.03


def test_a_timer_may_set_another(loop: EpollLoop) -> None:
    left = [3]

    def again() -> None:
        left[0] -= 1
        if left[0]:
            loop.call_later(0, again)
        else:
            loop.stop()

    loop.call_later(0, again)
    run(loop)
    assert left == [0]


def test_timers_do_not_starve_the_readers(loop: EpollLoop, pair: Pair) -> None:
    one, other = pair
    loop.add_reader(one.fileno(), loop.stop)

    def busy() -> None:
        loop.call_later(0, busy)

    busy()
    other.send(b"x")
    run(loop)


def test_an_exception_ends_the_loop(loop: EpollLoop) -> None:
    def fail() -> None:
        raise ValueError("ours")

    loop.call_later(0, fail)
    with pytest.raises(ValueError, match="ours"):
        loop.run()
