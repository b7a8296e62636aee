"""Listeners of an interface, and of link-local addresses: whatever becomes of it (SPEC 12)."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, silent, udp
from field.processes import few_descriptors
from namespaces import Network, ip
from proxy import Proxy, until
from stored import Units
from udpproxy.proxy.engine.sockets import whole

PORT = 5003
TEXT = """max-sessions = 100
engine = "{engine}"
workers = {workers}
[[listen]]
{listen}
port = {port}
[[session-acl]]
name = "all"
plug-to = "127.0.0.1:7000"
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as net:
        net.add("client", "10.1.0.5/24", "fd01::5/64", "fe80::5/64")
        net.add("proxy", "10.1.0.1/24", "10.1.0.2/24", "fd01::1/64", "fe80::1/64")
        yield net


@pytest.fixture
def echo(network: Network) -> Iterator[Echo]:
    with network.on("proxy", lambda: Echo("127.0.0.1", 7000)) as server:
        yield server


class Link:
    """A second link between both, made and unmade."""

    ADDRESSES = (
        ("client", "10.9.0.5/24", "fe80::9:5/64"),
        ("proxy", "10.9.0.1/24", "fe80::9:1/64"),
    )

    def __init__(self, network: Network) -> None:
        self._network = network

    def make(self) -> None:
        client, proxy = self._network.name("client"), self._network.name("proxy")
        ip("-n", proxy, "link", "add", "dmz", "type", "veth", "peer", "dmz", "netns", client)
        for host, v4, v6 in self.ADDRESSES:
            name = self._network.name(host)
            ip("-n", name, "addr", "add", v4, "dev", "dmz")
            ip("-n", name, "addr", "add", v6, "dev", "dmz", "nodad")
            ip("-n", name, "link", "set", "dmz", "up")

    def unmake(self) -> None:
        ip("-n", self._network.name("proxy"), "link", "del", "dmz")


def proxied(network: Network, directory: Path, engine: str, listen: str, workers: int = 1) -> Proxy:
    text = TEXT.format(engine=engine, listen=listen, port=PORT, workers=workers)
    return Proxy(directory, text, prefix=network.prefix("proxy"))


def client_of(network: Network, address: str, port: int = 0) -> socket.socket:
    return network.on("client", lambda: bound(address, port))


def bound(address: str, port: int) -> socket.socket:
    if "%" not in address:
        return udp(address, port)
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.settimeout(20.0)
    sock.bind(whole((address, port)))
    return sock


def ask(
    sock: socket.socket, to: tuple[str, int], data: bytes = b"question", patience: float = 1.0
) -> bool:
    """Is there an answer, from just there?"""
    sock.sendto(data, (to[0].partition("%")[0], to[1]))
    if silent(sock, patience):
        return False
    got, sender = sock.recvfrom(100)
    assert got == data
    return bool(sender[:2] == (to[0].partition("%")[0], to[1]))


@pytest.mark.parametrize(
    ("engine", "workers"), [(engine, 1) for engine in NAMES] + [("native", 2)][: "native" in NAMES]
)
def test_all_its_addresses_and_no_others(
    network: Network, echo: Echo, tmp_path: Path, engine: str, workers: int
) -> None:
    Link(network).make()
    with proxied(network, tmp_path, engine, 'interface = "eth0"', workers) as proxy:
        for mine, its in (
            ("10.1.0.5", "10.1.0.1"),
            ("10.1.0.5", "10.1.0.2"),
            ("fd01::5", "fd01::1"),
        ):
            with client_of(network, mine) as sock:
                assert ask(sock, (its, PORT))
        with client_of(network, "fe80::5%eth0") as sock:
            assert ask(sock, ("fe80::1%eth0", PORT))
        with client_of(network, "10.9.0.5") as sock:
            sock.sendto(b"question", ("10.9.0.1", PORT))
            assert silent(sock)
        ip("-n", network.name("proxy"), "addr", "add", "10.1.0.77/24", "dev", "eth0")
        with client_of(network, "10.1.0.5") as sock:
            assert ask(sock, ("10.1.0.77", PORT))
        assert len(proxy.sessions()) == 5


