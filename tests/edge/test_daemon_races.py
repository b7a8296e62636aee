"""Many commands at once, daemons that are killed meanwhile, recycled numbers, storms of signals."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemons import ALREADY, DONE, FAILED, NOT_RUNNING, STALE, Daemon
from host import tool

TESTS = Path(__file__).parents[1]
COMMANDS = int(os.environ.get("COMMANDS", "60"))
STORM = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, int(signal.SIGRTMIN)]

# One interpreter that has everything imported, and a fork of it for each command line.
MANY = """
import os, sys
from udpproxy.cli import daemon_actions
from udpproxy.cli.main import main
from udpproxy.daemon import launch as birth
begun = {}
for number, line in enumerate(sys.stdin.read().splitlines()):
    pid = os.fork()
    if pid == 0:
        out = os.open(f"{sys.argv[1]}/{number}", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = main(line.split("\\t"))
        sys.stdout.flush()
        os._exit(status)
    begun[pid] = number
while begun:
    pid, status = os.wait()
    print(begun.pop(pid), os.waitstatus_to_exitcode(status), flush=True)
"""


class Crowd:
    """That many commands at once; `results` by action, in no order."""

    def __init__(self, daemon: Daemon, actions: list[str]) -> None:
        said = daemon.directory.parent / "said"
        said.mkdir()
        self.results: dict[str, collections.Counter[int]] = {
            action: collections.Counter() for action in actions
        }
        lines = ["\t".join(daemon.words(action)[3:]) for action in actions]
        done = subprocess.run(
            [sys.executable, "-c", MANY, said],
            input="\n".join(lines),
            env=daemon.environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=200,
            check=True,
        )
        self.failures = []
        self.numbers = set()
        """Those that `status` told."""
        for number, result in (map(int, line.split()) for line in done.stdout.splitlines()):
            text = (said / str(number)).read_text()
            self.results[actions[number]][result] += 1
            if result == FAILED:
                self.failures.append(text)
            if found := re.search(r"is running as process (\d+)", text):
                self.numbers.add(int(found[1]))


class Watch(threading.Thread):
    """Looks all the time how many daemons of that instance there are; kills them at random."""

    def __init__(self, daemon: Daemon, killing: random.Random | None) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self._killing = killing
        self._over = threading.Event()
        self.most = 0
        self.seen: set[int] = set()
        self.killed: set[int] = set()

    def run(self) -> None:
        while not self._over.wait(0.02):
            running = [p for p, role in self._daemon.processes().items() if role == "daemon"]
            self.most = max(self.most, len(running))
            self.seen.update(running)
            if self._killing and running and self._killing.random() < 0.03:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running[0], signal.SIGKILL)
                    self.killed.add(running[0])

    def end(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def watched(daemon: Daemon, killing: random.Random | None = None) -> Iterator[Watch]:
    watch = Watch(daemon, killing)
    watch.start()
    try:
        yield watch
    finally:
        watch.end()


def ready(daemon: Daemon) -> set[int]:
    """The numbers of all daemons that got so far."""
    lines = daemon.said("UDPS-100-I")
    return {int(line.partition("[")[2].partition("]")[0]) for line in lines}


def some_actions(dice: random.Random, stops: int) -> list[str]:
    """So many stops in a hundred, and few, for each brings a whole start after it."""
    actions = ["stop"] * (COMMANDS * stops // 100) + ["status"] * (COMMANDS // 10)
    actions += ["start"] * (COMMANDS - len(actions))
    dice.shuffle(actions)
    return actions


def test_many_commands_at_once(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one") as daemon:
        with watched(daemon) as watch:
            crowd = Crowd(daemon, some_actions(random.Random(1), stops=7))
        started, stopped, asked = (crowd.results[each] for each in ("start", "stop", "status"))
        assert crowd.failures == []
        assert set(started) <= {DONE, ALREADY}
        assert set(stopped) <= {DONE, ALREADY}
        assert set(asked) <= {DONE, NOT_RUNNING}
        # Each stop ended one daemon, each start made one, and so it is at the end.
        runs = list(daemon.processes().values()).count("daemon")
        assert started[DONE] - stopped[DONE] == runs
        assert started[DONE] == len(daemon.said("UDPS-100-I")) == len(ready(daemon))
        assert watch.most == 1
        assert crowd.numbers | watch.seen <= ready(daemon)
        assert daemon.result("status") == (DONE if runs else NOT_RUNNING)
        assert daemon.result("stop") == (DONE if runs else ALREADY)
        assert daemon.left() == set()


def test_commands_at_once_while_daemons_are_killed(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one") as daemon:
        with watched(daemon, random.Random(2)) as watch:
            crowd = Crowd(daemon, some_actions(random.Random(3), stops=5))
        assert watch.killed
        for text in crowd.failures:
            assert "ended by itself, signal SIGKILL" in text
        started, stopped = crowd.results["start"], crowd.results["stop"]
        assert set(started) <= {DONE, ALREADY, STALE, FAILED}
        assert set(stopped) <= {DONE, ALREADY, STALE}
        assert watch.most == 1
        assert crowd.numbers <= ready(daemon) | watch.seen
        # Whatever was started was stopped, was killed, or is there.
        runs = list(daemon.processes().values()).count("daemon")
        begun = started[DONE] + started[STALE]
        assert stopped[DONE] + runs <= begun <= stopped[DONE] + len(watch.killed) + runs
        assert daemon.result("status") in ((DONE,) if runs else (NOT_RUNNING, STALE))
        assert daemon.result("stop") in ((DONE,) if runs else (ALREADY, STALE))
        assert (daemon.processes(), daemon.left() - {"run"}) == ({}, set())


@pytest.mark.parametrize("scenario", ["one_after_the_other", "in_the_middle", "at_random"])
def test_recycled_numbers(tmp_path: Path, scenario: str) -> None:
    done = subprocess.run(
        [tool("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child", "--net",
         sys.executable, TESTS / "recycled.py", scenario, tmp_path / "one"],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr
