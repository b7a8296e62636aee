"""Who may have how many calls under way, and what his arguments may be."""

from __future__ import annotations

import math

import pytest
from dbus_next import Message, Variant

from udpproxy.bus import access, arguments
from udpproxy.bus.access import Caller, Places, Rights
from udpproxy.bus.values import variants
from udpproxy.errors import InvalidArgument
from udpproxy.instance.bus_service import _unwrapped, methods
from udpproxy.proxy.verbs import VERBS

METHODS = methods(VERBS)

ROOT = Caller(":1.1", 0, (0,))
ALICE = Caller(":1.2", 1000, (1000,))
BOB = Caller(":1.3", 1001, (1001, 500))
RIGHTS = Rights(group=500, user=None)


def test_who_is_trusted() -> None:
    assert [RIGHTS.trusted(each) for each in (ROOT, ALICE, BOB)] == [True, False, True]
    assert Rights(group=None, user=1000).trusted(ALICE)
    assert not Rights(group=None, user=None).trusted(BOB)
    assert not Rights(group=500, user=None, never=BOB.uid).trusted(BOB)
    assert Rights(group=500, user=None, never=BOB.uid).trusted(ROOT)


def shares(caller: Caller) -> tuple[access.Share, ...]:
    return access.shares(caller, trusted=RIGHTS.trusted(caller))


def test_each_bound_of_strangers() -> None:
    places = Places()
    taken = []
    for sender in range(3):  # of one user
        for _ in range(10):
            wanted = shares(Caller(f":1.{sender}", 7, ()))
            if places.take(*wanted):
                taken.append(wanted)
    assert len(taken) == access.MOST_OF_USER
    assert [wanted[0][0][1] for wanted in taken] == [":1.0"] * 4 + [":1.1"] * 4  # type: ignore[index]
    crowd = sum(places.take(*shares(Caller(f":2.{uid}", uid, ()))) for uid in range(100, 200))
    assert crowd == access.MOST_OF_STRANGERS - access.MOST_OF_USER
    assert not places.take(*shares(ALICE))
    for caller in (ROOT, BOB):
        assert places.take(*shares(caller))
    for wanted in taken:
        places.give(*wanted)
    assert places.take(*shares(ALICE))


def test_nothing_is_kept_of_who_has_gone() -> None:
    places = Places()
    for wanted in (shares(ALICE), shares(ROOT), access.unsorted(":1.9"), access.asking(ALICE)):
        assert places.take(*wanted)
        places.give(*wanted)
    assert len(places) == 0


def test_places_that_are_refused_are_not_taken() -> None:
    places = Places()
    assert places.take(("a", 2), ("b", 1))
    assert not places.take(("a", 2), ("b", 1))
    assert places.take(("a", 2))


def test_whose_answer_nobody_wants_shares_with_all() -> None:
    places = Places()
    taken = [places.take(*access.reading(f":1.{each}", silent=True)) for each in range(10)]
    assert sum(taken) == access.MOST_SILENT
    assert places.take(*access.reading(":1.99", silent=False))


@pytest.mark.parametrize(
    ("member", "given", "why"),
    [
        ("LogLevel", 7, "is a string"),
        ("LogLevel", "x" * 257, "longer than 256"),
        ("Explain", [], "keys and values"),
        ("Explain", {"from": Variant("i", 1)}, "from is a string"),
        ("Explain", {"x" * 999: Variant("s", "")}, "unknown: xxx"),
        ("ListSessions", {"client": Variant("s", "x" * 999)}, "client is longer"),
        ("ListSessions", {"colour": Variant("s", "red")}, "colour"),
    ],
)
def test_arguments_that_are_refused(member: str, given: object, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as refused:
        METHODS[member].from_bus([_unwrapped(given)])
    assert len(str(refused.value)) < 500


def test_arguments() -> None:
    assert METHODS["LogLevel"].from_bus(["+1"]) == {"level": "+1"}
    question = {"from": Variant("s", "10.0.0.1"), "to": "10.0.0.2:53"}
    plain = {"from": "10.0.0.1", "to": "10.0.0.2:53"}
    assert METHODS["Explain"].from_bus([_unwrapped(question)]) == {"question": plain}
    assert METHODS["KillSession"].from_bus([7]) == {"session": 7}


@pytest.mark.parametrize(
    ("text", "sent"),
    [("short", "short"), ("x" * 600, f"{'x' * 497}..."), ("a\0b\udc80", "a?b?")],
)
def test_what_is_told(text: str, sent: str) -> None:
    assert arguments.told(text) == sent


def test_whatever_a_child_says_can_be_sent() -> None:
    said: dict[str, object] = {
        "most": 2**64 - 1, "more": 2**64, "less": -1, "much": 10**400, "flag": True,
        "nan": math.nan,
        "nul\0": "\0", "half": "\ud800", "list": [1], "long": "x" * 10**6, "": None,
    }  # fmt: skip
    sent = variants(said)
    kinds = {key: one.signature for key, one in sent.items()}
    assert kinds == dict.fromkeys(kinds, "s") | {"most": "t", "flag": "b", "nan": "d"}
    message = Message(path="/", interface="a.b", member="c", signature="a{sv}", body=[sent])
    assert 0 < len(message._marshall()) < 10_000