@pytest.mark.parametrize("listen", ['interface = "dmz"', 'address = "fe80::9:1%dmz"'])
@pytest.mark.parametrize("engine", NAMES)
def test_one_that_comes_goes_and_comes_again(
    network: Network, echo: Echo, tmp_path: Path, engine: str, listen: str
) -> None:
    """Under the same number, so that the session goes on, over a restart of the relay, too."""
    link = Link(network)
    mine, its = (
        ("fe80::9:5%dmz", "fe80::9:1%dmz") if "address" in listen else ("10.9.0.5", "10.9.0.1")
    )
    with proxied(network, tmp_path, engine, listen) as proxy:
        assert len(proxy.said("UDPS-131-W")) == 1
        link.make()
        until(lambda: proxy.said("UDPS-133-I"))
        with client_of(network, mine, 4000) as sock:
            until(lambda: ask(sock, (its, PORT)))
        link.unmake()
        until(lambda: proxy.said("UDPS-132-W"))
        assert len(proxy.sessions()) == 1
        proxy.next_reg(proxy.kill(9, "reg"))
        until(proxy.ready)
        (source,) = echo.sources
        with network.on("proxy", lambda: udp("127.0.0.1")) as nobody:
            nobody.sendto(b"stray", source)  # it has an address still
        link.make()
        until(lambda: len(proxy.said("UDPS-133-I")) == 2)
        with client_of(network, mine, 4000) as sock:
            until(lambda: ask(sock, (its, PORT), b"again"))
        # To the system the link is another one, and a link-local client on it, too.
        count = 2 if "address" in listen else 1
        assert len(echo.sources) == count
        assert len(proxy.sessions()) == count
        assert proxy.stop() == 0
        assert len(proxy.records()) == count


@pytest.mark.parametrize("engine", NAMES)
def test_thousands_of_one_that_comes_and_goes(
    network: Network, echo: Echo, tmp_path: Path, engine: str
) -> None:
    """Those of other interfaces do not feel it, the log stays short, and all are there at last."""
    link, first, last = Link(network), 20_000, 21_999
    listen = f'''interface = "dmz"
port = "{first}-{last}"
[[listen]]
interface = "eth0"'''
    here = "10.1.0.1", PORT
    with (
        proxied(network, tmp_path, engine, listen) as proxy,
        client_of(network, "10.1.0.5") as known,
    ):
        assert ask(known, here)
        reg = proxy.reg_pid
        for _ in range(20):
            link.make()
            assert ask(known, here, patience=3.0)
            link.unmake()
            assert ask(known, here, patience=3.0)
        link.make()
        with client_of(network, "10.9.0.5") as sock:
            for port in (first, last):
                until(partial(ask, sock, ("10.9.0.1", port)))
        assert len(proxy.sessions()) == 3
        assert proxy.reg_pid == reg
        assert len(proxy.log) < 200


@pytest.mark.parametrize("engine", NAMES)
def test_one_that_comes_while_descriptors_are_gone(
    network: Network, echo: Echo, tmp_path: Path, engine: str
) -> None:
    link, here = Link(network), ("10.1.0.1", PORT)
    listen = f'interface = "dmz"\nport = {PORT}\n[[listen]]\ninterface = "eth0"'
    with (
        proxied(network, tmp_path, engine, listen) as proxy,
        client_of(network, "10.1.0.5") as known,
    ):
        assert ask(known, here)
        reg = proxy.reg_pid
        with few_descriptors(proxy.pid, 0), few_descriptors(reg, 0):
            link.make()
            end = time.monotonic() + 3
            while time.monotonic() < end:
                assert ask(known, here)
        with client_of(network, "10.9.0.5") as sock:
            until(lambda: ask(sock, ("10.9.0.1", PORT)))
        assert (proxy.reg_pid, len(proxy.sessions())) == (reg, 2)


@pytest.mark.parametrize("engine", NAMES)
def test_multicast_groups(network: Network, echo: Echo, tmp_path: Path, engine: str) -> None:
    """Those that are joined, each once a datagram whatever the workers, and others not."""
    workers = 2 if engine == "native" else 1
    listen = 'interface = "eth0"\nmulticast = ["239.1.2.3", "ff02::1:3"]'
    with proxied(network, tmp_path, engine, listen, workers) as proxy:
        with client_of(network, "10.1.0.5") as sock:
            out = socket.inet_aton("10.1.0.5")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)
            sock.sendto(b"to many", ("239.1.2.3", PORT))
            assert sock.recvfrom(100) == (b"to many", ("10.1.0.1", PORT))
            sock.sendto(b"to others", ("239.1.2.4", PORT))
            assert silent(sock)
        with client_of(network, "fe80::5%eth0") as sock:
            index = network.on("client", lambda: socket.if_nametoindex("eth0"))
            where = struct.pack("=I", index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, where)
            sock.sendto(b"to many", ("ff02::1:3", PORT))
            data, sender = sock.recvfrom(100)
            # It has one of its own besides, and the kernel prefers that once it is no duplicate.
            assert (data, sender[1]) == (b"to many", PORT)
            assert sender[0] in network.addresses("proxy")
        assert len(proxy.sessions()) == len(echo.sources) == 2
        proxy.write(proxy.file.read_text().replace("239.1.2.3", "239.1.2.4"))
        proxy.ask("reload")
        with client_of(network, "10.1.0.5") as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)
            sock.sendto(b"left", ("239.1.2.3", PORT))
            assert silent(sock)
            sock.sendto(b"joined", ("239.1.2.4", PORT))
            assert sock.recvfrom(100)[0] == b"joined"


