"""The book: keys, slots, caps, eviction and what is due."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from udpproxy.proxy.session import index as index_module
from udpproxy.proxy.session.index import FEW, SOON, Session, SessionIndex
from udpproxy.proxy.session.limits import NEVER, TRIED, Budget
from udpproxy.proxy.session.reasons import Reason


class Shelf:
    """A book, the listener's keys, and when each session last carried a datagram."""

    def __init__(
        self, slots: int = 4, capacity: int = 0, *, per_client: int = 0, evict: bool = False
    ) -> None:
        self.last: dict[int, int] = {}
        self.asked: dict[int, int] = {}
        self.owner: dict[Hashable, Session] = {}
        self.book = SessionIndex(
            slots,
            capacity or slots,
            per_client=per_client,
            evict=evict,
            last=lambda one: self.last[one.id],
            asked=lambda one: self.asked.get(one.id, 0),
        )

    def open(
        self,
        number: int,
        *,
        client: str = "a",
        idle: int = 10,
        lifetime: int = NEVER,
        silent: int = NEVER,
        now: int = 0,
        answered: bool = False,
        keyed: bool = True,
    ) -> Session:
        self.last[number] = now
        session = Session(
            number=number,
            slot=self.book.take_slot(),
            owner=self.owner,
            key=(client, number),
            client=client,
            budget=Budget(idle, lifetime, NEVER, NEVER, NEVER, NEVER, silent),
            opened=now,
        )
        self.book.open(session, answered=answered, keyed=keyed)
        return session

    def due(self, now: int) -> list[tuple[int, Reason]]:
        """Those that end; who is to be connected afresh stays."""
        ended = []
        while due := self.book.due(now):
            session, reason = due
            if reason is None:
                self.asked[session.id] |= TRIED
                self.book.replan(session)
                continue
            ended.append((session.id, reason))
            self.book.close(session)
        return ended


def test_the_lowest_slots_come_first() -> None:
    shelf = Shelf(2, 6)
    assert [shelf.open(number).slot for number in (1, 2)] == [0, 1]
    shelf.book.extend(4)
    shelf.book.extend(3)  # there are more already
    assert shelf.open(3).slot == 2
    shelf.book.extend(6)
    assert [shelf.open(number).slot for number in (4, 5, 6)] == [3, 4, 5]
    assert shelf.book.room("a") == "refused-table-full"


def test_more_slots_are_wanted_ahead_of_need() -> None:
    shelf = Shelf(2 * FEW, 10_000)
    for number in range(FEW):
        assert not shelf.book.scarce()
        shelf.open(number)
    shelf.open(number + 1)
    assert shelf.book.scarce()
    assert not shelf.book.scarce(), "said once"
    shelf.book.extend(8 * FEW)
    for number in range(FEW + 1, 6 * FEW):
        assert not shelf.book.scarce()
        shelf.open(number)
    shelf.open(6 * FEW)
    assert shelf.book.scarce(), "a quarter is left"
    shelf.book.extend(10_000)
    for number in range(6 * FEW + 1, 10_000):
        shelf.open(number)
    assert not shelf.book.scarce(), "there can be no more"


def test_newcomers_wait_for_slots_that_are_on_their_way() -> None:
    shelf = Shelf(1, 3, evict=True)
    first = shelf.open(1)
    assert shelf.book.room("a") == SOON
    shelf.book.lack()
    assert shelf.book.room("a") is first
    shelf.book.answered(first)
    assert shelf.book.room("a") == "refused-no-port"
    shelf.book.extend(2)
    assert shelf.book.room("a") is None
    shelf.open(2)
    assert shelf.book.room("a") == SOON
    shelf.book.limit(2)
    assert shelf.book.room("a") is shelf.book.get(2)
    shelf.book.answered(next(one for one in shelf.book if one.id == 2))
    assert shelf.book.room("a") == "refused-ports-kept"
    assert not shelf.book.scarce(), "it could use none"
    shelf.book.limit(3)
    assert shelf.book.scarce()


