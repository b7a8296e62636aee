"""A child process: `python3 -m MODULE ROLE INSTANCE`, where the product's module calls main().

It has nothing of its own, is given everything over one socket, and does not know who started it.
The contract, whole: RUNTIME_DIRECTORY, NOTIFY_SOCKET, maybe WATCHDOG_USEC and UDP_PROXY_PARENT, the
process with which it ends; connect to $RUNTIME_DIRECTORY/children.sock, say hello, obey; end of
file means leave.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from udpproxy.errors import UnitError
from udpproxy.identity import Identity
from udpproxy.process import messages, signals
from udpproxy.process.clean_up import CleanUps
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import (
    drop_capabilities,
    end_with_parent,
    raise_descriptor_limit,
)

CONNECT_LIMIT = 10.0
_NO_PARENT, _INTERNAL, _NO_SYSTEM, _AGAIN = 69, 70, 71, 75
"""After the first our unit is not started again: the next parent's unit does that, or nobody where
the role is not needed any more."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a child has to begin with. `role` is the whole name, such as peer:hosta."""

    role: str
    logs: Logs
    link: socket.socket
    signals: signals.Signals
    clean_ups: CleanUps


Run = Callable[[Start], bool]
"""A child's life, to its end. False: it is not to be started again."""


def main(argv: list[str], identity: Identity, kinds: Mapping[str, Run]) -> int:
    """The process's exit status. `kinds`: by what comes before the colon of a role."""
    if not end_with_parent():
        return _NO_PARENT
    caught = signals.Signals()
    role, instance = argv
    logs = Logs(identity.speaker(instance, role))
    clean_ups = CleanUps(logs)
    clean_ups.add("log", logs.close)
    try:
        limit, why_not_more = raise_descriptor_limit()
        if why_not_more:
            logs.say(messages.LIMIT_STAYS, limit, why_not_more)
        try:
            drop_capabilities()
        except UnitError as problem:
            logs.say(messages.START_FAILED, problem)
            return _NO_SYSTEM
        path = Path(os.environ["RUNTIME_DIRECTORY"]) / "children.sock"
        try:
            sock = _connect(path, caught)
        except OSError as problem:
            logs.say(messages.NO_PARENT, path, problem.strerror)
            if _was_removed(path.parent):
                return _AGAIN
            # A unit that ends before it is ready is a failed one, whatever its status.
            Notifier().ready("there is no parent: nothing to do")
            return _NO_PARENT
        if sock is not None:
            run = kinds[role.partition(":")[0]]
            if not run(Start(role, logs, sock, caught, clean_ups)):
                return _NO_PARENT
    except Exception as problem:
        logs.failure(problem)
        return _INTERNAL
    finally:
        clean_ups.run()
    return 0


def _connect(path: Path, caught: signals.Signals) -> socket.socket | None:
    """The parent may still be starting. None: told to go meanwhile; OSError: there is none."""
    deadline = time.monotonic() + CONNECT_LIMIT
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            if time.monotonic() > deadline or _was_removed(path.parent):
                raise
            time.sleep(0.05)
        else:
            return sock
        if set(caught.read()) & set(signals.TERMINATE):
            return None


def _was_removed(directory: Path) -> bool:
    """As a unit we see the directory that there was when we were started. The end of a parent
    removes it, and the next one has another, which only our next start will see."""
    try:
        return directory.stat().st_nlink == 0
    except OSError:
        return False