def test_a_group_that_has_no_way_yet(network: Network, echo: Echo, tmp_path: Path) -> None:
    """Joined when an interface has a route there."""
    ip("-n", network.name("proxy"), "link", "set", "eth0", "down")
    listen = 'address = "0.0.0.0"\nmulticast = ["239.1.2.3"]'
    with proxied(network, tmp_path, "python", listen) as proxy:
        assert "239.1.2.3" in proxy.said("UDPS-134-W")[0]
        ip("-n", network.name("proxy"), "link", "set", "eth0", "up")
        ip("-n", network.name("proxy"), "route", "add", "224.0.0.0/4", "dev", "eth0")
        with client_of(network, "10.1.0.5") as sock:
            out = socket.inet_aton("10.1.0.5")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)

            def answered() -> bool:
                sock.sendto(b"to many", ("239.1.2.3", PORT))
                return not silent(sock, 0.5)

            until(answered)


def test_over_a_restart_without_its_interface(tmp_path: Path) -> None:
    """An absent listener keeps its number in systemd's store."""
    text = TEXT.format(engine="python", workers=1, listen='interface = "udpp-none"', port=PORT)
    with Units(tmp_path, text) as units:
        units.start()
        assert units.shelves() == ["listeners-0-1"]
        assert units.stop() == 0
        units.start()
        assert len(units.said("UDPS-131-W")) == 2
        assert units.said("UDPS-211-W") == []
        units.terminate()


def test_questions_to_a_group_of_another_network(network: Network, tmp_path: Path) -> None:
    """The example: a guest asks by multicast, and a printer on another link answers him."""
    network.add("printer", "10.2.0.7/24")
    proxy, printer = network.name("proxy"), network.name("printer")
    ip("-n", proxy, "link", "add", "eth1", "type", "veth", "peer", "eth1", "netns", printer)
    for name, address in ((proxy, "10.2.0.1/24"), (printer, "10.2.0.9/24")):
        ip("-n", name, "addr", "add", address, "dev", "eth1")
        ip("-n", name, "link", "set", "eth1", "up")

    def answering() -> Echo:
        echo = Echo("0.0.0.0", 5353)
        member = socket.inet_aton("224.0.0.251") + socket.inet_aton("10.2.0.9")
        echo.join(member)
        return echo

    example = Path(__file__).parents[2] / "examples" / "mdns.toml"
    with (
        network.on("printer", answering) as echo,
        Proxy(tmp_path, example.read_text(), prefix=network.prefix("proxy")) as running,
        client_of(network, "10.1.0.5") as guest,
    ):
        guest.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.1.0.5"))
        guest.sendto(b"who is a printer?", ("224.0.0.251", 5353))
        data, sender = guest.recvfrom(100)
        assert (data, sender) == (b"who is a printer?", ("10.1.0.1", 5353))
        (source,) = echo.sources
        assert source[0] == "10.2.0.1"
        assert len(running.sessions()) == 1


@pytest.mark.parametrize("engine", NAMES)
def test_ports_that_belong_to_the_servers(network: Network, tmp_path: Path, engine: str) -> None:
    """One to one, in the order of the file; also of sessions that a new relay finds."""
    ports = {5000: 7000, 5001: 7001, 5010: 7002}
    text = TEXT.format(
        engine=engine, workers=1, listen='address = "10.1.0.1"', port='["5000-5001", 5010]'
    ).replace("127.0.0.1:7000", "127.0.0.1:7000-7002")
    with contextlib.ExitStack() as stack:
        echoes = {
            server: stack.enter_context(network.on("proxy", lambda s=server: Echo("127.0.0.1", s)))  # type: ignore[misc]
            for server in ports.values()
        }
        proxy = stack.enter_context(Proxy(tmp_path, text, prefix=network.prefix("proxy")))
        client = stack.enter_context(client_of(network, "10.1.0.5"))
        for turn in range(2):
            for port, server in ports.items():
                assert ask(client, ("10.1.0.1", port))
                assert len(echoes[server].received) == turn + 1
            if not turn:
                proxy.next_reg(proxy.kill(9, "reg"))
                until(proxy.ready)
        assert len(proxy.sessions()) == 3
