"""From the command to the daemon: a new process in a session of its own, watched until it is ready.

Our signals are blocked before it is born, and it inherits that: none can kill it on the way. Those
that tell the command to go are read here, and end the start in order.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from udpproxy.daemon import leftover_children
from udpproxy.errors import UnitError
from udpproxy.identity import Identity
from udpproxy.process.ends import describe
from udpproxy.process.signals import TERMINATE, Signals

READY, SAID = b"ready\n", b": "
"""What the daemon writes: a line of its own, and what begins a line for people."""
GIVE_UP_LIMIT = 15.0
"""Seconds that a daemon has to leave after a start that is given up."""


class DaemonStart:
    """One start; `limit` in seconds until it must be ready."""

    def __init__(
        self,
        identity: Identity,
        file: Path,
        *,
        level: str | None,
        runtime_dir: Path | None,
        limit: float,
    ) -> None:
        self._identity = identity
        self._file = file.absolute()
        self._limit = limit
        self._options: list[str] = []
        if level:
            self._options += ["--level", level]
        if runtime_dir:
            self._options += ["--runtime-dir", str(runtime_dir.absolute())]

    def launch(self, lock: int) -> None:
        """Return when it is ready; UnitError, and nothing is left of it, where it fails. `lock` is
        the PID file's descriptor."""
        signals = Signals()
        ours, its = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            process = self._spawn(lock, its)
        finally:
            os.close(its)
        try:
            _Waiting(self._identity, process, ours, signals, self._limit).run()
        finally:
            os.close(ours)
            signals.close()

    def _spawn(self, lock: int, report: int) -> subprocess.Popen[bytes]:
        descriptors = [f"--pid-file={lock}", f"--report={report}"]
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", self._identity.daemon,
                 self._file.stem, str(self._file), *descriptors, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(lock, report),
                start_new_session=True,
                umask=0o022,
                cwd="/",
            )  # fmt: skip
        except OSError as problem:
            raise UnitError("start", f"{problem.strerror}") from None


class _Waiting:
    """The command between the daemon's birth and its readiness."""

    def __init__(
        self,
        identity: Identity,
        process: subprocess.Popen[bytes],
        report: int,
        signals: Signals,
        limit: float,
    ) -> None:
        self._identity = identity
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._report = report
        self._signals = signals
        self._limit = limit
        self._heard = b""
        self._poll = select.poll()
        for descriptor in (self._pidfd, report, signals.fileno()):
            self._poll.register(descriptor, select.POLLIN)

    def run(self) -> None:
        deadline = time.monotonic() + self._limit
        try:
            while not self._is_ready(deadline):
                if self._ended():
                    raise UnitError("start", f"it ended by itself, {self._how()}")
                if told := set(self._signals.read()) & set(TERMINATE):
                    raise UnitError("start", f"given up: {signal.Signals(told.pop()).name}")
                if time.monotonic() > deadline:
                    raise UnitError("start", f"not ready within {self._limit:g} s")
            # It is nobody's child from now on.
            self._process.returncode = 0
        except BaseException:
            self._undo()
            raise
        finally:
            os.close(self._pidfd)

    def _is_ready(self, deadline: float) -> bool:
        """Wait for news; what it says is for people."""
        self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        return self._listen()

    def _listen(self) -> bool:
        try:
            data = os.read(self._report, 65536)
        except BlockingIOError:
            return False
        if not data:
            # Closed: all else comes from the process's end.
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._report)
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            if line + b"\n" == READY:
                return True
            sys.stderr.write(f"{self._identity.name}{SAID.decode()}{line[len(SAID) :].decode()}\n")
        return False

    def _ended(self) -> bool:
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(0):
            return False
        while self._report_waits():
            self._listen()
        return True

    def _report_waits(self) -> bool:
        waiting = select.poll()
        waiting.register(self._report, select.POLLIN)
        return any(event & select.POLLIN for _, event in waiting.poll(0))

    def _how(self) -> str:
        end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        return describe(end) if end else ""

    def _undo(self) -> None:
        """Whatever it was doing, it ends."""
        for number, limit in ((signal.SIGTERM, GIVE_UP_LIMIT), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(limit)
                break
        leftover_children.wait(self._identity.child, self._process.pid)
