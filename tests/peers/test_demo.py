"""`make run`: what one sees first, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from namespaces import Network

DEMO = Path(__file__).parents[2] / "tools" / "demo"


@pytest.fixture
def network() -> Iterator[Network]:
    """A host whose ports are all free, whatever runs beside us."""
    with Network() as made:
        made.add("one")
        yield made


def test_one_question_without_a_terminal(network: Network) -> None:
    done = subprocess.run(
        [*network.prefix("one"), DEMO], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "192.0.2.80\n" in done.stdout
    assert done.stdout.count("UDPP-888-I") == 1
    assert done.stdout.count("sessions-opened ") == 1


def test_a_terminal_shows_everything_once_until_ctrl_c(network: Network) -> None:
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [*network.prefix("one"), DEMO], stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        while b"--runtime-dir /" not in shown.partition(b"Try in another")[2]:
            shown += os.read(ours, 4096)
        command = shown.decode().splitlines()[-1].strip().split()
        sessions = subprocess.run(
            command, cwd=DEMO.parents[1], capture_output=True, text=True, check=False
        )
        assert (sessions.returncode, sessions.stderr) == (0, "")
        os.killpg(process.pid, signal.SIGINT)
        try:
            while more := os.read(ours, 4096):
                shown += more
        except OSError:
            pass  # everybody has closed it
        assert process.wait(30) == 0
    os.close(ours)
    assert shown.count(b"sessions-opened") == 1
    assert shown.count(b"UDPP-888-I") == 1


def test_a_second_one_is_told_why(network: Network) -> None:
    sock = network.on("one", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.bind(("127.0.0.1", 5300))
        done = subprocess.run(
            [*network.prefix("one"), DEMO], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr == ("port 5300 of 127.0.0.1 is taken: is another `make run` up?\n")
