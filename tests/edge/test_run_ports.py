"""The host's own programs still find ports when the sessions would like to have them all."""

from __future__ import annotations

import errno
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_DGRAM, socket

import pytest

from built import NAMES
from echo import Echo, arrived, udp
from namespaces import Network
from proxy import Proxy, until

FIRST, LAST = 40000, 40099
MOST = 90
SERVERS = {"127.0.0.1": 6004, "::1": 6006}
LISTEN = {"127.0.0.1": 5004, "::1": 5006}
"""The ports of both families that a client can write to, which lead to the servers."""


@pytest.fixture
def network() -> Iterator[Network]:
    """A host with few ephemeral ports."""
    with Network() as net:
        net.add("host")
        few = f"echo {FIRST} {LAST} >/proc/sys/net/ipv4/ip_local_port_range"
        subprocess.run([*net.prefix("host"), "sh", "-c", few], check=True)
        yield net


def text(engine: str, top: str = "") -> str:
    """A table that has room for more sessions than there are ports."""
    whole = f'max-sessions = 300\nengine = "{engine}"\n{top}\n'
    for address, port in LISTEN.items():
        server = f"[{address}]" if ":" in address else address
        whole += f"""[[listen]]
address = "{address}"
port = {port}
[[session-acl]]
name = "{port}"
to = [":{port}"]
plug-to = "{server}:{SERVERS[address]}"
"""
    return whole


class Crowd:
    """Clients of both families with ports outside of the ephemeral range, and their servers."""

    def __init__(self, network: Network, stack: ExitStack) -> None:
        self._network, self._stack = network, stack
        self.echoes = {
            address: network.on("host", lambda a=address, p=port: stack.enter_context(Echo(a, p)))  # type: ignore[misc]
            for address, port in SERVERS.items()
        }
        self._next = 20000

    def ask(self, address: str, count: int) -> None:
        """So many new clients of that family, one datagram each."""
        for _ in range(count):
            self._next += 1
            client = self._network.on("host", lambda: udp(address, self._next))
            self._stack.enter_context(client)
            client.sendto(b"%d" % self._next, (address, LISTEN[address]))


def connects(network: Network, count: int) -> int:
    """How many sockets at once another program can connect, by turns with IPv4 and as programs do
    that speak both: 0 to `count`."""

    def work() -> int:
        with ExitStack() as stack:
            for number in range(count):
                both = number % 2
                sock = stack.enter_context(socket(AF_INET6 if both else AF_INET, SOCK_DGRAM))
                status = sock.connect_ex(("::1" if both else "127.0.0.1", 53))
                assert status in (0, errno.EAGAIN)
                if status:
                    return number
        return count

    return network.on("host", work)


@pytest.mark.parametrize("engine", NAMES)
def test_other_programs_still_get_ports(network: Network, tmp_path: Path, engine: str) -> None:
    with ExitStack() as stack:
        crowd = Crowd(network, stack)
        prefix = network.prefix("host")
        proxy = stack.enter_context(Proxy(tmp_path, text(engine), prefix=prefix))
        crowd.ask("127.0.0.1", 60)
        arrived(crowd.echoes["127.0.0.1"], 60)
        crowd.ask("::1", 60)
        until(lambda: proxy.info()["refused-ports-kept"] == 30, step=0.05)
        assert proxy.info()["sessions"] == MOST
        assert connects(network, 10) == 10
        assert proxy.info()["refused-no-port"] == 0
        refused = proxy.said("UDPS-640-W")
        assert "refused: the host keeps its other ports (use-all-ports)" in refused[0]
        assert "300 is more than 90 of the kernel's 100 ephemeral" in proxy.said("UDPS-110-W")[0]
        assert "of 90 in use" in until(lambda: proxy.said("UDPS-641-N"))[0]

        proxy.ask("kill", proxy.sessions()[0]["session"])
        crowd.ask("::1", 1)
        until(lambda: proxy.info()["sessions"] == MOST, step=0.05)
        proxy.write(text(engine, "use-all-ports = true"))
        proxy.ask("reload")
        crowd.ask("127.0.0.1", 60)
        until(lambda: proxy.info()["refused-no-port"] > 0, step=0.05)
        assert connects(network, 10) == 0
        refused = [line for line in proxy.said("UDPS-640-W") if "use-all-ports" not in line]
        assert "refused: the system has no port for it (net.ipv4.ip_local_port_r" in refused[0]
        assert proxy.said("UDPS-600-W") == [], "one line says it all"


