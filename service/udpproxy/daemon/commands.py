"""What can be done to a daemon: each action alone, under its guard file, and true to the end.

A signal goes through a pidfd. It is opened first; then the lock must still be held, the number be
the same, and that process have the file open: so it is the daemon's, and stays its own whoever gets
the number next.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from udpproxy.daemon import leftover_children
from udpproxy.daemon.pidfile import STARTING, Guard, PidFile, PidFileStatus, State
from udpproxy.errors import UnitError
from udpproxy.identity import Identity

DONE, ALREADY, NOT_RUNNING, FAILED, STALE = 0, 100, 101, 102, 103
"""The results, which are exit statuses (SPEC 9)."""
SETTLE_LIMIT = 10.0
"""Seconds that a daemon whose command is gone may be starting or about to leave."""
KILL_LIMIT = 5.0
"""Seconds that the system may take to end a daemon that was killed."""
_STEP = 0.01
_DOUBT = 1.0
"""Seconds for which a dying process can hold a lock without having the file open."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`text` is for people; empty where there is nothing to say."""

    result: int
    text: str = ""


class DaemonCommands:
    """One daemon, known by its files. Every action raises UnitError where it fails."""

    def __init__(self, identity: Identity, name: str, pid_file: Path, guard_file: Path) -> None:
        self._module = identity.child
        self._name = name
        self._pid_file = pid_file
        self._guard_file = guard_file

    def status(self) -> Outcome:
        """Does it run?"""
        with self._file(create=False) as file, self._running(file) as (look, _):
            if look.state is State.RUNNING:
                return Outcome(DONE, f"{self._name} is running as process {look.pid}")
            return self._not_running(look)

    def start(self, launch: Callable[[int], None]) -> Outcome:
        """`launch` gets the locked descriptor, and returns once the daemon is ready; where it
        raises, nothing of the daemon is left."""
        with self._file(create=True) as file:
            assert file
            with self._running(file) as (look, _):
                if look.state is State.RUNNING:
                    return Outcome(ALREADY, f"{self._name} was running as process {look.pid}")
            if not file.hold():
                raise UnitError("PID file", f"{file.path} is locked by another program")
            stale = look.state is State.STALE
            leftover_children.wait(self._module, look.pid, file.owner())
            file.write(STARTING)
            try:
                launch(file.descriptor)
            except BaseException:
                file.remove()
                raise
        text = f"{self._name} had crashed, and was started again"
        return Outcome(STALE, text) if stale else Outcome(DONE)

    def stop(self, limit: float, *, force: bool) -> Outcome:
        """Told to terminate, and waited for; with `force` it is killed after `limit` seconds."""
        with self._file(create=False) as file:
            look = file.look() if file else PidFileStatus(State.FREE, 0)
            if look.state in (State.RUNNING, State.UNDER_WAY):
                assert file
                return self._end(file, limit, force=force)
            if file:
                leftover_children.wait(self._module, look.pid, file.owner())
                file.remove()
            if look.state is State.STALE:
                return Outcome(STALE, f"{self._name} had crashed; its PID file is removed")
            return Outcome(ALREADY, f"{self._name} was not running")

    def signal(self, number: int) -> Outcome:
        """That signal, to the daemon's main process."""
        return self.while_running(lambda pidfd, _: signal.pidfd_send_signal(pidfd, number))

    def while_running(self, act: Callable[[int, int], None]) -> Outcome:
        """`act` gets the daemon's pidfd and number."""
        with self._file(create=False) as file:
            while True:
                with self._running(file) as (look, pidfd):
                    if look.state is not State.RUNNING:
                        return self._not_running(look)
                    try:
                        act(pidfd, look.pid)
                    except ProcessLookupError:
                        continue  # it ended meanwhile, as the file tells in a moment
                    except PermissionError:
                        raise UnitError(self._name, "only its own user and root may") from None
                    return Outcome(DONE)

    def _end(self, file: PidFile, limit: float, *, force: bool) -> Outcome:
        deadline, killed = time.monotonic() + limit, False
        with contextlib.ExitStack() as stack:
            pid, pidfd = 0, -1
            while (look := file.look()).state in (State.RUNNING, State.UNDER_WAY):
                if look.state is State.RUNNING and pidfd < 0:
                    _, pidfd = stack.enter_context(self._running(file))
                    pid = look.pid
                    _send(pidfd, signal.SIGTERM)
                if time.monotonic() > deadline:
                    if killed or not force or pidfd < 0:
                        raise UnitError(self._name, f"has not ended within {limit:g} s")
                    killed, deadline = True, time.monotonic() + KILL_LIMIT
                    _send(pidfd, signal.SIGKILL)
                _wait(pidfd)
        if look.state is State.STALE and not leftover_children.wait(
            self._module, pid, file.owner()
        ):
            raise UnitError(self._name, "has ended, but not all of its child processes")
        file.remove()
        return Outcome(DONE, f"{self._name} was killed" if killed else "")

    @contextlib.contextmanager
    def _file(self, *, create: bool) -> Iterator[PidFile | None]:
        """The opened PID file, under the guard."""
        if self._guard_file == self._pid_file:
            raise UnitError("guard file", "it cannot be the PID file itself")
        with Guard(self._guard_file, self._pid_file):
            file = PidFile.opened(self._pid_file, create=create)
            try:
                yield file
            finally:
                if file:
                    file.close()

    @contextlib.contextmanager
    def _running(self, file: PidFile | None) -> Iterator[tuple[PidFileStatus, int]]:
        """What the file tells, and where it is a daemon's number that daemon's pidfd, else -1."""
        look, pidfd = self._checked(file) if file else (PidFileStatus(State.FREE, 0), -1)
        try:
            yield look, pidfd
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def _checked(self, file: PidFile) -> tuple[PidFileStatus, int]:
        settled, doubted = time.monotonic() + SETTLE_LIMIT, 0.0
        while True:
            look, now = file.look(), time.monotonic()
            if look.state in (State.FREE, State.STALE):
                return look, -1
            if look.state is State.UNDER_WAY:
                if now > settled:
                    raise UnitError(
                        "PID file", f"{file.path}: {look.state.value} for {SETTLE_LIMIT:g} s"
                    )
            elif (pidfd := _opened(file, look)) >= 0:
                return look, pidfd
            else:
                doubted = doubted or now
                if now > doubted + _DOUBT:
                    raise UnitError(
                        "PID file", f"{file.path} is locked, but not by process {look.pid}"
                    )
            time.sleep(_STEP)

    def _not_running(self, look: PidFileStatus) -> Outcome:
        if look.state is State.STALE:
            return Outcome(STALE, f"{self._name} has crashed: its PID file is stale")
        return Outcome(NOT_RUNNING, f"{self._name} is not running")


def _opened(file: PidFile, look: PidFileStatus) -> int:
    """A pidfd that is the daemon's for sure, or -1: it is gone, or another process holds on."""
    try:
        pidfd = os.pidfd_open(look.pid)
    except OSError:
        return -1
    if file.look() == look and file.is_open_in(look.pid) and file.speaks_for(look.pid):
        return pidfd
    os.close(pidfd)
    return -1


def _send(pidfd: int, number: int) -> None:
    if pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)


def _wait(pidfd: int) -> None:
    """A moment, or less where it ends."""
    ended = select.poll()
    if pidfd >= 0:
        ended.register(pidfd, select.POLLIN)
    ended.poll(_STEP * 1000)
