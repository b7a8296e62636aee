"""Two hosts with one address between them (VRRP): the product on both, and Debian's keepalived.

The standby listens on an address that it does not have, and serves as soon as it has it.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, silent, udp
from host import tool
from namespaces import Network, ip
from proxy import Proxy, until

SHARED = "10.1.0.100"
PORT, SERVER = 5003, ("10.1.0.2", 7000)
HOSTS = {"first": ("10.1.0.11", 150), "second": ("10.1.0.12", 100)}
TEXT = f"""max-sessions = 100
engine = "{{engine}}"
[[listen]]
address = "{SHARED}"
port = {PORT}
[[session-acl]]
name = "all"
plug-to = "{SERVER[0]}:{SERVER[1]}"
source-address = ["{SHARED}", "no-fallback"]
"""
VRRP = f"""global_defs {{{{
    vrrp_version 3
    vrrp_garp_master_delay 1
}}}}
vrrp_instance one {{{{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {{priority}}
    advert_int 0.1
    virtual_ipaddress {{{{
        {SHARED}/24
    }}}}
}}}}
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as net:
        net.add("client", "10.1.0.5/24")
        net.add("server", f"{SERVER[0]}/24")
        for name, (address, _) in HOSTS.items():
            net.add(name, f"{address}/24")
        yield net


@contextlib.contextmanager
def keepalived(network: Network, host: str, directory: Path) -> Iterator[None]:
    _, priority = HOSTS[host]
    file = directory / f"{host}.conf"
    file.write_text(VRRP.format(priority=priority))
    words = [
        tool("keepalived"), "--dont-fork", "--log-console", "--vrrp", f"--use-file={file}",
        f"--pid={directory}/{host}.pid", f"--vrrp_pid={directory}/{host}-vrrp.pid",
    ]  # fmt: skip
    with (directory / f"{host}.log").open("w") as log:
        process = subprocess.Popen([*network.prefix(host), *words], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def has_it(network: Network, host: str) -> bool:
    shown = subprocess.run(
        [*network.prefix(host), tool("ip"), "-brief", "address", "show", "eth0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return SHARED in shown.stdout


@pytest.mark.parametrize("engine", NAMES)
def test_the_standby_takes_over_and_gives_back(
    network: Network, tmp_path: Path, engine: str
) -> None:
    with contextlib.ExitStack() as stack:
        echo = network.on("server", lambda: stack.enter_context(Echo(*SERVER)))
        proxies = {}
        for host in HOSTS:
            (tmp_path / host).mkdir()
            proxy = Proxy(tmp_path / host, TEXT.format(engine=engine), prefix=network.prefix(host))
            proxies[host] = stack.enter_context(proxy)
            assert SHARED in proxy.said("UDPS-126-W")[0]
            stack.enter_context(keepalived(network, host, tmp_path))
        until(lambda: has_it(network, "first"))
        client = stack.enter_context(network.on("client", lambda: udp("10.1.0.5")))

        def longest_gap(seconds: float) -> float:
            """A datagram each 20 ms: how long none was answered."""
            gap, answered = 0.0, time.monotonic()
            ends = answered + seconds
            while time.monotonic() < ends:
                client.sendto(b"question", (SHARED, PORT))
                if not silent(client, 0.02):
                    client.recv(100)
                    answered = time.monotonic()
                gap = max(gap, time.monotonic() - answered)
            assert time.monotonic() - answered < 0.5, "it does not come back"
            return gap

        until(lambda: longest_gap(0.6) < 0.5)
        assert [len(proxy.sessions()) for proxy in proxies.values()] == [1, 0]
        cut = network.name("first")
        ip("-n", cut, "link", "set", "eth0", "down")
        gap = longest_gap(4)
        assert 0.1 < gap < 3, gap
        assert has_it(network, "second")
        assert len(proxies["second"].sessions()) == 1
        ip("-n", cut, "link", "set", "eth0", "up")
        until(lambda: has_it(network, "first") and not has_it(network, "second"))
        longest_gap(3)
        assert {source for source, _ in echo.sources} == {SHARED}
        for proxy in proxies.values():
            assert proxy.said("UDPS-201-W") == []
