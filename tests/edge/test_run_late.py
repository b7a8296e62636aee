"""What comes late, goes and comes back: addresses to listen on, and the system's name servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, exchange, silent, udp
from nameserver import NameServer
from namespaces import Network, ip
from proxy import Proxy, config, until

SERVERS = {"10.73.0.1": "10.73.0.2", "fd73::1": "fd73::2"}
"""Of each family: where the proxy is to listen, and where its server is."""


@pytest.fixture
def network() -> Iterator[Network]:
    """The proxy without the addresses that it is to listen on, a server, and a client."""
    with Network() as net:
        net.add("proxy", "10.73.0.9/16", "fd73::9/64")
        net.add("server", *(f"{address}/{_length(address)}" for address in SERVERS.values()))
        net.add("client", "10.73.0.3/16", "fd73::3/64")
        yield net


def _length(address: str) -> int:
    return 64 if ":" in address else 16


def _have(network: Network, address: str, *, here: bool) -> None:
    """The proxy's host gets that address, or loses it."""
    nodad = ["nodad"] if ":" in address and here else []
    words = ["addr", "add" if here else "del", f"{address}/{_length(address)}", "dev", "eth0"]
    ip("-n", network.name("proxy"), *words, *nodad)


@pytest.mark.parametrize("address", SERVERS)
@pytest.mark.parametrize("engine", NAMES)
def test_an_address_that_comes_late(
    network: Network, tmp_path: Path, engine: str, address: str
) -> None:
    """It is listened on from the start, and also after it has gone and come back."""
    top = f'max-sessions = 10\nengine = "{engine}"'
    echo = network.on("server", lambda: Echo(SERVERS[address]))
    text = config(5000, str(echo), listen=address, top=top)
    with echo, Proxy(tmp_path, text, prefix=network.prefix("proxy")) as proxy:
        (said,) = proxy.said("UDPS-126-W")
        assert f"does not have the address {address} for now" in said
        client = network.on("client", lambda: udp("fd73::3" if ":" in address else "10.73.0.3"))
        with client:
            client.sendto(b"too early", (address, 5000))
            assert silent(client, 0.3)
            _have(network, address, here=True)
            until(lambda: _answered(client, address))
            _have(network, address, here=False)
            while not silent(client, 0.5):
                client.recv(100)  # an answer that was under way
            client.sendto(b"gone", (address, 5000))
            assert silent(client, 0.3)
            _have(network, address, here=True)
            until(lambda: _answered(client, address))
        # IPv6 writes from the latest address, and from another one once that is gone.
        assert len(echo.sources) == (2 if ":" in address else 1)
        assert proxy.info()["sessions-opened"] == 1
        assert proxy.stop() == 0
    with Proxy(tmp_path / "again", text, prefix=network.prefix("proxy")) as again:
        assert again.said("UDPS-126-W") == []


def _answered(client: socket.socket, address: str) -> bool:
    client.settimeout(0.5)
    client.sendto(b"now", (address, 5000))
    try:
        return client.recv(100) == b"now"
    except OSError:
        return False


def test_an_absent_address_that_a_reload_brings(network: Network, tmp_path: Path) -> None:
    echo = network.on("server", lambda: Echo("10.73.0.2"))
    text = config(5000, str(echo), listen="10.73.0.9")
    with echo, Proxy(tmp_path, text, prefix=network.prefix("proxy")) as proxy:
        more = '[[listen]]\naddress = "10.73.0.1"\nport = "5000-5002"\n'
        proxy.write(config(5000, str(echo), listen="10.73.0.9", more=more))
        proxy.ask("reload")
        assert len(proxy.said("UDPS-126-W")) == 1
        _have(network, "10.73.0.1", here=True)
        with network.on("client", lambda: udp("10.73.0.3")) as client:
            exchange(client, ("10.73.0.1", 5002), b"by the new one")
        assert proxy.info()["listening"] == 4


def test_name_servers_that_come_late(network: Network, tmp_path: Path) -> None:
    """Those of the system: it starts without, and asks them as soon as they are there."""
    resolv = tmp_path / "resolv.conf"
    resolv.touch()
    inside = f'mount --bind {resolv} /etc/resolv.conf && exec "$@"'
    prefix = [*network.prefix("proxy"), "unshare", "--mount", "sh", "-c", inside, "-"]
    zone = network.on("proxy", lambda: NameServer(port=53))
    zone.host("late.test", "10.73.0.2")
    with zone, network.on("server", lambda: Echo("10.73.0.2")) as echo:
        text = config(5000, f"late.test:{echo.endpoint[1]}", listen="10.73.0.9")
        with Proxy(tmp_path, text, prefix=prefix) as proxy:
            (said,) = until(lambda: proxy.said("UDPP-840-W"))
            assert "no name servers: [resolver] gives none and /etc/resolv.conf names no" in said
            resolv.write_text("nameserver 127.0.0.1\n")
            with network.on("client", lambda: udp("10.73.0.3")) as client:
                until(lambda: proxy.info("acr")["known"] == 1, 10)
                exchange(client, ("10.73.0.9", 5000), b"by its name")
            assert zone.asked
