"""The published configurations of nginx and Traefik as ours (udp-proxy-nginx(7)): with addresses of
this machine each of them runs, and does what it is for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, clients, exchange, silent, udp
from host import free_port
from nameserver import NameServer
from namespaces import Network
from proxy import Endpoint, Proxy, until
from router import redirect, routed

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example:
    """One of the files, with other places; the native engine alone has workers."""

    def __init__(self, name: str, engine: str) -> None:
        self.text = f'engine = "{engine}"\n' + (EXAMPLES / name).read_text()
        if engine != "native":
            self.text = self.text.replace("\nworkers = 2\n", "\n")

    def put(self, old: str, new: object) -> Example:
        """An address of the file becomes one of this machine."""
        assert old in self.text
        self.text = self.text.replace(old, str(new))
        return self

    def at(self, port: int) -> Endpoint:
        """Listen on a free port of loopback, of both families where the file has both."""
        self.put(f"\nport = {port}\n", f"\nport = {(free := free_port())}\n")
        self.text = self.text.replace('\naddress = "0.0.0.0"', '\naddress = "127.0.0.1"')
        self.text = self.text.replace('\naddress = "::"', '\naddress = "::1"')
        return "127.0.0.1", free


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_dns_and_a_server_in_reserve(tmp_path: Path, engine: str) -> None:
    """Both answers reach a client that has asked twice; and with both servers gone it is served."""
    example = Example("nginx-dns.toml", engine)
    where = example.at(53)
    with Echo() as one, Echo() as two, Echo() as reserve, clients(20) as socks:
        for number, server in enumerate((one, two, reserve)):
            example.put(f"192.168.136.13{number}:53", server)
        with Proxy(tmp_path, example.text) as proxy:
            for sock in socks:
                for question in (b"A", b"AAAA"):
                    sock.sendto(question, where)
                assert {sock.recv(100), sock.recv(100)} == {b"A", b"AAAA"}
            until(lambda: not proxy.sessions())
            assert [len(server.received) > 0 for server in (one, two, reserve)] == [
                True,
                True,
                False,
            ]
            for server in (one, two):
                server.__exit__()

            def served() -> bool:
                for sock in socks:
                    sock.sendto(b"A", where)
                return not silent(socks[0], 0.1)

            until(served)
            assert reserve.received
            assert len(proxy.said("UDPS-634-W")) == 2


def test_a_server_by_name_and_workers(tmp_path: Path, engine: str) -> None:
    example = Example("nginx-names.toml", engine)
    where = example.at(53)
    with Echo() as one, Echo() as named, NameServer() as zone, clients(30) as socks:
        zone.host("dns.example.com", "127.0.0.1")
        example.put("192.168.0.1:53535", one)
        example.put("dns.example.com:53", f"dns.example.com:{named.endpoint[1]}")
        example.put('"10.0.0.1"', f'"127.0.0.1:{zone.port}"')
        with Proxy(tmp_path, example.text) as proxy:
            until(lambda: proxy.info("reg")["names-known"] == 1)
            for sock in socks:
                exchange(sock, where, b"question")
            assert one.received
            assert named.received
            assert len(one.received) + len(named.received) == 30
            assert len(proxy.sessions()) == 30


def test_the_same_server_for_the_same_client(tmp_path: Path, engine: str) -> None:
    example = Example("nginx-affinity.toml", engine)
    where = example.at(12345)
    with Echo() as large, Echo() as small:
        example.put("backend1.example.com:12345", large)
        example.put("127.0.0.1:12346", small)
        with Proxy(tmp_path, example.text):
            names = [str(number).encode() for number in range(1, 121)]
            for name in names * 2:
                with udp(f"127.9.0.{name.decode()}") as sock:
                    exchange(sock, where, name)
        met = [Counter(data for data, _ in server.received) for server in (large, small)]
        assert met[0] + met[1] == Counter(names * 2)
        assert not met[0].keys() & met[1].keys()
        assert len(met[0]) > len(met[1]) > 0


def test_who_may_and_how_often(tmp_path: Path, engine: str) -> None:
    example = Example("nginx-access.toml", engine)
    where = example.at(12345)
    with Echo() as echo:
        example.put("192.0.2.10:12345", echo)
        example.put('"192.168.1.1"', '"127.1.0.1"').put('"192.168.1.0/24"', '"127.1.0.0/24"')
        example.put('"2001:db8::/32"', '"::1"')
        with Proxy(tmp_path, example.text) as proxy:
            for number, address in enumerate(("127.1.0.1", "127.2.0.1"), 1):
                with udp(address) as refused:
                    refused.sendto(b"no", where)
                    until(lambda count=number: proxy.info()["refused-by-acl"] == count)  # type: ignore[misc]
            with udp("127.1.0.5") as first, udp("127.1.0.5") as second, udp("::1") as sixth:
                exchange(first, where, b"one")
                exchange(sixth, ("::1", where[1]), b"two")
                second.sendto(b"no", where)
                until(lambda: proxy.info()["refused-per-client"] == 1)
                exchange(first, where, b"three")
        assert [data for data, _ in echo.received] == [b"one", b"two", b"three"]


def test_syslog_with_the_senders_addresses(tmp_path: Path, engine: str) -> None:
    """No process of the proxy but the parent may do that; what one sender says stays in order."""
    example = Example("nginx-syslog.toml", engine)
    example.put("192.0.2.21:514", "10.2.0.2:514").put("192.0.2.22:514", "10.2.0.2:1514")
    with routed() as network:
        proxy = Proxy(tmp_path, example.text, prefix=network.prefix("router"))
        redirect(network, "router", proxy.file)
        with proxy, _log(network, 514) as one, _log(network, 1514) as two:
            with network.on("client", lambda: udp("10.1.0.5")) as sender:
                for number in range(20):
                    sender.sendto(str(number).encode(), ("10.1.0.1", 514))
                until(lambda: len(one.received) + len(two.received) == 20)
            log = one if one.received else two
            assert [int(data) for data, _ in log.received] == list(range(20))
            ((address, _),) = log.sources
            assert address == "10.1.0.5"
            assert [row["type"] for row in proxy.sessions()] == ["one-way"]


def _log(network: Network, port: int) -> Echo:
    return network.on("server", lambda: Echo("10.2.0.2", port, answers=lambda data: False))


def test_an_entry_point_and_a_weighted_service(tmp_path: Path, engine: str) -> None:
    example = Example("traefik-udp.toml", engine)
    where = example.at(1704)
    with Echo() as one, Echo() as two, clients(8) as socks:
        example.put("192.0.2.31:8080", one).put("192.0.2.32:8080", two)
        with Proxy(tmp_path, example.text) as proxy:
            for sock in socks:
                exchange(sock, where, b"stream")
            assert [row["sessions"] for row in proxy.ask("servers")] == [6, 2]
            with udp("::1") as sixth:
                exchange(sixth, ("::1", where[1]), b"stream")
            assert len(one.received) + len(two.received) == 9
