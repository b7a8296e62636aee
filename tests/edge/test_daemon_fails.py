"""Every step of a start that can fail: the command says why, and nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemons import DONE, FAILED, NOT_RUNNING, Daemon
from host import is_bound
from proxy import until

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

REG = """import sys
if 'udpproxy.child' in sys.orig_argv:
    import os, time
    {sin}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "one") as daemon:
        yield daemon


@contextmanager
def nothing_stays(daemon: Daemon, *but: str) -> Iterator[None]:
    """Files, processes and ports are as before, and a start works once nothing is in the way."""
    before = daemon.left()
    yield
    assert daemon.left() - set(but) == before
    assert daemon.processes() == {}
    assert not is_bound(daemon.port)


def fails(daemon: Daemon, said: str, *options: object, prefix: Sequence[str] = ()) -> str:
    done = daemon.do("start", *options, prefix=prefix)
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert said in done.stderr
    assert "udp-proxy: one: start failed: " in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_port_that_somebody_has(daemon: Daemon) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", daemon.port))
        before = daemon.left()
        fails(daemon, f"UDPS-520-E cannot start: listen on 127.0.0.1 port {daemon.port}: Address")
        assert (daemon.left(), daemon.processes()) == (before, {})
    assert daemon.result("status") == NOT_RUNNING
    assert daemon.result("start") == DONE


def test_file_with_mistakes(daemon: Daemon) -> None:
    daemon.file.write_text("max-sessions = 0\ncolour = 1\n")
    with nothing_stays(daemon):
        said = fails(daemon, f"{daemon.file}:1: max-sessions: ")
        assert f"{daemon.file}:2: colour: " in said
        assert "exit status 78" in said


def test_file_that_is_missing(daemon: Daemon) -> None:
    daemon.file.unlink()
    with nothing_stays(daemon):
        fails(daemon, "cannot be read: No such file")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('user = "nobody-of-that-name"', "there is no user 'nobody-of-that-name'"),
        ('group = "nobody-of-that-name"', "there is no group 'nobody-of-that-name'"),
        ('user = "#4294967295"', "is no user's or group's number"),
    ],
)
def test_user_that_is_missing(tmp_path: Path, keys: str, said: str) -> None:
    with Daemon(tmp_path / "one", account=keys) as daemon, nothing_stays(daemon):
        fails(daemon, said)


def test_user_that_only_root_can_become(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one", account='user = "daemon"', more="# stderr") as daemon:
        daemon.directory.chmod(0o777)
        with nothing_stays(daemon):
            fails(daemon, "only root can become somebody else", prefix=NOBODY)


def test_program_that_the_account_cannot_reach(tmp_path: Path) -> None:
    """As in a home that is closed to others."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    python = str(shutil.copy(os.path.realpath(sys.executable), closed))
    with Daemon(tmp_path / "one") as daemon, nothing_stays(daemon):
        daemon.environment["PYTHONPATH"] = ":".join(sys.path)
        instead = ["sh", "-c", 'shift; exec "$0" "$@"', python]
        reason = f"UDPS-208-E reg cannot be started: {python}: Permission denied"
        said = fails(daemon, reason, prefix=instead)
        assert "UDPS-510-C" in said


def test_pid_file_where_it_cannot_be(daemon: Daemon) -> None:
    for path, said in (
        (daemon.directory / "none" / "one.pid", "No such file or directory"),
        (daemon.file / "one.pid", "Not a directory"),
        (daemon.directory, "guard file"),
    ):
        with nothing_stays(daemon):
            daemon.pid_file = path
            fails(daemon, said, *(["--guard-file", path] if path == daemon.directory else []))


def test_pid_file_that_may_not_be_written(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one") as daemon, nothing_stays(daemon):
        fails(daemon, "guard file: ", prefix=NOBODY)
        guard = tmp_path / "guard"
        guard.touch(mode=0o666)
        guard.chmod(0o666)
        said = fails(daemon, "PID file: ", "--guard-file", guard, prefix=NOBODY)
        assert "Permission denied" in said


def test_runtime_directory_that_cannot_be(daemon: Daemon) -> None:
    daemon.runtime = daemon.file / "run"
    with nothing_stays(daemon):
        fails(daemon, "runtime directory: ")


def test_log_file_that_cannot_be(tmp_path: Path) -> None:
    """stderr is gone already then: the reason comes all the same."""
    log = f'[log]\ntarget = "file"\nfile = "{tmp_path}/none/log"'
    with Daemon(tmp_path / "one", more=log) as daemon, nothing_stays(daemon):
        fails(daemon, "none/log: No such file or directory")


def test_instance_that_runs_in_the_foreground(daemon: Daemon) -> None:
    with subprocess.Popen(daemon.words("start", "--simulate"), env=daemon.environment) as process:
        until(lambda: daemon.said("UDPS-100-I"), 15)
        assert "exit status 75" in fails(daemon, "already running in")
        assert daemon.result("status") == NOT_RUNNING
        process.terminate()
    assert process.returncode == 0


def sinful(daemon: Daemon, sin: str) -> None:
    """Its REG does that in place of its work."""
    directory = daemon.directory.parent / "sins"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(REG.format(sin=sin))
    daemon.environment["PYTHONPATH"] = str(directory)


def test_child_that_cannot_be_kept_alive(daemon: Daemon) -> None:
    sinful(daemon, "os._exit(9)")
    with nothing_stays(daemon):
        said = fails(daemon, "UDPS-510-C too many terminated children: reg ended 5 times")
        assert "ended unasked: exit status 9" in said
        assert "exit status 69" in said


def test_child_that_does_not_get_ready(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one", top="stop-timeout = 0.5") as daemon:
        sinful(daemon, "time.sleep(600)")
        with nothing_stays(daemon):
            fails(daemon, "not ready within 1.5 s", "--timeout", "1.5")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_command_that_is_told_to_go(tmp_path: Path, number: int) -> None:
    """Ctrl-C on a start gives it up, in order."""
    with Daemon(tmp_path / "one", top="stop-timeout = 0.5") as daemon:
        sinful(daemon, "time.sleep(600)")
        with nothing_stays(daemon):
            command = subprocess.Popen(
                daemon.words("start"), env=daemon.environment, stderr=subprocess.PIPE, text=True
            )
            until(lambda: daemon.reg_pid(), step=0.001)
            command.send_signal(number)
            _, said = command.communicate(timeout=20)
            assert command.returncode == FAILED
            assert f"given up: {signal.Signals(number).name}" in said


def test_daemon_that_is_killed_on_the_way(daemon: Daemon) -> None:
    sinful(daemon, "time.sleep(600)")
    with nothing_stays(daemon, "run"):
        command = subprocess.Popen(
            daemon.words("start"), env=daemon.environment, stderr=subprocess.PIPE, text=True
        )
        until(lambda: daemon.reg_pid(), step=0.001)
        (pid,) = (pid for pid, role in daemon.processes().items() if role == "daemon")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, said = command.communicate(timeout=20)
        assert (command.returncode, "ended by itself, signal SIGKILL" in said) == (FAILED, True)
