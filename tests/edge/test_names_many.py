"""More is known of names than one message can carry."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from echo import Echo, exchange, udp
from host import free_port
from nameserver import NameServer
from proxy import Proxy, config, until
from udpproxy.process import wire

NAMES = [f"host{number:02}.lab.test" for number in range(100)]
FOUR = [f"198.51.100.{number}" for number in range(101, 165)]
SIX = [f"2001:db8:ffff:ffff:ffff:ffff:ffff:f0{number}" for number in range(10, 50)]


def test_more_addresses_than_a_message_carries(tmp_path: Path) -> None:
    """As many of each name as an answer over UDP can have; then every process is replaced."""
    assert len(NAMES) * (sum(map(len, FOUR)) + sum(map(len, SIX))) > wire.LARGEST
    port = free_port()
    with NameServer() as zone, Echo() as echo, udp() as client:
        for name in NAMES:
            zone.host(name, *FOUR, *SIX)
        listed = ", ".join(f'"{name}"' for name in NAMES)
        other = f"""
[[session-acl]]
name = "named"
from = [{listed}]
plug-to = "127.0.0.1:9"
"""
        with Proxy(tmp_path, config(port, str(echo), more=other + zone.section)) as proxy:
            until(lambda: proxy.info("reg")["names-known"] == len(NAMES))
            exchange(client, ("127.0.0.1", port), b"one")
            proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
            until(lambda: proxy.info("reg")["names-known"] == len(NAMES))
            exchange(client, ("127.0.0.1", port), b"two")
            # Another ACR is told all of it, and tells it REG.
            zone.silent = True
            acr = next(pid for pid, role in proxy.processes().items() if role == "acr")
            os.kill(acr, signal.SIGKILL)
            until(lambda: proxy.info("acr")["known"] == len(NAMES))
            exchange(client, ("127.0.0.1", port), b"three")
            info = proxy.info()
            assert (info["reg-ends"], info["acr-ends"], info["names-ignored"]) == (1, 1, 0)
