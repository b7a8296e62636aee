"""Addresses of others, with a real firewall: what is redirected to us, and clients' own addresses
towards servers (SPEC 12). The rules are those that `udp-proxy transparent` prints."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, udp
from grasp import of_process
from namespaces import Network, ip
from proxy import Proxy, command, until
from router import redirect, routed

SIDES = {4: ("10.1.0.", "10.2.0."), 6: ("fd01::", "fd02::")}
PORT = 5003
TEXT = """max-sessions = 100
engine = "{engine}"
workers = {workers}
[[listen]]
transparent = true
port = [{port}, "5060-5061"]
[[session-acl]]
name = "here"
transparent = false
plug-to = "127.0.0.1:9"
[[session-acl]]
name = "out"
from = ["10.1.0.0/24", "fd01::/64"]
transparent = true
{more}
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with routed() as net:
        yield net


class Lab:
    """One proxy on the router, and what is on both sides."""

    def __init__(self, network: Network, directory: Path, engine: str, **keys: object) -> None:
        words = {"engine": engine, "workers": 1, "port": PORT, "more": ""} | keys
        self.network = network
        self.proxy = Proxy(directory, TEXT.format(**words), prefix=network.prefix("router"))
        redirect(network, "router", self.proxy.file)

    def server(self, version: int, port: int = PORT) -> Echo:
        return self.network.on("server", lambda: Echo(f"{SIDES[version][1]}2", port))

    def client(self, version: int) -> socket.socket:
        return self.network.on("client", lambda: udp(f"{SIDES[version][0]}5"))


@pytest.mark.parametrize("version", SIDES)
@pytest.mark.parametrize("engine", NAMES)
def test_what_was_sent_to_another_host_goes_there(
    network: Network, tmp_path: Path, engine: str, version: int
) -> None:
    lab = Lab(network, tmp_path, engine, workers=2 if engine == "native" else 1)
    there = f"{SIDES[version][1]}2"
    with (
        lab.proxy as proxy,
        lab.server(version) as echo,
        lab.server(version, 5061) as other,
        lab.client(version) as client,
    ):
        for port, server in ((PORT, echo), (5061, other)):
            client.sendto(b"question", (there, port))
            data, sender = client.recvfrom(100)
            assert (data, sender[:2]) == (b"question", (there, port))
            (source,) = server.sources
            assert source[0] != client.getsockname()[0]
        rows = proxy.sessions()
        shown = f"[{there}]" if version == 6 else there
        assert {row["listener"] for row in rows} == {f"{shown}:{PORT}", f"{shown}:5061"}
        assert {row["server"] for row in rows} == {f"{shown}:{PORT}", f"{shown}:5061"}
        assert {row["acl"] for row in rows} == {"out"}
        proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
        until(proxy.ready)
        client.sendto(b"again", (there, PORT))
        assert client.recvfrom(100)[1][:2] == (there, PORT)
        assert len(echo.sources) == 1


@pytest.mark.parametrize("version", SIDES)
@pytest.mark.parametrize("engine", NAMES)
def test_the_server_sees_the_client(
    network: Network, tmp_path: Path, engine: str, version: int
) -> None:
    lab = Lab(network, tmp_path, engine, more='source-address = ["client", "no-fallback"]')
    there = f"{SIDES[version][1]}2"
    with lab.proxy as proxy, lab.server(version) as echo, lab.client(version) as client:
        client.sendto(b"question", (there, PORT))
        data, sender = client.recvfrom(100)
        assert (data, sender[:2]) == (b"question", (there, PORT))
        (source,) = echo.sources
        assert source[0] == client.getsockname()[0]
        proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
        until(proxy.ready)
        client.sendto(b"again", (there, PORT))
        assert client.recvfrom(100)[0] == b"again"
        assert len(echo.sources) == 1


@pytest.mark.parametrize("version", SIDES)
@pytest.mark.parametrize("engine", NAMES)
def test_what_is_for_this_host_is_not_another_hosts(
    network: Network, tmp_path: Path, engine: str, version: int
) -> None:
    """Its own addresses, by whichever way they come; and one that it gets later."""
    lab = Lab(network, tmp_path, engine)
    late = f"{SIDES[version][1]}9"
    with lab.proxy as proxy, lab.client(version) as client:
        for address in (f"{SIDES[version][0]}1", f"{SIDES[version][1]}1"):
            client.sendto(b"question", (address, PORT))
        until(lambda: len(proxy.sessions()) == 2)
        assert {row["acl"] for row in proxy.sessions()} == {"here"}
        ip("-n", network.name("router"), "addr", "add", f"{late}/{64 if version == 6 else 24}",
           "dev", "eth0", *(("nodad",) if version == 6 else ()))  # fmt: skip

        def is_here() -> bool:
            with lab.client(version) as another:
                another.sendto(b"question", (late, PORT))
                until(lambda: any(late in str(row["listener"]) for row in proxy.sessions()))
                rows = [row for row in proxy.sessions() if late in str(row["listener"])]
                return bool(rows[-1]["acl"] == "here")

        until(is_here)


@pytest.mark.parametrize("engine", NAMES)
def test_a_relay_that_lies_cannot_write_from_anywhere(
    network: Network, tmp_path: Path, engine: str
) -> None:
    """The printed rules hold its sockets to the clients of the rules."""
    lab = Lab(network, tmp_path, engine, more='source-address = ["client"]')
    with lab.proxy as proxy, lab.server(4) as echo:
        for source, fails in (("10.1.0.77", False), ("198.51.100.1", True), ("10.2.0.1", False)):
            unused = of_process(proxy.reg_pid, 0)
            with unused[0] as sock:
                sock.bind((source, 0))
                try:
                    sock.sendto(b"forged", ("10.2.0.2", PORT))
                except PermissionError:
                    assert fails
                else:
                    assert not fails
                    until(lambda: source in {seen for seen, _ in echo.sources})  # noqa: B023
            for sock in unused[1:]:
                sock.close()


def test_without_the_right_it_says_so(tmp_path: Path) -> None:
    text = TEXT.format(engine="python", workers=1, port=PORT, more="")
    file = tmp_path / "one.toml"
    file.write_text(text)
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-net_raw,-net_admin", *command("run", file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 77
    said = "transparent = true needs root or CAP_NET_RAW, see udp-proxy-units(7)"
    assert said in done.stderr


def test_missing_routes_are_said(network: Network, tmp_path: Path) -> None:
    """With the commands, which help."""
    text = TEXT.format(engine="python", workers=1, port=PORT, more="")
    with Proxy(tmp_path, text, prefix=network.prefix("router")) as proxy:
        said = [line.partition(": run ")[2] for line in proxy.said("UDPS-135-W")]
        assert len(said) == 2
        for commands in said:
            for each in commands.split("; "):
                ip("-n", network.name("router"), *each.split()[1:])
        proxy.ask("reload")
        assert len(proxy.said("UDPS-135-W")) == 2
