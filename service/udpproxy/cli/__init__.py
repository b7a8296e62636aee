"""The command `udp-proxy`."""

from udpproxy.cli.main import main

__all__ = ["main"]
