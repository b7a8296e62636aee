"""The kernel's word on its network, in a namespace of our own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host import tool
from namespaces import Network as Namespaces
from namespaces import ip
from udpproxy.process.loop import EpollLoop
from udpproxy.proxy.parent import network as module
from udpproxy.proxy.parent.network import Change, Network


@pytest.fixture
def spaces() -> Iterator[Namespaces]:
    with Namespaces() as net:
        net.add("host", "10.74.0.1/24")
        yield net


class Heard:
    """A Network and its loop, which only moves while somebody waits."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._loop = EpollLoop()
        self.changes: list[Change] = []
        self.network = Network(self._loop, self.changes.append)

    def ip(self, *words: str) -> None:
        ip("-n", self._host, *words)

    def until(self, condition: Callable[[], object], limit: float = 10.0) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline, self.changes
            self.wait(0.01)

    def wait(self, seconds: float) -> None:
        self._loop.call_later(seconds, self._loop.stop)
        self._loop.run()

    def next(self) -> Change:
        """The first change from now on."""
        self.changes.clear()
        self.until(lambda: self.changes)
        return self.changes[0]

    def appeared(self) -> dict[str, int]:
        return {name: number for one in self.changes for name, number in one.appeared.items()}

    def gone(self) -> set[str]:
        return {name for one in self.changes for name in one.gone}

    def close(self) -> None:
        self.network.close()
        self._loop.close()


def on_host(spaces: Namespaces, work: Callable[[Heard], None]) -> None:
    """There, from the making of the socket on."""

    def run() -> None:
        heard = Heard(spaces.name("host"))
        try:
            work(heard)
        finally:
            heard.close()

    spaces.on("host", run)


def test_links(spaces: Namespaces) -> None:
    def work(heard: Heard) -> None:
        assert heard.network.links.keys() == {"lo", "eth0"}
        heard.ip("link", "add", "tap", "type", "bridge")
        heard.until(lambda: "tap" in heard.appeared())
        first = heard.network.links["tap"]
        assert heard.appeared() == {"tap": first}
        heard.changes.clear()
        # Made anew under the same name: another device.
        heard.ip("link", "del", "tap")
        heard.ip("link", "add", "tap", "type", "bridge")
        heard.until(lambda: heard.appeared().get("tap", first) != first)
        heard.changes.clear()
        heard.ip("link", "set", "tap", "name", "pat")
        heard.until(lambda: "pat" in heard.appeared())
        assert heard.gone() == {"tap"}
        # Out of a bridge is not gone, though the kernel has a message like that for it.
        heard.ip("link", "add", "leaf", "type", "bridge")
        heard.ip("link", "del", "pat")
        heard.until(lambda: "pat" in heard.gone())
        assert heard.gone() == {"tap", "pat"}

    on_host(spaces, work)


def test_a_port_that_leaves_its_bridge_stays(spaces: Namespaces) -> None:
    def work(heard: Heard) -> None:
        heard.ip("link", "add", "brx", "type", "bridge")
        heard.ip("link", "set", "eth0", "master", "brx")
        heard.until(lambda: "brx" in heard.appeared())
        heard.changes.clear()
        heard.ip("link", "set", "eth0", "nomaster")
        assert heard.next().routes
        assert (heard.appeared(), heard.gone()) == ({}, set())

    on_host(spaces, work)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["addr", "add", "10.74.0.9/24", "dev", "eth0"], "addresses"),
        (["addr", "add", "fd74::9/64", "dev", "eth0", "nodad"], "addresses"),
        (["addr", "del", "10.74.0.1/24", "dev", "eth0"], "addresses"),
        (["route", "add", "10.9.0.0/16", "via", "10.74.0.3"], "routes"),
        (["-6", "route", "add", "fd99::/64", "dev", "eth0"], "routes"),
        (["rule", "add", "to", "10.9.0.0/16", "lookup", "9"], "routes"),
        (["-6", "rule", "add", "to", "fd99::/64", "lookup", "9"], "routes"),
        (["link", "set", "eth0", "down"], "routes"),
    ],
)
def test_addresses_and_routes(spaces: Namespaces, words: list[str], what: str) -> None:
    def work(heard: Heard) -> None:
        heard.wait(0.1)
        heard.changes.clear()
        heard.ip(*words)
        begun = time.monotonic()
        heard.until(lambda: any(getattr(one, what) for one in heard.changes))
        assert time.monotonic() - begun < 0.5
        assert (heard.appeared(), heard.gone()) == ({}, set())

    on_host(spaces, work)


def test_a_storm_is_few_changes(spaces: Namespaces, tmp_path: Path) -> None:
    """Many more messages than the kernel has room for; the last of them is still noticed."""
    batch = tmp_path / "batch"
    batch.write_text(
        "".join(f"route add 10.9.{n // 256}.{n % 256} via 10.74.0.3\n" for n in range(20_000))
    )

    def work(heard: Heard) -> None:
        begun = time.monotonic()
        words = [tool("ip"), "-n", spaces.name("host"), "-batch", str(batch)]
        with subprocess.Popen(words) as storm:
            heard.until(lambda: storm.poll() is not None, 60.0)
        assert storm.returncode == 0
        heard.ip("link", "add", "tap", "type", "bridge")
        heard.until(lambda: "tap" in heard.appeared())
        took = time.monotonic() - begun
        assert heard.changes[0].routes
        most = module.CHANGES_AT_ONCE + took / module.SECONDS_PER_CHANGE + 1
        assert len(heard.changes) <= most
        heard.wait(2.5)
        heard.changes.clear()
        heard.wait(1.5)
        assert heard.changes == [], "it is over"

    on_host(spaces, work)