def test_spent_slots_wait_for_other_sockets() -> None:
    shelf = Shelf(2, 2)
    book = shelf.book
    first, _ = shelf.open(1), shelf.open(2)
    assert book.is_low
    book.close(first, spent=True)
    assert (book.room("a"), book.full) == (SOON, "refused-no-port")
    book.lack()
    assert book.room("a") == "refused-no-port"
    book.replaced(first.slot)
    assert book.room("a") is None
    assert not book.is_low
    book.give_back(book.take_slot(), spent=True)
    assert book.room("a") == SOON
    # As many as there may be are there.
    book.limit(1)
    assert book.room("a") == "refused-ports-kept"


def test_spent_slots_want_no_others() -> None:
    """They will be back."""
    shelf = Shelf(FEW, 4 * FEW)
    book = shelf.book
    assert (book.few, book.is_low) == (FEW, False)
    book.give_back(book.take_slot(), spent=True)
    assert not book.scarce()
    book.take_slot()
    assert book.scarce()


def test_spent_slots_that_were_found() -> None:
    book = Shelf(4).book
    book.reserve({0}, {1, 3})
    assert book.take_slot() == 2
    assert book.room("a") == SOON
    for slot in (1, 3):
        book.replaced(slot)
    assert {book.take_slot(), book.take_slot()} == {1, 3}


def test_fewer_than_there_are_slots() -> None:
    """The host keeps ports of its own; those that there are already stay."""
    shelf = Shelf(3, evict=True)
    first, second = shelf.open(1, answered=True), shelf.open(2)
    shelf.book.limit(2)
    assert shelf.book.room("a") is second
    shelf.book.answered(second)
    assert shelf.book.room("a") == shelf.book.full == "refused-ports-kept"
    shelf.book.limit(1)
    shelf.book.close(first)
    assert shelf.book.room("a") == "refused-ports-kept"
    shelf.book.limit(3)
    assert shelf.book.room("a") is None


def test_open_and_close() -> None:
    shelf = Shelf()
    session = shelf.open(1)
    assert shelf.owner == {("a", 1): session}
    assert (len(shelf.book), list(shelf.book), shelf.book.get(1)) == (1, [session], session)
    shelf.book.close(session)
    assert shelf.owner == {}
    assert (len(shelf.book), list(shelf.book), shelf.book.get(1)) == (0, [], None)


def test_slots() -> None:
    shelf = Shelf(3)
    assert [shelf.open(number).slot for number in (1, 2)] == [0, 1]
    assert shelf.book.take_slot() == 2
    assert shelf.book.room("a") == "refused-table-full"
    shelf.book.give_back(2)
    assert shelf.book.room("a") is None
    shelf.open(3)
    first = shelf.book.get(1)
    assert first
    shelf.book.close(first)
    assert shelf.open(4).slot == 0


def test_slots_that_were_found_in_use() -> None:
    shelf = Shelf(4)
    shelf.book.reserve({0, 2})
    assert [shelf.book.take_slot() for _ in range(2)] == [1, 3]
    assert shelf.book.room("a") == "refused-table-full"


def test_a_cap_for_each_client() -> None:
    shelf = Shelf(per_client=2, evict=True)
    first, _ = shelf.open(1), shelf.open(2)
    assert shelf.book.room("a") == "refused-per-client"
    assert shelf.book.room("b") is None
    shelf.book.close(first)
    assert shelf.book.room("a") is None


def test_newcomers_evict_the_oldest_without_an_answer() -> None:
    shelf = Shelf(3, evict=True)
    first, second, third = (shelf.open(number) for number in (1, 2, 3))
    assert shelf.book.room("b") is first
    shelf.book.answered(first)
    shelf.book.answered(first)
    assert shelf.book.room("b") is second
    shelf.book.close(second)
    assert shelf.book.room("b") is None
    shelf.open(4, answered=True)
    assert shelf.book.room("b") is third
    shelf.book.answered(third)
    assert shelf.book.room("b") == "refused-table-full"


