"""A link over a socket pair: order, descriptors, backpressure, and peers that misbehave."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from udpproxy.errors import LinkError
from udpproxy.process import link as link_module
from udpproxy.process import wire
from udpproxy.process.link import Link
from udpproxy.process.loop import EpollLoop
from udpproxy.process.wire import Answer, Ask, Hello, Lend, Message, Tell

Received = tuple[Message, list[int]]


class End:
    """One end of a link, and what it heard."""

    def __init__(self, loop: EpollLoop, sock: socket.socket) -> None:
        self.received: list[Received] = []
        self.reasons: list[str] = []
        self.refuse: Callable[[list[int]], None] = lambda descriptors: None
        self.faults: list[str] = []
        self.link = Link(
            loop, sock, received=self._received, closed=self._closed, failed=self._failed
        )

    def _received(self, link: Link, message: Message, descriptors: list[int]) -> None:
        assert link is self.link
        self.refuse(descriptors)
        self.received.append((message, descriptors))

    def _closed(self, link: Link, reason: str) -> None:
        assert link is self.link
        self.reasons.append(reason)

    def _failed(self, link: Link, what: str) -> None:
        assert link is self.link
        self.faults.append(what)

    def close(self) -> None:
        self.link.close()
        for _, descriptors in self.received:
            for fd in descriptors:
                os.close(fd)


class Lab:
    """A loop with a link to a peer, which is another link or a bare socket."""

    def __init__(self) -> None:
        self.loop = EpollLoop()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self.loop.close)

    def bare(self) -> tuple[End, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stack.enter_context(theirs)
        theirs.settimeout(20)
        return self._end(ours), theirs

    def pair(self) -> tuple[End, End]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return self._end(ours), self._end(theirs)

    def _end(self, sock: socket.socket) -> End:
        end = End(self.loop, sock)
        self._stack.callback(end.close)
        return end

    def turn(self) -> None:
        self.loop.call_later(0, self.loop.stop)
        self.loop.run()

    def until(self, condition: Callable[[], object]) -> None:
        for _ in range(20_000):
            if condition():
                return
            self.turn()
        pytest.fail("it did not come to pass")

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_messages_arrive_in_order(lab: Lab) -> None:
    one, other = lab.pair()
    sent: list[Message] = [Ask(number, "info") for number in range(500)]
    for message in sent:
        one.link.send(message)
    lab.until(lambda: len(other.received) == 500)
    assert [message for message, _ in other.received] == sent
    other.link.send(Hello("reg", "1"))
    lab.until(lambda: one.received)
    assert one.received == [(Hello("reg", "1"), [])]
    assert one.reasons == other.reasons == []


def test_who_is_there(lab: Lab) -> None:
    one, other = lab.pair()
    assert one.link.peer == other.link.peer == (os.getpid(), os.getuid())


def test_descriptors_arrive_and_are_the_receivers(lab: Lab) -> None:
    one, other = lab.pair()
    with pipe() as (reader, writer):
        one.link.send(Lend("pipe", ["writer"]), [writer])
        lab.until(lambda: other.received)
        ((message, (copy,)),) = other.received
        assert message == Lend("pipe", ["writer"])
        assert copy != writer
        assert not os.get_inheritable(copy)
        other.link.close()
        os.write(copy, b"still open")
        assert os.read(reader, 100) == b"still open"


def test_as_many_descriptors_as_a_message_takes(lab: Lab) -> None:
    one, other = lab.pair()
    many = wire.MOST_DESCRIPTORS
    with pipe() as (reader, _):
        one.link.send(Lend("pipes", [None] * many), [reader] * many)
    lab.until(lambda: other.received)
    assert len(set(other.received[0][1])) == many


def test_what_waits_keeps_its_order_and_its_descriptors(lab: Lab) -> None:
    one, other = lab.bare()
    fat = "x" * 10_000
    number = 0
    while not one.link.congested:
        one.link.send(Tell(fat, {"number": number}))
        number += 1
    with pipe() as (reader, _):
        one.link.send(Lend("pipe", [number]), [reader])
        one.link.send(Tell("last"))
        assert number > 5
        # The sender closes his as soon as send() is back.
    got: list[Message] = []
    fds: list[int] = []

    def all_read() -> bool:
        with contextlib.suppress(BlockingIOError):
            other.settimeout(0)
            packet, control, _, _ = other.recvmsg(wire.LARGEST, socket.CMSG_SPACE(4))
            got.append(wire.decode(packet))
            for _, _, data in control:
                fds.extend(array.array("i", data))
        return got[-1:] == [Tell("last")]

    lab.until(all_read)
    assert got == [
        *(Tell(fat, {"number": n}) for n in range(number)),
        Lend("pipe", [number]),
        Tell("last"),
    ]
    assert not one.link.congested
    assert one.reasons == []
    assert len(fds) == 1
    assert os.read(fds[0], 1) == b"", "it is the pipe, and its writer is gone"
    os.close(fds[0])


def test_who_does_not_read_loses_the_link(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_MOST_WAITING", 10)
    one, _ = lab.bare()
    with pipe() as (reader, _):
        for _ in range(100_000):
            one.link.send(Lend("pipe", [1]), [reader])
            if one.reasons:
                break
    assert one.reasons == ["the other side does not read"]
    assert not one.link.congested
    one.link.send(Tell("into the void"))
    one.link.close("again")
    assert len(one.reasons) == 1


def test_the_peer_dies(lab: Lab) -> None:
    one, other = lab.bare()
    other.send(wire.encode(Tell("last words")))
    other.close()
    lab.until(lambda: one.reasons)
    assert one.received == [(Tell("last words"), [])]
    assert one.reasons == ["the other side has left"]


def test_sending_to_the_dead_is_no_error(lab: Lab) -> None:
    one, other = lab.bare()
    other.close()
    one.link.send(Tell("anybody?"))
    assert one.reasons == []
    lab.until(lambda: one.reasons)
    assert len(one.reasons) == 1


def test_the_peer_dies_while_much_waits_for_it(lab: Lab) -> None:
    one, other = lab.bare()
    with pipe() as (reader, _):
        while not one.link.congested:
            one.link.send(Lend("pipe", ["x" * 10_000]), [reader])
        for _ in range(50):
            one.link.send(Lend("pipe", [1]), [reader])
    other.close()
    lab.until(lambda: one.reasons)
    assert not one.link.congested


@pytest.mark.parametrize(
    "packet", [b"garbage", b"{}", b"\xff" * 1000, b'{"":"ask","number":"one","verb":"x"}']
)
def test_garbage_closes_the_link(lab: Lab, packet: bytes) -> None:
    one, other = lab.bare()
    with pipe() as (reader, _):
        socket.send_fds(other, [packet], [reader, reader])
        other.send(wire.encode(Tell("too late")))
    lab.until(lambda: one.reasons)
    assert one.received == []
    with pytest.raises(ConnectionResetError):
        other.recv(1)


def test_an_empty_packet_with_descriptors(lab: Lab) -> None:
    """Its descriptors are not left open; the fixture of all tests sees to that."""
    one, other = lab.bare()
    with pipe() as (reader, _):
        socket.send_fds(other, [b""], [reader, reader])
    lab.until(lambda: one.reasons)
    assert one.reasons == ["the other side has left"]


def test_too_many_descriptors_are_a_truncated_message(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "_CONTROL", socket.CMSG_SPACE(4 * 4))
    one, other = lab.bare()
    with pipe() as (reader, _):
        socket.send_fds(other, [wire.encode(Tell("x"))], [reader] * 20)
    lab.until(lambda: one.reasons)
    assert one.received == []
    assert one.reasons == ["a message was truncated"]


def test_too_long_a_message_is_truncated(lab: Lab) -> None:
    one, other = lab.bare()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    other.send(wire.encode(Tell("x")).ljust(wire.LARGEST + 1))
    lab.until(lambda: one.reasons)
    assert one.reasons == ["a message was truncated"]


def test_a_message_that_the_system_does_not_take_closes_the_link(lab: Lab) -> None:
    """A message that is silently lost would be worse: the other side waits for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    one = End(lab.loop, ours)
    one.link.send(Tell("x" * 100_000))
    assert one.reasons == ["Message too long"]
    theirs.close()


