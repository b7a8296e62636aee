"""Inside a PID namespace, as its first process: daemons are killed and their numbers given to
bystanders on purpose, while commands act on them. Nothing a command does may hit a bystander.

    unshare --pid --fork --mount-proc python3 tests/recycled.py SCENARIO DIRECTORY
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from daemons import ALREADY, DONE, FAILED, NOT_RUNNING, STALE, Daemon
from udpproxy.cli.main import main

LAST = Path("/proc/sys/kernel/ns_last_pid")


ours: set[int] = set()
"""Processes whose end is waited for by name."""


def forked(work: Callable[[], int]) -> int:
    """A process that does that work and ends with what it returns; its number."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = work()
        finally:
            sys.stderr.flush()
            os._exit(status)
    ours.add(pid)
    return pid


def waited(pid: int) -> int:
    """How it ended."""
    ours.discard(pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def reap() -> None:
    """The orphans that ended: they are for the first process of a namespace."""
    me = os.getpid()
    for word in Path(f"/proc/{me}/task/{me}/children").read_text().split():
        if int(word) not in ours:
            os.waitpid(int(word), os.WNOHANG)


def kill(pid: int) -> None:
    """End that process, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    ours.discard(pid)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        reap()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def idle() -> int:
    """Until somebody ends it."""
    time.sleep(600)
    return 0


class Bystander:
    """A process with a number of our choice, which any signal would end."""

    def __init__(self, pid: int) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            LAST.write_text(str(pid - 1))
            self.pid = forked(idle)
            if self.pid == pid:
                return
            # Somebody was faster, or the session of that number has a process yet.
            kill(self.pid)
        raise AssertionError(f"number {pid} cannot be had")

    def end(self) -> None:
        """It must be there still, and unharmed."""
        assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), "a bystander was signalled"
        kill(self.pid)


def one_after_the_other(daemon: Daemon) -> None:
    """Every command, at a file whose number is a bystander's now."""
    for words in (["status"], ["signal", "--signal", "KILL"], ["reload"], ["stop", "--force"]):
        number = daemon.start()
        kill(number)
        bystander = Bystander(number)
        assert daemon.result(*words) == STALE, words
        bystander.end()
    number = daemon.start()
    kill(number)
    bystander = Bystander(number)
    assert daemon.result("start") == STALE
    assert daemon.pid != number
    assert daemon.result("stop") == DONE
    bystander.end()


def in_the_middle(daemon: Daemon) -> None:
    """The number is given away just before, and just after, the command opens its pidfd."""
    for moment in ("before", "after"):
        for words in (["signal", "--signal", "KILL"], ["stop"]):
            number = daemon.start()
            opened, bystanders = os.pidfd_open, list[Bystander]()

            def opening(pid: int, flags: int = 0) -> int:
                descriptor = opened(pid) if moment == "after" else -1  # noqa: B023
                if not bystanders:  # noqa: B023
                    kill(pid)
                    bystanders.append(Bystander(pid))  # noqa: B023
                return descriptor if moment == "after" else opened(pid)  # noqa: B023

            os.pidfd_open = opening
            try:
                # Here, not in a process of its own: only so it can be cut in two.
                result = main(daemon.words(*words)[3:])
            finally:
                os.pidfd_open = opened
            assert result == (DONE if words == ["stop"] else STALE), (moment, words, result)
            (bystander,) = bystanders
            assert bystander.pid == number
            bystander.end()
            assert daemon.result("stop") == (ALREADY if words == ["stop"] else STALE)


def at_random(daemon: Daemon) -> None:
    """Commands by the dozen, and a killer with bystanders between them."""
    dice = random.Random(20261122)
    actions = (["start"], ["start"], ["stop"], ["status"], ["signal", "--signal", "TERM"])
    for _ in range(8):
        running = {}
        for _ in range(6):
            words = daemon.words(*dice.choice(actions))[3:]
            running[forked(lambda words=words: main(words))] = words[1]  # type: ignore[misc]
        bystanders = []
        time.sleep(dice.random() * 0.8)
        with contextlib.suppress(OSError, ValueError):
            number = daemon.pid
            if number in daemon.processes():
                kill(number)
                bystanders.append(Bystander(number))
        for pid, action in running.items():
            assert waited(pid) in EXPECTED[action], action
        for bystander in bystanders:
            bystander.end()
        assert list(daemon.processes().values()).count("daemon") <= 1
        reap()


EXPECTED = {
    # A start fails where the daemon is killed on its way.
    "start": (DONE, ALREADY, STALE, FAILED),
    "stop": (DONE, ALREADY, STALE),
    "status": (DONE, NOT_RUNNING, STALE),
    "signal": (DONE, NOT_RUNNING, STALE),
}
SCENARIOS = {work.__name__: work for work in (one_after_the_other, in_the_middle, at_random)}

if __name__ == "__main__":
    with Daemon(Path(sys.argv[2])) as instance:
        os.environ.update(instance.environment)
        SCENARIOS[sys.argv[1]](instance)
        # The last daemon goes with the namespace otherwise, and says nothing of its end.
        instance.result("stop")
        reap()
    print("done")
