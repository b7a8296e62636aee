"""REG's questions to APR, over a real socket pair: bounded, asked again, never waited for."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from udpproxy.errors import LinkError
from udpproxy.process import wire
from udpproxy.process.logs import Logs
from udpproxy.process.loop import EpollLoop
from udpproxy.proxy.reg import asking
from udpproxy.proxy.reg.asking import MOST_WANTED, Answered, Asking
from udpproxy.resolver.bounds import IN_FLIGHT


class Apr:
    """The other side, driven by hand."""

    def __init__(self) -> None:
        self.loop = EpollLoop()
        self.answers: list[tuple[str, str, wire.Plain]] = []
        self.nonsense: list[str] = []
        self.lost: list[bool] = []
        self.asking = self.another(3, self._answered)
        self._ends: list[socket.socket] = []

    def another(self, level: int, answered: Answered) -> Asking:
        """REG's side of it, that logs at that level."""
        logs = Logs("test", level)
        return Asking(
            self.loop,
            logs,
            answered=answered,
            nonsense=self.nonsense.append,
            lost=lambda: self.lost.append(True),
        )

    def _answered(self, kind: str, name: str, value: wire.Plain) -> None:
        self.answers.append((kind, name, value))

    def connect(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        its.settimeout(0)
        self._ends.append(its)
        self.asking.connect(ours)

    def asked(self) -> dict[str, int]:
        """The names that came since the last time, with their numbers."""
        found: dict[str, int] = {}
        self.turn()
        with contextlib.suppress(BlockingIOError):
            while True:
                message = wire.decode(self._ends[-1].recv(wire.LARGEST))
                assert isinstance(message, wire.Ask)
                found[str(message.args["name"])] = message.number
                self.turn()
        return found

    def answer(self, message: wire.Message) -> None:
        self._ends[-1].send(wire.encode(message))
        self.turn()

    def turn(self) -> None:
        self.loop.call_later(0, self.loop.stop)
        self.loop.run()

    def die(self) -> None:
        self._ends[-1].close()
        self.turn()

    def close(self) -> None:
        self.asking.disconnect()
        self.loop.close()
        for end in self._ends:
            end.close()


@pytest.fixture
def apr() -> Iterator[Apr]:
    with contextlib.closing(Apr()) as found:
        yield found


def test_a_question_and_its_answer(apr: Apr) -> None:
    apr.connect()
    for _ in range(3):
        apr.asking.want("client", "192.0.2.1")
    asked = apr.asked()
    assert list(asked) == ["192.0.2.1"]
    apr.answer(wire.Answer(asked["192.0.2.1"], {"names": ["a.test"], "ttl": 5}))
    assert apr.answers == [("client", "192.0.2.1", {"names": ["a.test"], "ttl": 5})]
    apr.answer(wire.Answer(99, {"nobody": "asked"}))
    apr.asking.want("server", "a.test")
    apr.answer(wire.Answer(apr.asked()["a.test"], error="timeout"))
    assert apr.answers[1:] == [("server", "a.test", None)]
    figures = apr.asking.figures()
    assert (figures["look-ups-answered"], figures["look-ups-failed"]) == (1, 1)
    assert (figures["look-ups-in-flight"], figures["look-ups-queued"]) == (0, 0)


def test_the_number_in_flight_is_bounded_and_what_is_wanted_too(apr: Apr) -> None:
    apr.connect()
    for number in range(MOST_WANTED + 10):
        apr.asking.want("client", str(number))
    asked = apr.asked()
    assert len(asked) == IN_FLIGHT
    figures = apr.asking.figures()
    assert figures["look-ups-queued"] == MOST_WANTED - IN_FLIGHT
    assert figures["look-ups-refused"] == 10
    assert not apr.asking.refuses("client", "7")
    assert apr.asking.refuses("client", "new")
    apr.answer(wire.Answer(asked["0"], {}))
    assert list(apr.asked()) == [str(IN_FLIGHT)]


def test_another_apr_is_asked_what_the_first_did_not_answer(apr: Apr) -> None:
    apr.asking.want("client", "early")
    apr.connect()
    apr.asking.want("client", "one")
    first = apr.asked()
    assert list(first) == ["early", "one"]
    apr.connect()
    assert apr.lost == []  # another has come
    first = apr.asked()
    apr.die()
    assert apr.lost == [True]
    apr.asking.want("client", "two")
    apr.connect()
    assert list(apr.asked()) == ["early", "one", "two"]
    apr.connect()
    again = apr.asked()
    apr.answer(wire.Answer(first["one"], {"an": "old number"}))
    assert apr.answers == []
    apr.answer(wire.Answer(again["one"], {"a": "new one"}))
    assert apr.answers == [("client", "one", {"a": "new one"})]


def test_what_nobody_wants_any_more_is_forgotten(apr: Apr, monkeypatch: pytest.MonkeyPatch) -> None:
    apr.connect()
    apr.asking.want("client", "one")
    apr.asked()
    apr.asking.look(5.0)
    assert apr.answers == []
    monkeypatch.setattr(asking, "PATIENCE", 0.0)
    apr.asking.look(5.0)
    assert apr.answers == [("client", "one", None)]
    assert apr.asking.figures()["look-ups-in-flight"] == 0


def test_a_forgotten_question_that_comes_up_again_is_a_new_one(
    apr: Apr, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def answered(kind: str, name: str, value: wire.Plain) -> None:
        told.append(name)
        if len(told) == 1:
            apr.asking.want(kind, name)

    apr.asking = apr.another(3, answered)
    apr.connect()
    apr.asking.want("client", "one")
    old = apr.asked()["one"]
    with monkeypatch.context() as impatient:
        impatient.setattr(asking, "PATIENCE", 0.0)
        apr.asking.look(5.0)
    new = apr.asked()["one"]
    apr.answer(wire.Answer(new, {}))
    apr.answer(wire.Answer(old, {}))
    assert told == ["one", "one"]
    assert apr.asking.figures()["look-ups-in-flight"] == 0


def test_late_answers_are_said_once(apr: Apr, capfd: pytest.CaptureFixture[str]) -> None:
    apr.asking = apr.another(6, apr._answered)
    apr.connect()
    apr.asking.want("client", "one")
    for _ in range(3):
        apr.asking.look(-1.0)
    apr.answer(wire.Answer(apr.asked()["one"], {}))
    for _ in range(3):
        apr.asking.look(1.0)
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 2
    assert "answers of APR are late: 1 look-ups wait" in told[0]
    assert "APR answers in time again" in told[1]


def test_what_is_given_up_is_not_in_time(
    apr: Apr, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apr.asking = apr.another(6, apr._answered)
    apr.connect()
    apr.asking.want("client", "one")
    apr.asking.look(-1.0)
    with monkeypatch.context() as patch:
        patch.setattr(asking, "PATIENCE", -1.0)
        apr.asking.look(1.0)
    assert apr.answers == [("client", "one", None)]
    assert "in time again" not in capfd.readouterr().err
    apr.asking.want("client", "two")
    apr.answer(wire.Answer(apr.asked()["two"], {}))
    apr.asking.look(1.0)
    assert "APR answers in time again" in capfd.readouterr().err


@pytest.mark.parametrize("message", [wire.Tell("x"), wire.Ask(1, "x"), wire.Hello("apr", "1")])
def test_only_answers_come_from_apr(apr: Apr, message: wire.Message) -> None:
    apr.connect()
    apr.asking.want("client", "one")
    number = apr.asked()["one"]
    apr.answer(message)
    assert apr.nonsense == [f"not from APR: {type(message).__name__}"]
    assert apr.answers == []
    apr.answer(wire.Answer(number, {"the way": "is still there"}))
    assert apr.answers == [("client", "one", {"the way": "is still there"})]


def test_an_answer_that_cannot_be_read_is_none(apr: Apr) -> None:
    told: list[wire.Plain] = []

    def answered(kind: str, name: str, value: wire.Plain) -> None:
        if value is not None:
            raise LinkError("no names")
        told.append(value)

    apr.asking = apr.another(3, answered)
    apr.connect()
    apr.asking.want("client", "one")
    apr.asking.want("client", "two")
    for number in apr.asked().values():
        apr.answer(wire.Answer(number, [number]))
    assert (told, apr.nonsense) == ([None, None], ["no names", "no names"])
    figures = apr.asking.figures()
    assert (figures["look-ups-answered"], figures["look-ups-failed"]) == (0, 2)
