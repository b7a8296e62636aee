"""One child process: started, signalled through its pidfd, and reaped with all that it started.

A child leads a process group of its own, so Ctrl-C on a terminal is for the parent alone, and
what a child started itself can be found: until the child is reaped, nobody else can have its
number, and the group that bears it is signalled just before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys

from udpproxy.errors import UnitError
from udpproxy.process.privileges import PARENT
from udpproxy.supervisor.lifecycle import RestartPolicy

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class NoRoom(UnitError):
    """The system lacks descriptors, memory or process numbers, which says nothing of the child."""


class Forked:
    """A role, and what is known of its present process; `pid` is 0 while there is none."""

    def __init__(self, module: str, role: str, policy: RestartPolicy) -> None:
        """`module` is what runs in it."""
        self._module = module
        self.role = role
        self.policy = policy
        self.pid = 0
        self.pidfd = -1
        self.killed = False
        """By us, for what it did."""
        self.looks = 0
        """How often, once a second, it was looked at since its last sign of life."""
        self.why_not = ""
        """Why there was no room for it at the last attempt."""
        self.pause = 0.0
        self.gone = asyncio.Event()
        self.gone.set()
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, instance: str, environment: dict[str, str]) -> None:
        """Start its process; UnitError where the system does not let us, NoRoom for now."""
        try:
            self._process = self._started(instance, environment)
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError as problem:
            if self._process:
                self._process.kill()
                self._process.wait()
                self._process = None
            where = f"{problem.filename}: " if problem.filename else ""
            kind = NoRoom if problem.errno in _NO_ROOM else UnitError
            raise kind(self.role, f"{where}{problem.strerror}") from None
        self.pid = self._process.pid
        self.killed = False
        self.gone.clear()

    def _started(self, instance: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        # -P: nothing is imported from where we happen to stand. It inherits our mask of signals,
        # which are blocked.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self._module, self.role, instance],
            env=environment | {PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            process_group=0,
        )

    def kill(self) -> None:
        """It cannot go on."""
        self.killed = True
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """To this very process, if it is still there."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> os.waitid_result:
        """It has ended: how. Whatever it left in its group is killed."""
        assert self._process
        end = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
        assert end is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        os.close(self.pidfd)
        self.pid, self.pidfd = 0, -1
        self.gone.set()
        return end
