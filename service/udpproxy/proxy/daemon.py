"""The proxy as a daemon: what `udp-proxy daemon start` runs."""

from __future__ import annotations

import sys

from udpproxy.daemon.process import main
from udpproxy.proxy.product import PROXY

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], PROXY))