def test_one_that_waited_first(lab: Lab) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    one = End(lab.loop, ours)
    while not one.link.congested:
        one.link.send(Tell("x"))
    one.link.send(Tell("x" * 100_000))
    one.link.send(Tell("x"))
    theirs.settimeout(0)

    def closed() -> bool:
        with contextlib.suppress(BlockingIOError):
            theirs.recv(1000)
        return bool(one.reasons)

    lab.until(closed)
    assert one.reasons == ["Message too long"]
    theirs.close()


def test_whoever_refuses_a_message_has_its_descriptors_all_the_same(lab: Lab) -> None:
    """They are the receiver's, who may have closed them before he finds fault."""
    one, other = lab.bare()
    numbers: list[int] = []

    def refuse(descriptors: list[int]) -> None:
        for fd in descriptors:
            os.close(fd)
            # The number is somebody else's at once.
            numbers.append(os.dup(0))
        raise LinkError("not for me")

    one.refuse = refuse
    with pipe() as (reader, _):
        socket.send_fds(other, [wire.encode(Tell("x"))], [reader])
    lab.until(lambda: one.reasons)
    assert one.reasons == ["not for me"]
    for fd in numbers:
        os.close(fd)


def test_closing_from_within(lab: Lab) -> None:
    one, other = lab.pair()
    one.refuse = lambda descriptors: one.link.close("enough")
    for _ in range(3):
        other.link.send(Tell("x"))
    lab.until(lambda: one.reasons and other.reasons)
    assert len(one.received) == 1
    assert one.reasons == ["enough"]


