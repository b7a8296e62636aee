"""What an engine makes of sends that fail (failing.c), for test_engine_sends.py:

LD_PRELOAD=LIBRARY failing.py LIBRARY ENGINE CASES

prints for each case its ICMP errors, its send errors and the datagrams that passed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import sys

from rig import ENGINES, Factory, Rig, verdict
from udpproxy.proxy.config.model import SessionType

DATAGRAMS = 3


def figures(
    library: ctypes.CDLL, make: Factory, kind: str, way: str, problem: str, times: int
) -> list[int]:
    """Of a session, while some datagrams of one batch go that way."""

    def fail(port: int, times: int) -> None:
        settings = {"port": port, "problem": getattr(errno, problem), "times": times}
        for name, value in settings.items():
            ctypes.c_int.in_dll(library, f"failing_{name}").value = value

    rig = Rig(make)
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType(kind))
    client.sendto(b"first", rig.where())
    _, source = rig.take(server)
    sender, to = (client, rig.where()) if way == "upload" else (server, source)
    fail(source[1] if way == "upload" else rig.where()[1], times)
    for _ in range(DATAGRAMS):
        sender.sendto(b"another", to)
    before = rig.count(f"{way}-datagrams")

    def found() -> list[int]:
        now = rig.engine.figures()
        return [now["icmp-errors"], now["send-errors"], now[f"{way}-datagrams"] - before]

    rig.until(lambda: sum(found()[1:]) == DATAGRAMS)
    fail(0, 0)
    last = found()
    rig.close()
    return last


def main(path: str, engine: str, cases: str) -> None:
    """Each in a rig of its own."""
    library = ctypes.CDLL(path)
    print(json.dumps([figures(library, ENGINES[engine], *case) for case in json.loads(cases)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
