"""Children by fork and exec, for hosts and containers without systemd.

The child's contract is the one that systemd keeps: RUNTIME_DIRECTORY, NOTIFY_SOCKET,
WATCHDOG_USEC. A pidfd tells of its end and carries every signal, so that no recycled process
number is ever hit. At the end all are asked, waited for, and killed where that takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from pathlib import Path

from udpproxy.errors import UnitError
from udpproxy.process import messages
from udpproxy.process.ends import describe, in_order, was_killed
from udpproxy.process.logs import Logs
from udpproxy.supervisor.forked import Forked, NoRoom
from udpproxy.supervisor.lifecycle import NextStep, RestartPolicy, State
from udpproxy.supervisor.roles import ChildEvents

WATCHDOG = 5.0
"""Seconds without a sign of life after which a child is killed."""
START_LIMIT = 10.0
"""Seconds that a child may take until it is ready."""
RETRY, LONGEST_RETRY = 0.5, 4.0
"""Seconds between attempts to start a child that the system does not let us start; they grow
where there is no room for it."""
KILL_LIMIT = 2.0
"""Seconds that the system may take to end a child that was killed."""
_A_TURN = 64
"""Signs of life that are read before the loop turns: anybody of our user can send them."""

_CREDENTIALS = struct.Struct("=iII")
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONUNBUFFERED", "JOURNAL_STREAM")


class ForkSupervisor:
    """Starts and replaces the children: processes of the module `child`."""

    def __init__(
        self, logs: Logs, child: str, instance: str, directory: Path, events: ChildEvents
    ) -> None:
        self._logs = logs
        self._child = child
        self._instance = instance
        self._directory = directory
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._children: dict[str, Forked] = {}
        self._leaving: list[Forked] = []
        """Children of roles that were dropped, until they are gone."""
        self._stopping = False
        self._left_in_order = True
        self._notify = self._listen(directory / "notify")
        self._loop.add_reader(self._notify.fileno(), self._notified)
        self._timer = self._loop.call_later(1.0, self._look)

    def start(self, role: str, policy: RestartPolicy) -> None:
        """Have a child in that role from now on."""
        if self._stopping:
            return
        child = self._children[role] = Forked(self._child, role, policy)
        self._do(policy.start(), child)

    def vouch(self, pid: int, uid: int) -> str:
        """The role of that process, "" where it is none of ours. As long as a child is not reaped
        nobody else can have its number."""
        ours = uid in (0, os.getuid()) and pid > 0
        return next((one.role for one in self._running() if ours and one.pid == pid), "")

    def knows(self, role: str, pid: int) -> bool:
        """Is that process our child in that role?"""
        child = self._children.get(role)
        return child is not None and child.pid == pid > 0

    def children(self) -> dict[str, Forked]:
        """By role."""
        return self._children

    def entered(self, role: str, pid: int) -> None:
        """Its link: we know it by its process already."""

    def ready(self, role: str) -> None:
        """It has told us so already."""

    def left(self, role: str) -> None:
        """Its process tells us more."""

    def discard(self, role: str) -> None:
        """Kill it; its end is seen like any other."""
        if role in self._children:
            self._children[role].kill()

    def drop(self, role: str, limit: float) -> None:
        """Have no child in that role any more: asked to leave, killed after `limit` seconds."""
        child = self._children.pop(role)
        child.policy.stop()
        if not child.pid:
            return
        self._leaving.append(child)
        child.signal(signal.SIGTERM)
        self._loop.call_later(limit, self._hurry, child, limit)

    def _hurry(self, child: Forked, limit: float) -> None:
        if child in self._leaving:
            self._logs.say(messages.CHILD_KILLED, child.role, child.pid, limit, PROCESS=child.role)
            child.signal(signal.SIGKILL)

    def expect_end(self) -> None:
        """We ask them ourselves."""

    async def stop(self, limit: float) -> bool:
        """End all children: asked first, killed and named after `limit` seconds. False: not every
        one left by itself and in order."""
        self._stopping = True
        for child in self._children.values():
            child.policy.stop()
            child.signal(signal.SIGTERM)
        await self._all_gone(limit)
        for child in self._running():
            self._logs.say(messages.CHILD_KILLED, child.role, child.pid, limit, PROCESS=child.role)
            child.signal(signal.SIGKILL)
        await self._all_gone(KILL_LIMIT)
        for child in self._running():
            self._logs.say(messages.CHILD_LEFT_ALONE, child.role, child.pid, KILL_LIMIT)
            self._left_in_order = False
        return self._left_in_order

    def _running(self) -> list[Forked]:
        return [child for child in (*self._children.values(), *self._leaving) if child.pid]

    async def _all_gone(self, limit: float) -> None:
        waits = [child.gone.wait() for child in self._running()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waits), limit)

    def close(self) -> None:
        """After stop()."""
        self._timer.cancel()
        self._loop.remove_reader(self._notify.fileno())
        self._notify.close()
        try:
            (self._directory / "notify").unlink(missing_ok=True)
        except OSError as problem:
            # It is the last step of an end that was in order otherwise.
            self._logs.say(messages.CLEAN_UP_FAILED, "notify socket", problem)

    def _listen(self, path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            path.unlink(missing_ok=True)
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(str(path))
        except OSError as problem:
            sock.close()
            raise UnitError("notify socket", f"{path}: {problem.strerror}") from None
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
        try:
            child.spawn(self._instance, environment)
        except NoRoom as problem:
            # It passes, and is no end of a child.
            if child.why_not != problem.reason:
                self._not_started(child, problem)
                child.pause = RETRY
            child.why_not = problem.reason
            self._loop.call_later(child.pause, self._again, child)
            child.pause = min(2 * child.pause, LONGEST_RETRY)
            return
        except UnitError as problem:
            self._not_started(child, problem)
            self._loop.call_later(RETRY, self._replace, child)
            return
        child.why_not = ""
        child.looks = 0
        self._loop.add_reader(child.pidfd, self._exited, child)
        self._logs.say(messages.CHILD_STARTED, child.role, child.pid)

    def _not_started(self, child: Forked, problem: UnitError) -> None:
        self._logs.say(messages.CHILD_NOT_STARTED, child.role, problem.reason, PROCESS=child.role)

    def _exited(self, child: Forked) -> None:
        self._loop.remove_reader(child.pidfd)
        pid, end = child.pid, child.reap()
        asked = child.policy.state is State.STOPPING
        what = child.policy.exited(self._loop.time())
        if child in self._leaving:
            self._leaving.remove(child)
        if asked:
            orderly = in_order(end)
            self._left_in_order = self._left_in_order and orderly
            message = messages.CHILD_LEFT if orderly else messages.CHILD_LEFT_BADLY
            self._logs.say(message, child.role, pid, describe(end), PROCESS=child.role)
            return
        self._logs.say(messages.CHILD_ENDED, child.role, pid, describe(end), PROCESS=child.role)
        self._events.ended_unasked(child.role, killed=was_killed(end) and not child.killed)
        self._do(what, child)

    def _again(self, child: Forked) -> None:
        if child.policy.state is State.STARTING:
            self._spawn(child)

    def _replace(self, child: Forked) -> None:
        """A start that failed for good counts like an end."""
        self._do(child.policy.exited(self._loop.time()), child)

    def _do(self, what: NextStep, child: Forked) -> None:
        if what is NextStep.SPAWN:
            self._spawn(child)
        elif what is NextStep.GIVE_UP:
            self._events.given_up(child.role)

    def _notified(self) -> None:
        for _ in range(_A_TURN):
            try:
                data, control, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return
            pid = _sender(control)
            for child in self._running():
                if child.pid == pid:
                    self._heard(child, data.decode("ascii", "replace").split("\n"))

    def _heard(self, child: Forked, lines: list[str]) -> None:
        child.looks = 0
        if "READY=1" in lines and child.policy.state is State.STARTING:
            child.policy.ready()

    def _look(self) -> None:
        """Kill who is silent; his end is then seen like any other. Looks are counted, not seconds:
        we may have been stopped or frozen ourselves, and nobody was silent then."""
        self._timer = self._loop.call_later(1.0, self._look)
        self._notified()  # whoever has spoken meanwhile
        for child in self._running():
            if child.policy.state is State.STOPPING:
                continue  # stop() has a limit of its own
            patience = START_LIMIT if child.policy.state is State.STARTING else WATCHDOG
            child.looks += 1
            if child.looks > patience:
                self._logs.say(messages.CHILD_SILENT, child.role, child.pid)
                child.kill()


def _sender(control: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(_CREDENTIALS.unpack_from(data)[0])
    return 0