def test_who_it_was_is_known_after_the_end(lab: Lab) -> None:
    one, other = lab.bare()
    other.close()
    lab.until(lambda: one.reasons)
    assert one.link.peer == (os.getpid(), os.getuid())


def test_a_message_that_is_too_large_costs_only_itself(lab: Lab) -> None:
    one, other = lab.pair()
    one.link.send(Tell("x" * wire.LARGEST))
    one.link.send(Ask(1, "info", {"x": "y" * wire.LARGEST}))
    one.link.send(Tell("small"))
    lab.until(lambda: other.received)
    assert [message for message, _ in other.received] == [Tell("small")]
    assert one.reasons == other.reasons == []
    assert ["not sent: Tell" in one.faults[0], "not sent: Ask" in one.faults[1]] == [True, True]


def test_within_received_it_does_not_close_the_others_link(lab: Lab) -> None:
    one, other = lab.pair()
    one.refuse = lambda descriptors: one.link.send(Tell("x" * wire.LARGEST))
    other.link.send(Tell("question"))
    lab.until(lambda: one.received)
    assert one.reasons == other.reasons == []


def test_an_answer_that_is_too_large_is_replaced(lab: Lab) -> None:
    """Somebody waits for it."""
    one, other = lab.pair()
    one.link.send(Answer(1, "x" * wire.LARGEST))
    one.link.send(Answer(2, error="\u00e9" * wire.LARGEST))
    lab.until(lambda: len(other.received) == 2)
    large, refusal = (message for message, _ in other.received)
    assert large == Answer(1, error="the answer is too large")
    assert isinstance(refusal, Answer)
    assert refusal.error
    assert len(refusal.error) == wire.MOST_TEXT


def test_violations_are_said_and_leaving_is_not(lab: Lab) -> None:
    one, other = lab.bare()
    other.send(b"garbage")
    lab.until(lambda: one.reasons)
    assert [fault[:21] for fault in one.faults] == ["closed: not a message"]
    one, other = lab.bare()
    other.close()
    lab.until(lambda: one.reasons)
    assert one.faults == []


def test_a_flood_leaves_the_others_their_turn(lab: Lab) -> None:
    """However fast somebody writes, a turn reads a bounded part of it."""
    one, other = lab.bare()
    other.settimeout(0)
    packet = wire.encode(Tell("x"))

    def fill() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                other.send(packet)

    before = 0
    for _ in range(20):
        fill()
        one.refuse = lambda descriptors: fill()  # as from another core
        lab.turn()
        assert len(one.received) - before <= 16
        before = len(one.received)
    assert before > 100


