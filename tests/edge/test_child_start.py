"""A child as a unit before it has found its parent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NO_PARENT, AGAIN = 69, 75


def test_the_directory_of_a_parent_that_has_ended() -> None:
    """It is bound into the unit's view, and stays there: systemd has to try again."""
    place = Path(tempfile.mkdtemp(dir="/dev/shm"))  # a tmpfs, as /run is
    descriptor = os.open(place, os.O_RDONLY)
    try:
        place.rmdir()
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "udpproxy.child", "reg", "one"],
            env=os.environ | {"RUNTIME_DIRECTORY": f"/proc/self/fd/{descriptor}"},
            pass_fds=[descriptor],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "no parent" in done.stderr) == (AGAIN, True)
        assert time.monotonic() - begun < 8.0, "before it would have given up"
    finally:
        os.close(descriptor)


def test_no_parent_is_no_failure(tmp_path: Path) -> None:
    """It says that it is ready, for a unit that leaves before has failed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "udpproxy.child", "reg", "one"],
            env=os.environ
            | {"RUNTIME_DIRECTORY": str(tmp_path), "NOTIFY_SOCKET": str(tmp_path / "notify")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == NO_PARENT
        assert f"UDPS-106-N there is no parent: {tmp_path}/children.sock: " in done.stderr
        assert b"READY=1" in systemd.recv(1000)
