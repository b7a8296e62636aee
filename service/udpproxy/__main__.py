"""`python3 -m udpproxy` is `udp-proxy`."""

import sys

from udpproxy.cli import main

sys.exit(main())
