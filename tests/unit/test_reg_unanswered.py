"""Records of sessions without a reply: few in full, many as a number."""

from __future__ import annotations

import re
from pathlib import Path

from udpproxy.config.model import Log
from udpproxy.process.logs import Logs
from udpproxy.proxy.reg.unanswered import MOST_TOLD, TOLD_A_SECOND, Unanswered
from udpproxy.proxy.session.reasons import Reason


class Shelf:
    """Records over a clock that a test turns, and what the log says."""

    def __init__(self, directory: Path) -> None:
        self.now = 100.0
        self._file = directory / "log"
        self._logs = Logs("test")
        self._logs.configure(Log(target="file", file=str(self._file)))
        self.unanswered = Unanswered(self._logs, lambda: self.now)

    def end(self, count: int, reason: Reason = Reason.EVICTED, *, rule: str = "all") -> int:
        """So many end without a reply; how many have a record."""
        return sum(self.unanswered.tells(rule, reason, answered=False) for _ in range(count))

    def numbers(self) -> list[int]:
        """What was told of the others."""
        self._logs.drain(1.0)
        return [int(found) for found in re.findall(r"UDPP-889-W (\d+)", self._file.read_text())]

    def close(self) -> None:
        self._logs.close()


def test_a_flood_leaves_some_records_then_a_few_and_a_number_a_second(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert shelf.end(1000) == MOST_TOLD
    shelf.unanswered.look()
    assert shelf.numbers() == []
    shelf.now += 1.0
    shelf.unanswered.look()
    shelf.unanswered.look()
    assert shelf.numbers() == [1000 - MOST_TOLD]
    assert shelf.end(20, Reason.UNREACHABLE) == TOLD_A_SECOND
    assert shelf.end(30, Reason.UNRESOLVED, rule="another") == MOST_TOLD
    shelf.unanswered.finish()
    assert shelf.numbers() == [1000 - MOST_TOLD, 20 - TOLD_A_SECOND, 30 - MOST_TOLD]
    shelf.now += 3600.0
    assert shelf.end(1000) == MOST_TOLD
    shelf.close()


def test_a_second_counts_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    told = 0
    for _ in range(600):
        told += shelf.end(10)
        shelf.now += 0.1
    assert MOST_TOLD + 59 <= told <= MOST_TOLD + 60
    shelf.close()


def test_all_others_have_their_records(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert shelf.end(100, Reason.IDLE) == 100
    assert all(shelf.unanswered.tells("all", Reason.UNREACHABLE, answered=True) for _ in range(100))
    shelf.unanswered.finish()
    assert shelf.numbers() == []
    shelf.close()


def test_those_who_filled_the_table_are_idle_all_at_once(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.unanswered.pressed()
    shelf.now += 9.0
    assert shelf.end(1000, Reason.IDLE) == MOST_TOLD
    assert shelf.end(1000, Reason.LIFETIME) == 1000
    assert all(shelf.unanswered.tells("all", Reason.IDLE, answered=True) for _ in range(100))
    shelf.now += 2.0
    assert shelf.end(1000, Reason.IDLE) == 1000
    shelf.unanswered.finish()
    assert shelf.numbers() == [1000 - MOST_TOLD]
    shelf.close()
