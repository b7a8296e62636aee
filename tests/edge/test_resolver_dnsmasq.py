"""Look-ups against a real server with a small zone; dnsmasq is what many a host runs."""

from __future__ import annotations

import asyncio
import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from udpproxy.config.model import NameServer, Resolver
from udpproxy.resolver.result import Failure, Family, Result
from udpproxy.resolver.transport import Transport

LOOPBACK = ip_address("127.0.0.1")
# 50 AAAA records do not fit into 1,232 octets: the answer is truncated, TCP has it.
MANY = [IPv6Address("2001:db8::") + number for number in range(1, 51)]
ZONE = [
    "--local=/lab.test/",
    "--host-record=web.lab.test,192.0.2.80,2001:db8::80",
    "--host-record=four.lab.test,192.0.2.4,60",
    "--cname=www.lab.test,alias.lab.test,web.lab.test",
    "--ptr-record=9.2.0.192.in-addr.arpa,Client.Lab.Test",
    "--txt-record=text.lab.test,nothing else",
    "--local-ttl=77",
]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((str(LOOPBACK), 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    assert program is not None, "dnsmasq is needed (apt install dnsmasq-base)"
    hosts: Path = tmp_path_factory.mktemp("dnsmasq") / "hosts"
    hosts.write_text("".join(f"{address} many.lab.test\n" for address in MANY))
    own = NameServer(address=LOOPBACK, port=free_port())
    command = [
        *(program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
        *(f"--addn-hosts={hosts}", f"--user={getpass.getuser()}", "--log-facility=-"),
        *("--bind-interfaces", f"--listen-address={own.address}", f"--port={own.port}"),
        *("--pid-file=", *ZONE),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            until_it_answers(own, process)
            yield own
        finally:
            process.terminate()


def until_it_answers(own: NameServer, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 5.0
    while look_up(own, "web.lab.test", timeout=0.1).failure is not None:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < end, "dnsmasq does not answer"
        time.sleep(0.02)


def look_up(
    own: NameServer, name: str, family: Family = Family.BOTH, *, timeout: float = 1.0
) -> Result:
    resolver = Resolver(servers=(own,), search=("lab.test",), timeout=timeout)
    return asyncio.run(Transport(resolver, in_flight=1).look_up(name, family, 3.0))


WEB = (ip_address("192.0.2.80"), ip_address("2001:db8::80"))


@pytest.mark.parametrize("name", ["web.lab.test", "web.lab.test.", "WEB.Lab.test", "web"])
def test_addresses(server: NameServer, name: str) -> None:
    result = look_up(server, name)
    assert result == Result(
        name=name,
        found="web.lab.test",
        addresses=WEB,
        ttl=77.0,
        server=server,
        duration=result.duration,
    )


def test_one_family(server: NameServer) -> None:
    assert look_up(server, "web.lab.test", Family.V6).addresses == WEB[1:]
    assert look_up(server, "four.lab.test", Family.V4).ttl == 60.0
    assert look_up(server, "four.lab.test").addresses == (ip_address("192.0.2.4"),)
    assert look_up(server, "four.lab.test", Family.V6).failure is Failure.NODATA


@pytest.mark.parametrize("name", ["alias.lab.test", "www.lab.test"])
def test_aliases(server: NameServer, name: str) -> None:
    assert look_up(server, name).addresses == WEB


def test_denials(server: NameServer) -> None:
    assert look_up(server, "none.lab.test").failure is Failure.NXDOMAIN
    assert look_up(server, "text.lab.test").failure is Failure.NODATA


def test_refused(server: NameServer) -> None:
    """It serves lab.test and knows nobody to ask for more."""
    assert look_up(server, "web.elsewhere.test").failure is Failure.REFUSED


def test_more_than_a_datagram_holds(server: NameServer) -> None:
    result = look_up(server, "many.lab.test", Family.V6)
    assert set(result.addresses) == set(MANY)


def test_backwards(server: NameServer) -> None:
    resolver = Resolver(servers=(server,), timeout=1.0)
    transport = Transport(resolver, in_flight=1)
    result = asyncio.run(transport.look_up_address(ip_address("192.0.2.9"), 1.0))
    assert (result.names, result.ttl) == (("client.lab.test",), 77.0)


def test_many_at_once(server: NameServer) -> None:
    async def story() -> list[Result]:
        resolver = replace(Resolver(servers=(server,)), timeout=1.0)
        transport = Transport(resolver, in_flight=100)
        names = ["web.lab.test", "four.lab.test"] * 50
        return await asyncio.gather(*(transport.look_up(name, Family.V4, 3.0) for name in names))

    results = asyncio.run(story())
    assert [str(result.addresses[0]) for result in results] == ["192.0.2.80", "192.0.2.4"] * 50
