"""A child process: `python3 -m udpproxy.child ROLE INSTANCE`.

Born with nothing and given everything over one socket; it does not know who started it. The
contract, whole: RUNTIME_DIRECTORY, NOTIFY_SOCKET, maybe WATCHDOG_USEC and UDP_PROXY_PARENT, the
process with which it ends; connect to
$RUNTIME_DIRECTORY/children.sock, say hello, obey; end of file means leave.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from udpproxy import __version__
from udpproxy.errors import UnitError
from udpproxy.process import messages, signals
from udpproxy.process.clean_up import CleanUps
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import (
    drop_capabilities,
    end_with_parent,
    let_others_first,
    raise_descriptor_limit,
)

CONNECT_LIMIT = 10.0
_NO_PARENT, _INTERNAL, _NO_SYSTEM, _AGAIN = 69, 70, 71, 75
"""After the first our unit is not started again: the next parent's unit does that."""


def main(argv: list[str]) -> int:
    """The process's exit status."""
    if not end_with_parent():
        return _NO_PARENT
    caught = signals.Signals()
    role, instance = argv
    logs = Logs(f"udp-proxy/{instance}/{role}")
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
            _run(role, logs, sock, caught, clean_ups)
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


def _run(
    role: str, logs: Logs, sock: socket.socket, caught: signals.Signals, clean_ups: CleanUps
) -> None:
    if role == "reg":
        _relay(logs, sock, caught, clean_ups)
    else:
        let_others_first()
        # Only now: REG stays small without it.
        import asyncio

        asyncio.run(_resolve(role, logs, sock, caught))


def _relay(logs: Logs, sock: socket.socket, caught: signals.Signals, clean_ups: CleanUps) -> None:
    from udpproxy.process.loop import EpollLoop
    from udpproxy.proxy.reg.process import Reg

    loop = EpollLoop()

    def left(reason: str) -> None:
        loop.stop()

    part = Reg(loop, logs, sock, notifier=Notifier(), version=__version__, left=left)
    clean_ups.add("sessions", part.close)

    def deliver() -> None:
        for number in caught.read():
            part.signalled(number)

    loop.add_reader(caught.fileno(), deliver)
    try:
        loop.run()
    except Exception:
        part.fail()
        raise
    loop.close()


async def _resolve(role: str, logs: Logs, sock: socket.socket, caught: signals.Signals) -> None:
    import asyncio

    from udpproxy.resolver.acr import Acr
    from udpproxy.resolver.apr import Apr

    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def left(reason: str) -> None:
        if not end.done():
            end.set_result(None)

    def broken(_: object, context: dict[str, object]) -> None:
        problem = context.get("exception")
        if not isinstance(problem, BaseException):
            problem = RuntimeError(context.get("message"))
        if not end.done():
            end.set_exception(problem)

    loop.set_exception_handler(broken)
    kinds: dict[str, type[Acr] | type[Apr]] = {"acr": Acr, "apr": Apr}
    part = kinds[role](logs, sock, notifier=Notifier(), version=__version__, left=left)

    def deliver() -> None:
        for number in caught.read():
            part.signalled(number)

    loop.add_reader(caught.fileno(), deliver)
    try:
        await end
    finally:
        loop.remove_reader(caught.fileno())
        await part.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
