"""Children by fork and exec, for hosts and containers without systemd.

The child's contract is the one that systemd keeps: RUNTIME_DIRECTORY, NOTIFY_SOCKET,
WATCHDOG_USEC. A pidfd tells of its end and carries every signal, so that no recycled process
number is ever hit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.supervisor.lifecycle import Do, Life, State

WATCHDOG = 5.0
"""Seconds without a sign of life after which a child is killed."""
START_LIMIT = 10.0
"""Seconds that a child may take until it is ready."""

_CREDENTIALS = struct.Struct("=iII")
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONUNBUFFERED", "JOURNAL_STREAM")


class Forked:
    """One child and what is known of its present process."""

    def __init__(self, role: str, life: Life) -> None:
        self.role = role
        self.life = life
        self.pid = 0
        self.pidfd = -1
        self.last_sign = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self.gone = asyncio.Event()

    def signal(self, number: int) -> None:
        """To this very process, if it is still there."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


class ForkSupervisor:
    """Starts and replaces the children; `given_up` is called where that makes no sense,
    `ended` at each end that nobody asked for."""

    def __init__(
        self,
        logs: Logs,
        instance: str,
        directory: Path,
        *,
        given_up: Callable[[str], None],
        ended: Callable[[str, int], None],
    ) -> None:
        self._logs = logs
        self._instance = instance
        self._directory = directory
        self._given_up = given_up
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._children: dict[str, Forked] = {}
        self._notify = self._listen(directory / "notify")
        self._loop.add_reader(self._notify.fileno(), self._notified)
        self._timer = self._loop.call_later(1.0, self._look)

    def start(self, role: str, life: Life) -> None:
        """Have a child in that role from now on."""
        child = self._children[role] = Forked(role, life)
        if life.start() is Do.SPAWN:
            self._spawn(child)

    def knows(self, role: str, pid: int) -> bool:
        """Is that process our child in that role?"""
        child = self._children.get(role)
        return child is not None and child.pid == pid

    def children(self) -> dict[str, Forked]:
        """By role."""
        return self._children

    def entered(self, role: str, pid: int) -> None:
        """Its link: we know it by its process already."""

    def ready(self, role: str) -> None:
        """It has told us so already."""

    def left(self, role: str) -> None:
        """Its process tells us more."""

    async def stop(self, limit: float) -> None:
        """End all children: asked first, killed and named after `limit` seconds."""
        for child in self._children.values():
            child.life.stop()
            child.signal(signal.SIGTERM)
        waits = [child.gone.wait() for child in self._children.values()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waits), limit)
        for child in self._children.values():
            if not child.gone.is_set():
                self._logs.say(messages.CHILD_KILLED, child.role, child.pid, limit)
                child.signal(signal.SIGKILL)
                await child.gone.wait()

    def close(self) -> None:
        """After stop()."""
        self._timer.cancel()
        self._loop.remove_reader(self._notify.fileno())
        self._notify.close()
        (self._directory / "notify").unlink(missing_ok=True)

    def _listen(self, path: Path) -> socket.socket:
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(path))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.settimeout(0)
        return sock

    def _spawn(self, child: Forked) -> None:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {
            "RUNTIME_DIRECTORY": str(self._directory),
            "NOTIFY_SOCKET": str(self._directory / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG * 1e6)),
        }
        # -P: nothing is imported from where we happen to stand. A group of its own: Ctrl-C on
        # the terminal is for the parent, who ends the children in order.
        child.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "udpproxy.child", child.role, self._instance],
            env=environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        child.pid = child.process.pid
        child.pidfd = os.pidfd_open(child.pid)
        child.last_sign = self._loop.time()
        child.gone.clear()
        self._loop.add_reader(child.pidfd, self._exited, child)
        self._logs.say(messages.CHILD_STARTED, child.role, child.pid)

    def _exited(self, child: Forked) -> None:
        assert child.process
        self._loop.remove_reader(child.pidfd)
        status = child.process.wait()
        os.close(child.pidfd)
        pid, child.pid, child.pidfd = child.pid, 0, -1
        child.gone.set()
        asked = child.life.state is State.STOPPING
        what = child.life.exited(self._loop.time())
        if asked:
            return
        self._logs.say(messages.CHILD_ENDED, child.role, pid, describe(status), PROCESS=child.role)
        self._ended(child.role, child.life.ends_counted)
        if what is Do.SPAWN:
            self._spawn(child)
        elif what is Do.GIVE_UP:
            self._given_up(child.role)

    def _notified(self) -> None:
        while True:
            try:
                data, control, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return
            pid = _sender(control)
            for child in self._children.values():
                if child.pid == pid:
                    self._heard(child, data.decode("ascii", "replace").split("\n"))

    def _heard(self, child: Forked, lines: list[str]) -> None:
        child.last_sign = self._loop.time()
        if "READY=1" in lines and child.life.state is State.STARTING:
            child.life.ready()

    def _look(self) -> None:
        """Kill who is silent; his end is then seen like any other."""
        self._timer = self._loop.call_later(1.0, self._look)
        for child in self._children.values():
            patience = START_LIMIT if child.life.state is State.STARTING else WATCHDOG
            if child.pid and self._loop.time() - child.last_sign > patience:
                if child.life.state in (State.STARTING, State.READY):
                    self._logs.say(messages.CHILD_SILENT, child.role, child.pid)
                child.signal(signal.SIGKILL)


def describe(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _sender(control: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(_CREDENTIALS.unpack_from(data)[0])
    return 0
