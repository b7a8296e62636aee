"""A daemon in a storm of signals, from its birth to its last moment: none kills it, none is lost,
none counts twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemons import DONE, Daemon, status_of
from proxy import until

STORM = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, int(signal.SIGRTMIN)]
UP, DOWN, REOPEN, INFO = STORM
SAID = {UP: "UDPS-300-I", DOWN: "UDPS-300-I", REOPEN: "UDPS-301-I", INFO: "UDPS-302-I"}
PARENT = "udp-proxy/one["
GAP = 0.0005
"""Seconds between two gusts, so that the daemon gets on with its own work on a small machine."""


class Storm(threading.Thread):
    """All four, again and again, to the daemon that this command starts."""

    def __init__(self, daemon: Daemon, command: int) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self._command = command
        self._over = threading.Event()
        self.pid = 0
        self.gusts = 0

    def run(self) -> None:
        children = Path(f"/proc/{self._command}/task/{self._command}/children")
        while not self.pid and not self._over.is_set():
            with contextlib.suppress(FileNotFoundError):
                self.pid = int(children.read_text() or 0)
        if not self.pid:
            return
        pidfd = os.pidfd_open(self.pid)
        try:
            while not self._over.wait(GAP):
                for number in STORM:
                    signal.pidfd_send_signal(pidfd, number)
                self.gusts += 1
        except ProcessLookupError:
            pass  # it has gone, as it was told to
        finally:
            os.close(pidfd)

    def end(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def starting(daemon: Daemon) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        daemon.words("start"), env=daemon.environment, stderr=subprocess.PIPE, text=True
    ) as command:
        yield command


@contextmanager
def storm(daemon: Daemon, command: int) -> Iterator[Storm]:
    blowing = Storm(daemon, command)
    blowing.start()
    try:
        yield blowing
    finally:
        blowing.end()


def test_storm_from_birth_to_death(tmp_path: Path) -> None:
    # Of equal signals that wait together one counts, and so the level goes up and down at random:
    # from here it does not come so low that what follows is not said.
    with Daemon(tmp_path / "one") as daemon:
        daemon.file.write_text(daemon.file.read_text() + 'level = "full"\n')
        with starting(daemon) as command, storm(daemon, command.pid) as blowing:
            _, said = command.communicate(timeout=60)
            assert (command.returncode, said) == (DONE, "")
            ready = blowing.gusts
            assert daemon.pid == blowing.pid
            assert daemon.result("stop") == DONE
        assert ready > 10
        assert blowing.gusts > ready
        assert daemon.processes() == {}
        ours = [line for line in daemon.log if PARENT in line]
        for what in SAID.values():
            assert any(f" {what} " in line for line in ours), what
        assert "UDPS-104-I stopped with 0 sessions ended" in daemon.log[-1]
        assert not daemon.said("UDPS-201-W"), "no child was ended by it"


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_each_signal_counts_once_whenever_it_comes(tmp_path: Path, delay: float) -> None:
    """One of each, so many seconds after the birth: at all stages of a start."""
    with Daemon(tmp_path / "one") as daemon, starting(daemon) as command:
        born = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        pid = until(lambda: int(born.read_text() or 0), step=0.0002)
        time.sleep(delay)
        # Until it executes our program it is the command itself that we would see.
        for number in STORM:
            os.kill(pid, number)
        assert command.wait(60) == DONE
        for what in set(SAID.values()):
            until(lambda what=what: parents(daemon, what))  # type: ignore[misc]
        assert daemon.result("stop") == DONE
        counts = {what: len(parents(daemon, what)) for what in SAID.values()}
        # Log level up, and down again.
        assert counts == {"UDPS-300-I": 2, "UDPS-301-I": 1, "UDPS-302-I": 1}


def parents(daemon: Daemon, what: str) -> list[str]:
    return [line for line in daemon.said(f" {what} ") if PARENT in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_terminate_at_birth_is_an_end_in_order(tmp_path: Path, number: int) -> None:
    with Daemon(tmp_path / "one") as daemon, starting(daemon) as command:
        born = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        pid = until(lambda: int(born.read_text() or 0), step=0.0002)
        os.kill(pid, number)
        _, said = command.communicate(timeout=60)
        # It was ready before it saw the signal, or it left: never killed by it.
        assert f"signal {signal.Signals(number).name}" not in said
        until(lambda: not daemon.processes(), 15)
        assert daemon.said(f"UDPS-103-I stopping: signal {signal.Signals(number).name}")
        assert daemon.said("UDPS-104-I")


def test_no_signal_of_ours_has_a_handler(tmp_path: Path) -> None:
    """They are blocked for good and read; Python's own for SIGINT is never run."""
    with Daemon(tmp_path / "one") as daemon:
        status = status_of(daemon.start())
        ours = {1, 2, 3, 15, *map(int, STORM)}
        assert {each for each in ours if int(status["SigBlk"], 16) >> each - 1 & 1} == ours
        caught = {each for each in ours if int(status["SigCgt"], 16) >> each - 1 & 1}
        assert caught <= {signal.SIGINT}