@pytest.mark.parametrize("engine", NAMES)
def test_one_line_where_there_is_no_way(network: Network, tmp_path: Path, engine: str) -> None:
    whole = text(engine).replace("127.0.0.1:6004", "192.0.2.1:6004")
    with ExitStack() as stack:
        crowd = Crowd(network, stack)
        proxy = stack.enter_context(Proxy(tmp_path, whole, prefix=network.prefix("host")))
        crowd.ask("127.0.0.1", 1)
        (line,) = until(lambda: proxy.said("UDPS-640-W"), step=0.05)
        assert "new session of 127.0.0.1 refused: the system cannot open it: Network is un" in line
        assert proxy.info()["refused-no-port"] == 1
        assert proxy.said("UDPS-600-W") == []


@pytest.mark.parametrize("engine", NAMES)
def test_the_next_relay_keeps_them_as_well(network: Network, tmp_path: Path, engine: str) -> None:
    with ExitStack() as stack:
        crowd = Crowd(network, stack)
        prefix = network.prefix("host")
        proxy = stack.enter_context(Proxy(tmp_path, text(engine), prefix=prefix))
        crowd.ask("127.0.0.1", MOST)
        arrived(crowd.echoes["127.0.0.1"], MOST)
        proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
        until(proxy.ready)
        crowd.ask("127.0.0.1", 10)
        until(lambda: proxy.info()["refused-ports-kept"] == 10, step=0.05)
        assert proxy.info()["sessions"] == MOST
        assert connects(network, 10) == 10


SOURCES = ("127.0.0.5", "127.0.0.6")


def binds(network: Network, address: str, count: int) -> int:
    """How many sockets another program can bind to that address."""

    def work() -> int:
        with ExitStack() as stack:
            for number in range(count):
                try:
                    stack.enter_context(udp(address))
                except OSError:
                    return number
        return count

    return network.on("host", work)


@pytest.mark.parametrize("engine", NAMES)
def test_each_source_address_has_ports_of_its_own(
    network: Network, tmp_path: Path, engine: str
) -> None:
    """In their order, and the host keeps some of each."""
    whole = text(engine).replace(
        f'127.0.0.1:{SERVERS["127.0.0.1"]}"\n',
        f'127.0.0.1:{SERVERS["127.0.0.1"]}"\nsource-address = {list(SOURCES)}\n',
    )
    with ExitStack() as stack:
        crowd = Crowd(network, stack)
        proxy = stack.enter_context(Proxy(tmp_path, whole, prefix=network.prefix("host")))
        crowd.ask("127.0.0.1", 100)
        until(lambda: proxy.info()["sessions"] == 100, step=0.05)
        counts = [
            sum(row["source"].startswith(f"{source}:") for row in proxy.sessions())
            for source in SOURCES
        ]
        assert counts == [MOST, 10]
        assert binds(network, SOURCES[0], 10) == 10
        crowd.ask("127.0.0.1", 100)
        until(lambda: proxy.info()["refused-no-port"] == 20, step=0.05)
        assert proxy.info()["sessions"] == 2 * MOST
        proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
        until(proxy.ready)
        proxy.ask("kill", proxy.sessions()[0]["session"])
        crowd.ask("127.0.0.1", 3)
        until(lambda: proxy.info()["refused-no-port"] == 22, step=0.05)
        assert proxy.info()["sessions"] == 2 * MOST
