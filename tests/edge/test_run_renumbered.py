"""A host that gets other addresses while sessions live: they go on."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, exchange, udp
from namespaces import Network, ip
from proxy import Proxy, config, until

SERVERS = {"10.74.0.2": ("10.74.0.1/16", "10.74.0.7/16"), "fd74::2": ("fd74::1/64", "fd74::7/64")}
"""The server of each family, and the proxy's host before and after."""


@pytest.fixture
def network() -> Iterator[Network]:
    """The proxy, whose clients are on its own host, and the server on another."""
    with Network() as net:
        net.add("proxy", *(before for before, _ in SERVERS.values()))
        net.add("server", *(f"{address}/{64 if ':' in address else 16}" for address in SERVERS))
        yield net


def _renumber(network: Network, old: str, new: str) -> None:
    host = network.name("proxy")
    ip("-n", host, "addr", "del", old, "dev", "eth0")
    if new:
        more = ["nodad"] if ":" in new else []
        ip("-n", host, "addr", "add", new, "dev", "eth0", *more)


def _text(engine: str, server: str, kind: str) -> str:
    acl = f'type = "{kind}"\nunreachable = "ignore"'
    return config(5000, server, top=f'max-sessions = 20\nengine = "{engine}"', acl=acl)


@pytest.mark.parametrize("kind", ["normal", "any-port", "one-way"])
@pytest.mark.parametrize("engine", NAMES)
def test_sessions_go_on(network: Network, tmp_path: Path, engine: str, kind: str) -> None:
    """Without a loss where the new address comes at once. With IPv6 the system goes on sending from
    an address that is gone, so that nothing fails that we could see."""
    address = "10.74.0.2"
    before, after = SERVERS[address]
    echo = network.on("server", lambda: Echo(address, answers=lambda _: kind != "one-way"))
    text = _text(engine, str(echo), kind)
    with echo, Proxy(tmp_path, text, prefix=network.prefix("proxy")) as proxy:
        with network.on("proxy", udp) as client:
            _ask(client, echo, b"before", kind)
            _renumber(network, before, after)
            for number in range(5):
                _ask(client, echo, b"after %d" % number, kind)
            (row,) = proxy.sessions()
            new = after.partition("/")[0]
            assert str(row["source"]).rpartition(":")[0].strip("[]") == new
            assert {where for where, _ in echo.sources_of(b"after")} == {new}
            (said,) = proxy.said("UDPS-601-N")
            assert f"session 1 from 127.0.0.1:{client.getsockname()[1]} to {echo}" in said
            assert ", rule all, " in said
            info = proxy.info("reg")
            assert (info["send-errors"], info["sessions"]) == (0, 1)
            # Whoever comes next finds what there is.
            old = proxy.reg_pid
            proxy.kill(9, "reg")
            proxy.next_reg(old)
            _ask(client, echo, b"after a crash", kind)
        assert len(proxy.sessions()) == 1


def _ask(client: socket.socket, echo: Echo, data: bytes, kind: str) -> None:
    if kind != "one-way":
        exchange(client, ("127.0.0.1", 5000), data)
        return
    client.sendto(data, ("127.0.0.1", 5000))
    until(lambda: echo.sources_of(data))


@pytest.mark.parametrize("address", SERVERS)
@pytest.mark.parametrize("engine", NAMES)
def test_while_there_is_no_address_at_all(
    network: Network, tmp_path: Path, engine: str, address: str
) -> None:
    """What is sent meanwhile is lost and counted; the session is there when one comes."""
    before, after = SERVERS[address]
    echo = network.on("server", lambda: Echo(address))
    with echo, Proxy(tmp_path, _text(engine, str(echo), "normal"),
                     prefix=network.prefix("proxy")) as proxy:  # fmt: skip
        with network.on("proxy", udp) as client:
            exchange(client, ("127.0.0.1", 5000), b"before")
            _renumber(network, before, "")
            for _ in range(3):
                client.sendto(b"nowhere", ("127.0.0.1", 5000))
                time.sleep(0.05)
            until(lambda: proxy.info("reg")["send-errors"] == 3)
            assert all("Network is unreachable" in line for line in proxy.said("UDPS-600-W"))
            host = network.name("proxy")
            more = ["nodad"] if ":" in after else []
            ip("-n", host, "addr", "add", after, "dev", "eth0", *more)
            exchange(client, ("127.0.0.1", 5000), b"after")
            (row,) = proxy.sessions()
            assert row["session"] == 1
        assert echo.sources_of(b"nowhere") == set()
