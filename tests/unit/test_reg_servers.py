"""Servers that cannot be reached: said when it begins and when it ends, and seldom."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from udpproxy.config.model import Log
from udpproxy.process.logs import Logs
from udpproxy.proxy.reg import servers
from udpproxy.proxy.reg.servers import Servers
from udpproxy.proxy.session.layout import Record

SERVER, OTHER = (bytes([10, 2, 0, 1]), 53), (bytes([10, 2, 0, 2]), 53)
CLIENT = (bytes([10, 1, 0, 9]), 4000)


class Watch:
    """Servers over a clock that a test turns, and what the log says."""

    def __init__(self, directory: Path) -> None:
        self.now = 100.0
        self._file = directory / "log"
        self._logs = Logs("test")
        self._logs.configure(Log(target="file", file=str(self._file)))
        self.servers = Servers(self._logs, lambda: self.now)
        self.awaits: list[bool] = []
        self.servers.await_answers = self.awaits.append

    def unreachable(self, server: tuple[bytes, int] = SERVER, *, rule: str = "dns") -> None:
        record = Record(id=7, client=CLIENT, server=server)
        self.servers.unreachable(record, rule, errno.ECONNREFUSED)

    def answers(self, server: tuple[bytes, int] = SERVER, *, rule: str = "dns") -> None:
        self.servers.answers(Record(id=8, client=CLIENT, server=server), rule)

    def lines(self) -> list[str]:
        """From the message's id on."""
        self._logs.drain(1.0)
        return [line[line.index("UDPS-") :] for line in self._file.read_text().splitlines()]

    def close(self) -> None:
        self._logs.close()


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_it_is_said_when_it_begins_and_when_it_ends(watch: Watch) -> None:
    assert watch.servers.figures() == {"servers-unreachable": 0}
    for _ in range(5):
        watch.unreachable()
    assert watch.awaits == [True]
    assert watch.servers.figures()["servers-unreachable"] == 1
    shown = str(watch.servers.figures()["unreachable"])
    assert shown.startswith("10.2.0.1:53 of rule dns: port unreachable since ")
    assert shown.endswith(", 5 sessions")
    watch.answers(OTHER)
    watch.answers(rule="another")
    assert watch.awaits == [True]
    watch.answers()
    watch.answers()
    assert watch.awaits == [True, False]
    first, second = watch.lines()
    assert first == (
        "UDPS-631-W server 10.2.0.1:53 of rule dns cannot be reached for client 10.1.0.9:4000: "
        "port unreachable"
    )
    assert second.startswith("UDPS-632-N server 10.2.0.1:53 of rule dns answers again; 5 sessions")
    watch.close()


def test_one_that_comes_and_goes_has_two_lines_a_minute(watch: Watch) -> None:
    for _ in range(100):
        watch.unreachable()
        watch.answers()
    assert len(watch.lines()) == 2
    watch.now += servers.QUIET
    watch.unreachable()
    assert watch.lines()[2].endswith("port unreachable (99 more held back)")
    watch.unreachable(OTHER)
    assert len(watch.lines()) == 4
    watch.close()


def test_so_many_are_remembered(watch: Watch) -> None:
    for number in range(servers.MOST_SERVERS + 10):
        watch.unreachable((bytes([10, 3, number // 256, number % 256]), 53))
    assert watch.servers.figures()["servers-unreachable"] == servers.MOST_SERVERS
    assert len(str(watch.servers.figures()["unreachable"])) < 1000
    watch.servers.keep({"another"})
    assert watch.awaits == [True, False]
    assert watch.servers.figures() == {"servers-unreachable": 0}
    watch.close()


def test_the_port_of_one_transfer_is_no_server(watch: Watch) -> None:
    record = Record(id=7, client=CLIENT, server=SERVER, peer=OTHER)
    watch.servers.unreachable(record, "tftp", errno.ECONNREFUSED)
    assert watch.awaits == []
    assert watch.lines() == []
    watch.close()
