"""A server that is gone: the log and `info` say which, and when it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, config, until


@pytest.mark.parametrize("engine", NAMES)
def test_a_dead_server_is_seen(tmp_path: Path, engine: str) -> None:
    port, dead = free_port("127.0.0.1"), free_port("127.0.0.1")
    top = f'max-sessions = 100\nengine = "{engine}"'
    text = config(port, f"127.0.0.1:{dead}", top=top)
    with Proxy(tmp_path, text) as proxy, udp() as client, udp() as another:
        client.sendto(b"anybody?", ("127.0.0.1", port))
        (line,) = until(lambda: proxy.said("UDPS-631-W"))
        where = f"127.0.0.1:{client.getsockname()[1]}"
        assert line.endswith(
            f"server 127.0.0.1:{dead} of rule all cannot be reached for client {where}: "
            "port unreachable"
        )
        figures = proxy.info("reg")
        assert figures["servers-unreachable"] == 1
        assert f"127.0.0.1:{dead}" in str(figures["unreachable"])
        with Echo("127.0.0.1", dead):
            # A client that knows nothing of it, some time later.
            exchange(another, ("127.0.0.1", port), b"there you are")
            until(lambda: proxy.said("UDPS-632-N"))
        assert proxy.info("reg")["servers-unreachable"] == 0
        assert len(proxy.said("UDPS-631-W")) == 1