def test_a_closed_upload_keeps_the_slot_but_not_the_key() -> None:
    shelf = Shelf(2)
    first = shelf.open(1)
    first.key = "key"
    shelf.owner = first.owner = {"key": first}
    shelf.book.close_upload(first)
    assert shelf.owner == {}
    second = shelf.open(2)
    second.key = "key"
    shelf.owner["key"] = second
    shelf.book.close_upload(first)
    shelf.book.close(first)
    assert shelf.owner["key"] is second


def test_a_session_found_without_its_key() -> None:
    shelf = Shelf()
    shelf.open(1, keyed=False)
    assert shelf.owner == {}


def test_what_is_due() -> None:
    shelf = Shelf()
    assert shelf.book.next_due() is None
    shelf.open(1, idle=10)
    shelf.open(2, idle=NEVER)
    shelf.open(3, idle=30, lifetime=20)
    assert shelf.book.next_due() == 10
    shelf.last[1] = 5
    assert shelf.due(14) == []
    assert shelf.book.next_due() == 15
    assert shelf.due(15) == [(1, Reason.IDLE)]
    assert shelf.due(100) == [(3, Reason.LIFETIME)]
    assert shelf.book.next_due() is None
    assert [session.id for session in shelf.book] == [2]


def test_entries_of_sessions_that_ended_early_are_passed_over() -> None:
    shelf = Shelf()
    shelf.book.close(shelf.open(1))
    shelf.open(2, now=1)
    assert shelf.book.next_due() == 10
    assert shelf.due(10) == []
    assert shelf.due(11) == [(2, Reason.IDLE)]


def test_a_deadline_that_came_nearer() -> None:
    shelf = Shelf()
    session = shelf.open(1, idle=1000)
    session.budget = Budget(10, NEVER, NEVER, NEVER, NEVER, NEVER, NEVER)
    shelf.book.replan(session)
    assert shelf.due(9) == []
    assert shelf.due(10) == [(1, Reason.IDLE)]
    assert shelf.due(1000) == []


def test_stale_entries_are_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_STALE_ENTRIES", 8)
    shelf = Shelf()
    kept = shelf.open(1, idle=50)
    shelf.book.replan(kept)
    for number in range(2, 500):
        shelf.book.close(shelf.open(number, idle=20))
        assert len(shelf.book._due) <= 2 * 2 + 8
    assert shelf.due(49) == []
    assert shelf.due(50) == [(1, Reason.IDLE)]
    assert shelf.due(1000) == []


def test_a_server_that_is_silent() -> None:
    """The session is tried afresh once, and ends when as much time has passed again."""
    shelf = Shelf()
    shelf.open(1, idle=1000, silent=20)
    shelf.open(2, idle=1000, silent=20)
    assert shelf.book.next_due() == 20
    assert shelf.due(20) == []
    shelf.asked[1] = shelf.last[1] = 30
    assert shelf.book.next_due() == 40, "it may have been asked from that look on"
    assert shelf.due(40) == []
    assert shelf.book.next_due() == 50
    assert shelf.due(49) == []
    assert shelf.due(50) == []
    assert shelf.asked[1] == 31
    shelf.last[1] = 65
    assert shelf.due(70) == []
    assert shelf.due(71) == [(1, Reason.SILENT)]
    assert [session.id for session in shelf.book] == [2]


def test_a_server_that_answers_is_not_silent() -> None:
    shelf = Shelf()
    shelf.open(1, idle=1000, silent=20)
    for moment in range(0, 200, 10):
        shelf.asked[1] = shelf.last[1] = moment
        assert shelf.due(moment + 9) == []
        shelf.asked[1] = 0
    assert shelf.due(900) == []
