"""A child as a unit before it has found its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AGAIN = 75


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
