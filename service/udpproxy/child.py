"""The proxy's children: `python3 -m udpproxy.child ROLE INSTANCE`."""

from __future__ import annotations

import sys

from udpproxy import __version__
from udpproxy.process import child
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import let_others_first
from udpproxy.proxy.identity import IDENTITY


def _relay(start: child.Start) -> bool:
    from udpproxy.process.loop import EpollLoop
    from udpproxy.proxy.reg.process import Reg

    loop = EpollLoop()

    def left(reason: str) -> None:
        loop.stop()

    part = Reg(loop, start.logs, start.link, notifier=Notifier(), version=__version__, left=left)
    start.clean_ups.add("sessions", part.close)

    def deliver() -> None:
        for number in start.signals.read():
            part.signalled(number)

    loop.add_reader(start.signals.fileno(), deliver)
    try:
        loop.run()
    except Exception:
        part.fail()
        raise
    loop.close()
    return True


def _resolve(start: child.Start) -> bool:
    let_others_first()
    # Only now: REG stays small without it.
    from udpproxy.process.asynchronous import run
    from udpproxy.proxy.resolving import assignment
    from udpproxy.resolver.acr import Acr
    from udpproxy.resolver.apr import Apr

    kind = {"acr": Acr, "apr": Apr}[start.role]
    run(start, lambda left: kind(start, assignment, __version__, left))
    return True


if __name__ == "__main__":
    kinds = {"reg": _relay, "acr": _resolve, "apr": _resolve}
    sys.exit(child.main(sys.argv[1:], IDENTITY, kinds))
