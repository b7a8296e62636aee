"""A child process: `python3 -m udpproxy.child ROLE INSTANCE`.

Born with nothing and given everything over one socket; it does not know who started it. The
contract, whole: RUNTIME_DIRECTORY, NOTIFY_SOCKET, maybe WATCHDOG_USEC; connect to
$RUNTIME_DIRECTORY/control.sock, say hello, obey; end of file means leave.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from udpproxy import __version__
from udpproxy.process import signals
from udpproxy.process.idle import Idle
from udpproxy.process.logs import Logs
from udpproxy.process.loop import EpollLoop
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import drop_capabilities, raise_descriptor_limit
from udpproxy.reg.process import Reg

CONNECT_LIMIT = 10.0
_INTERNAL = 70


def main(argv: list[str]) -> int:
    """The process's exit status."""
    caught = signals.Signals()
    role, instance = argv
    logs = Logs(f"udp-proxy/{instance}/{role}")
    try:
        raise_descriptor_limit()
        drop_capabilities()
        sock = _connect(Path(os.environ["RUNTIME_DIRECTORY"]) / "control.sock", caught)
        if sock is not None:
            _run(role, logs, sock, caught)
    except Exception as problem:
        logs.failure(problem)
        return _INTERNAL
    finally:
        logs.close()
    return 0


def _connect(path: Path, caught: signals.Signals) -> socket.socket | None:
    """The parent may still be starting. None: told to go meanwhile."""
    deadline = time.monotonic() + CONNECT_LIMIT
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return sock
        if set(caught.read()) & set(signals.TERMINATE):
            return None


def _run(role: str, logs: Logs, sock: socket.socket, caught: signals.Signals) -> None:
    loop = EpollLoop()
    notifier = Notifier()

    def left(reason: str) -> None:
        loop.stop()

    part: Reg | Idle
    if role == "reg":
        part = Reg(loop, logs, sock, notifier=notifier, version=__version__, left=left)
    else:
        part = Idle(loop, logs, sock, role=role, notifier=notifier, version=__version__, left=left)

    def deliver() -> None:
        for number in caught.read():
            part.signalled(number)

    loop.add_reader(caught.fileno(), deliver)
    loop.run()
    loop.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
