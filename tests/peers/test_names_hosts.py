"""A network of hosts with a real name server: servers and clients by name, and its loss."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from echo import Echo, exchange, silent, udp
from host import tool
from namespaces import Network
from proxy import Proxy, until

PORT = 5353
TEXT = f"""max-sessions = 100
[[listen]]
address = "0.0.0.0"
port = {PORT}
[[listen]]
address = "::"
port = {PORT}
[[session-acl]]
name = "lab"
from = ["*.lab.test"]
plug-to = "srv.lab.test:7"
[[session-acl]]
name = "address"
from = ["10.77.0.20"]
plug-to = "10.77.0.3:7"
[resolver]
servers = ["10.77.0.53"]
min-ttl = 1
retry = 1
timeout = 0.5
"""
ZONE = [
    *(
        "--host-record=srv.lab.test,10.77.0.3,fd77::3",
        "--host-record=pc.lab.test,10.77.0.10,fd77::10",
    ),
    *("--ptr-record=20.0.77.10.in-addr.arpa,pc.lab.test", "--local=/lab.test/", "--local-ttl=1"),
]  # the host with 20 only says that it is pc


@pytest.fixture
def hosts() -> Iterator[Network]:
    with Network() as network:
        network.add("proxy", "10.77.0.1/24", "fd77::1/64")
        network.add("server", "10.77.0.3/24", "fd77::3/64")
        network.add("client", "10.77.0.10/24", "10.77.0.20/24", "fd77::10/64")
        network.add("dns", "10.77.0.53/24")
        yield network


@contextmanager
def dnsmasq(network: Network) -> Iterator[None]:
    words = [
        *network.prefix("dns"),
        *(tool("dnsmasq"), "--keep-in-foreground", "--no-resolv", "--no-hosts", "--pid-file="),
        *("--conf-file=/dev/null", "--user=root", "--log-facility=-", *ZONE),
    ]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def test_names_on_a_network(tmp_path: Path, hosts: Network) -> None:
    with (
        dnsmasq(hosts),
        hosts.on("server", lambda: Echo("10.77.0.3", 7)) as four,
        hosts.on("server", _echo6) as six,
        Proxy(tmp_path, TEXT, prefix=hosts.prefix("proxy")) as proxy,
        hosts.on("client", lambda: udp("10.77.0.10")) as client,
        hosts.on("client", lambda: udp("10.77.0.20")) as liar,
        hosts.on("client", lambda: udp("fd77::10")) as client6,
    ):
        until(lambda: proxy.info("reg")["names-known"] == 1)
        exchange(client, ("10.77.0.1", PORT), b"by name")
        exchange(client6, ("fd77::1", PORT), b"over six")
        exchange(liar, ("10.77.0.1", PORT), b"by address")
        assert [row["acl"] for row in proxy.sessions()] == ["lab", "lab", "address"]
        assert [data for data, _ in four.received] == [b"by name", b"by address"]
        assert [data for data, _ in six.received] == [b"over six"]

        # The name server is gone: nobody answers, not even to say so.
        _link(hosts, "down")
        until(lambda: proxy.said("srv.lab.test is not resolved: "), 30)
        for known, to in ((client, "10.77.0.1"), (client6, "fd77::1"), (liar, "10.77.0.1")):
            exchange(known, (to, PORT), b"still")
        until(lambda: proxy.ctl("resolve-now").returncode == 0)  # clients are forgotten with it
        with hosts.on("client", lambda: udp("10.77.0.10")) as nameless:
            nameless.sendto(b"who am I", ("10.77.0.1", PORT))
            until(lambda: proxy.said("UDPP-821-I"))
            assert silent(nameless, 0.1)
        _link(hosts, "up")
        until(lambda: proxy.said("srv.lab.test is resolved again"), 30)


def _link(network: Network, state: str) -> None:
    words = [*network.prefix("dns"), tool("ip"), "link", "set", "eth0", state]
    subprocess.run(words, check=True)


def _echo6() -> Echo:
    """Addresses of version 6 take a moment (duplicate address detection)."""

    def bound() -> bool:
        try:
            udp("fd77::3").close()
        except OSError:
            return False
        return True

    until(bound)
    return Echo("fd77::3", 7)