def test_bytes_a_second(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its rate a link rests; one that never stops is closed."""
    monkeypatch.setattr(link_module, "FLOOD", 0.5)
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    closed: list[str] = []
    faults: list[str] = []
    seen = 0

    def received(link: Link, message: Message, descriptors: list[int]) -> None:
        nonlocal seen
        seen += len(wire.encode(message))

    link = Link(
        lab.loop,
        ours,
        received=received,
        closed=lambda link, reason: closed.append(reason),
        failed=lambda link, what: faults.append(what),
        rate=1 << 20,
    )
    other.settimeout(0)
    fat = wire.encode(Tell("x" * 100_000))
    begin = time.monotonic()
    while not closed and time.monotonic() < begin + 10:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            other.send(fat)
        lab.turn()
    assert closed == ["it has sent more than 1024 KiB a second for 0.5 s"]
    assert len(faults) == 1
    spent = time.monotonic() - begin
    assert 0.4 < spent < 5
    assert seen < (spent + 1) * (1 << 20) + 200_000
    link.close()
    other.close()


def test_a_link_that_rested_goes_on(lab: Lab) -> None:
    one, other = lab.bare()
    fat = wire.encode(Tell("x" * 150_000))
    other.settimeout(0)
    sent = 0
    while sent < 100:  # almost twice what it reads at once
        with contextlib.suppress(BlockingIOError):
            other.send(fat)
            sent += 1
        lab.turn()
    deadline = time.monotonic() + 20
    while len(one.received) < 100 and time.monotonic() < deadline:
        lab.turn()
    assert len(one.received) == 100
    assert one.reasons == one.faults == []


def test_poured_descriptors_wait_with_their_owner(lab: Lab) -> None:
    """However many they are, few are duplicated."""
    one, other = lab.bare()
    other.settimeout(0)
    count = 500
    with pipe() as (reader, _):
        before = open_descriptors()
        one.link.pour((Lend("pipes", ["x" * 500] * 10), [reader] * 10) for _ in range(count))
        one.link.send(Tell("last"))
        assert one.link.congested
        assert open_descriptors() - before <= 10
        got: list[Message] = []

        def all_read() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, control, _, _ = other.recvmsg(wire.LARGEST, socket.CMSG_SPACE(40))
                    got.append(wire.decode(packet))
                    for _, _, data in control:
                        for fd in array.array("i", data):
                            os.close(fd)
            return got[-1:] == [Tell("last")]

        lab.until(all_read)
    assert len(got) == count + 1
    assert one.faults == []


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_what_the_system_has_no_room_for_waits(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """So it says for a while where others have too many descriptors in flight (unix(7))."""
    end, other = lab.bare()
    tries, real = 0, socket.send_fds
    until = time.monotonic() + 0.3

    def scarce(*words: Any) -> int:
        nonlocal tries
        tries += 1
        if time.monotonic() < until:
            raise OSError(number, os.strerror(number))
        return real(*words)

    monkeypatch.setattr(socket, "send_fds", scarce)
    with pipe() as (reader, _):
        end.link.send(Lend("table", [1]), [reader])
        end.link.pour(iter([(Lend("carriers", [2]), [reader])]))
        end.link.send(Tell("three"))
        lab.until(lambda: time.sleep(0.001) or not end.link.congested)  # type: ignore[func-returns-value]
        got = []
        for _ in range(3):
            packet, fds, *_ = socket.recv_fds(other, 1000, 10)
            got.append((wire.decode(packet), len(fds)))
            for fd in fds:
                os.close(fd)
    assert got == [(Lend("table", [1]), 1), (Lend("carriers", [2]), 1), (Tell("three"), 0)]
    assert end.reasons == end.faults == []
    assert 3 <= tries <= 15, "it waits, and does not try all the time"


def test_descriptors_that_wait_are_few(lab: Lab) -> None:
    one, _ = lab.bare()
    with pipe() as (reader, _):
        while not one.link.congested:
            one.link.send(Lend("x" * 10_000, []))
        before = open_descriptors()
        for _ in range(10):
            one.link.send(Lend("pipes", [None] * 200), [reader] * 200)
        assert open_descriptors() <= before + 512
    assert one.reasons == ["the other side does not read"]


def test_no_descriptor_left_to_wait_with(lab: Lab) -> None:
    one, _ = lab.bare()
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pipe() as (reader, _):
        while not one.link.congested:
            one.link.send(Lend("x" * 10_000, []))
        resource.setrlimit(resource.RLIMIT_NOFILE, (reader + 10, usual[1]))
        try:
            one.link.send(Lend("pipes", [None] * 200), [reader] * 200)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert one.reasons == ["what is lent cannot wait: Too many open files"]


def test_whoever_has_gone_is_known_before_his_last_words_are_read(lab: Lab) -> None:
    one, other = lab.bare()
    assert not one.link.gone
    other.send(wire.encode(Tell("last words")))
    other.close()
    assert one.link.gone
    lab.until(lambda: one.reasons)
    assert one.link.gone
