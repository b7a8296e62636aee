"""Signals to a process of ours: a storm is survived, and no kind is missed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from proxy import until
from udpproxy.process import signals

STORM = 1000
KINDS = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, int(signals.INFO)]

CHILD = """
import sys
from udpproxy.process.loop import EpollLoop
from udpproxy.process.signals import TERMINATE, Signals

caught, loop, seen = Signals(), EpollLoop(), {}

def deliver():
    numbers = caught.read()
    assert len(numbers) == len(set(numbers))
    for number in numbers:
        seen[number] = seen.get(number, 0) + 1
        if number in TERMINATE:
            loop.stop()

loop.add_reader(caught.fileno(), deliver)
assert caught.read() == []
print("ready", flush=True)
loop.run()
loop.close()
caught.close()
print({int(number): count for number, count in seen.items()})
"""


class Child:
    """Says what it saw when it is told to go."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def pending(self) -> bool:
        """Is a signal waiting that the child has not read yet?"""
        with open(f"/proc/{self.process.pid}/status") as status:  # noqa: PTH123
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["SigPnd"], 16) | int(lines["ShdPnd"], 16) != 0

    def farewell(self, number: int = signal.SIGTERM) -> dict[int, int]:
        until(lambda: not self.pending())
        self.send(number)
        said, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return {int(kind): int(count) for kind, count in (
            pair.split(": ") for pair in said.strip("{}\n").split(", ")
        )}  # fmt: skip


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.process.kill()
    child.process.wait()
    assert child.process.stdout
    child.process.stdout.close()


def test_a_storm_is_survived_and_no_kind_is_missed(child: Child) -> None:
    for _ in range(STORM):
        for kind in KINDS:
            child.send(kind)
    seen = child.farewell()
    assert set(seen) == {*map(int, KINDS), signal.SIGTERM}
    assert all(1 <= seen[int(kind)] <= STORM for kind in KINDS)


def test_signals_with_time_between_them_all_count(child: Child) -> None:
    for _ in range(5):
        child.send(signal.SIGUSR1)
        until(lambda: not child.pending(), step=0.001)
    assert child.farewell()[signal.SIGUSR1] == 5


@pytest.mark.parametrize("number", signals.TERMINATE)
def test_all_four_that_terminate(child: Child, number: int) -> None:
    assert child.farewell(number) == {number: 1}


def test_what_is_blocked_is_inherited() -> None:
    """A child is protected from birth."""
    script = "import os, signal, sys; os.kill(os.getpid(), signal.SIGUSR1); print('alive')"
    command = (
        "import subprocess, sys; from udpproxy.process import signals; signals.block(); "
        f"sys.exit(subprocess.run([sys.executable, '-c', {script!r}]).returncode)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"alive\n")
