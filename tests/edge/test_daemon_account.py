"""Root controls a daemon whose files are where its account can write: that leads root nowhere."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from accounts import OTHER, own_directory
from daemons import DONE, STALE, USER, Daemon, status_of
from proxy import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def test_directory_that_is_another_at_the_end(tmp_path: Path) -> None:
    """What is removed is what was opened, not what has the same name behind a link."""
    with Daemon(tmp_path / "one") as daemon:
        theirs = own_directory(daemon.directory / "theirs", USER)
        roots = own_directory(tmp_path / "roots", 0)
        daemon.pid_file = theirs / "one.pid"
        pid = daemon.start()
        others = {roots / "one.pid", roots / "one.lock"}
        for path in others:
            path.touch()
        os.kill(pid, signal.SIGSTOP)
        with subprocess.Popen(daemon.words("stop"), env=daemon.environment) as stop:
            # SIGTERM waits until it goes on.
            until(lambda: int(status_of(pid)["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1)
            theirs.rename(daemon.directory / "old")
            theirs.symlink_to(roots)
            os.kill(pid, signal.SIGCONT)
        assert stop.returncode == DONE
        assert set(roots.iterdir()) == others


@pytest.mark.parametrize("action", ["start", "stop"])
def test_stale_file_that_names_a_daemon_of_another(tmp_path: Path, action: str) -> None:
    """What is waited for, and killed at last, are the account's own processes."""
    account = f'user = "#{OTHER}"'
    with (
        Daemon(tmp_path / "one") as daemon,
        Daemon(tmp_path / "other", account=account, more="# no log") as other,
    ):
        pid, reg = other.start(), other.reg_pid()
        daemon.pid_file.write_text(f"{pid}\n")
        os.chown(daemon.pid_file, USER, USER)
        assert daemon.result(action) == STALE
        assert other.reg_pid() == reg
