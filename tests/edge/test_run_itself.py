"""A proxy that would send to itself is refused, by `check` as at start and at reload."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from namespaces import Network
from proxy import Proxy, command, config, reloaded

PORT = 5000
OWN = {"10.73.0.1": "0.0.0.0", "fd73::1": "::"}
"""Addresses of the host, and what listens on them."""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as net:
        net.add("host", "10.73.0.1/24", "fd73::1/64")
        yield net


def text(server: str, listen: str = "0.0.0.0", acl: str = "") -> str:
    host = f"[{server}]" if ":" in server else server
    return config(PORT, f"{host}:{PORT}", listen=listen, acl=acl)


def checked(network: Network, file: Path) -> tuple[int, str]:
    """What `check` says on that host."""
    words = [*network.prefix("host"), *command("check", file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("server", OWN)
def test_check_start_and_reload_agree(network: Network, tmp_path: Path, server: str) -> None:
    elsewhere = "fd73::2" if ":" in server else "10.73.0.2"
    itself, other = text(server, OWN[server]), text(elsewhere, OWN[server])
    shown = f"[{server}]" if ":" in server else server
    proxy = Proxy(tmp_path, itself, prefix=network.prefix("host"))
    told = f"plug-to: {shown}:{PORT} is the proxy itself: see line 2 ({OWN[server]})"
    status, said = checked(network, proxy.file)
    assert (status, told in said) == (78, True)
    with proxy.launched():
        assert proxy.wait() == 71  # the address can go to another host: systemd tries again
    assert told in proxy.said("UDPS-521-E")[0]

    proxy.write(other)
    assert checked(network, proxy.file)[0] == 0
    with proxy:
        proxy.write(itself)
        done = proxy.ctl("reload")
        assert (done.returncode, told in done.stderr) == (1, True)
        proxy.write(other)
        assert proxy.ask("reload") == reloaded(0)


@pytest.mark.parametrize("server", ["10.73.0.2", "192.0.2.1", "10.73.0.255", "255.255.255.255"])
def test_others_are_not_ourselves(network: Network, tmp_path: Path, server: str) -> None:
    """Also where every address can be bound, as keepalived needs it, and where no route leads to
    the broadcast address."""
    bindable = "echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind"
    subprocess.run([*network.prefix("host"), "sh", "-c", bindable], check=True)
    network_of_server = 'type = "broadcast"\nbroadcast-network = "10.73.0.0/24"'
    acl = network_of_server if server.endswith("255") else ""
    proxy = Proxy(tmp_path, text(server, acl=acl), prefix=network.prefix("host"))
    assert checked(network, proxy.file)[0] == 0
    with proxy:
        assert proxy.info()["state"] == "running"
