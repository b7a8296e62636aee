"""What the proxy is called."""

from __future__ import annotations

from pathlib import Path

from udpproxy import __version__
from udpproxy.identity import Identity

IDENTITY = Identity(
    name="udp-proxy",
    version=__version__,
    bus="org.udpproxy1",
    noun="Proxy",
    child="udpproxy.child",
    daemon="udpproxy.proxy.daemon",
    interfaces=Path(__file__).parents[1] / "interfaces",
)
