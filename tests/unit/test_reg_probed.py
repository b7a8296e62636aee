"""What REG hears of probes: of servers that are probed, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from udpproxy.process import wire
from udpproxy.process.logs import Logs
from udpproxy.process.loop import EpollLoop
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.identity import IDENTITY
from udpproxy.proxy.reg.name_waits import NameWaits

TEXT = """
max-sessions = 10
[[listen]]
address = "127.0.0.1"
port = 5353
[[session-acl]]
name = "all"
plug-to = "@dns"
[[servers]]
name = "dns"
members = ["192.0.2.1:53", "Srv.Test:53"]
standby = ["[2001:db8::9]:53"]
[servers.health]
probe = { ntp = true }
[[servers]]
name = "unprobed"
members = ["192.0.2.1:53"]
"""
Told = tuple[str, str, bool, str]


class Ear:
    """REG's side of the way to ACR, and ACR's own end of it."""

    def __init__(self) -> None:
        self.loop = EpollLoop()
        self.told: list[Told] = []
        logs = Logs(IDENTITY.speaker("one", "reg"))
        self.waits = NameWaits(self.loop, logs, None, lost=lambda role: None)
        self.acr, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.waits.connect("acr", end.detach())

    def hears(self, results: wire.Plain) -> list[Told]:
        """What is handed on of such a message."""
        self.told.clear()
        self.acr.send(wire.encode(wire.Tell("probed", {"results": results})))
        self.loop.call_later(0.02, self.loop.stop)
        self.loop.run()
        return self.told

    def close(self) -> None:
        self.waits.close()
        self.acr.close()
        self.loop.close()


@pytest.fixture
def ear() -> Iterator[Ear]:
    one = Ear()
    try:
        yield one
    finally:
        one.close()


def test_outcomes_are_handed_on_as_they_are(ear: Ear) -> None:
    assert ear.hears([["dns", "192.0.2.1:53", True, ""]]) == []  # to nobody yet
    ear.waits.probed = lambda *words: ear.told.append(words)
    assert ear.hears([["dns", "192.0.2.1:53", True, ""]]) == []  # of nothing yet
    ear.waits.configure(parse(TEXT, "test.toml"))
    good = ("dns", "srv.test:53", True, "")
    bad = ("dns", "[2001:db8::9]:53", False, "no answer")
    assert ear.hears([[*good], [*bad], [*good]]) == [good, bad, good]
    assert ear.waits.figures()["names-ignored"] == 0


def test_nonsense_is_counted_and_others_servers_are_left_out(ear: Ear) -> None:
    ear.waits.probed = lambda *words: ear.told.append(words)
    ear.waits.configure(parse(TEXT, "test.toml"))
    good = ("dns", "192.0.2.1:53", True, "")
    assert ear.hears([["unprobed", "192.0.2.1:53", True, ""], ["x", "y", True, ""]]) == []
    assert ear.waits.figures()["names-ignored"] == 0
    assert ear.hears([7, [*good], ["dns", "192.0.2.1:53", True, "why"]]) == [good]
    assert ear.waits.figures()["names-ignored"] == 2
    assert ear.hears([[*good]] * 65) == []
    assert ear.hears({"dns": True}) == []
    assert ear.waits.figures()["names-ignored"] == 4
    assert ear.hears([[*good]]) == [good]  # the way is still there
