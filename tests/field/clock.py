"""A clock of the processes' own that can be set (clock.c): CLOCK_REALTIME, not how time goes on."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
DAY = 86_400
_INSTALL = """
import os, sys
if {library!r} not in os.environ.get("LD_PRELOAD", ""):
    before = os.environ.get("LD_PRELOAD", "")
    os.environ["LD_PRELOAD"] = f"{{before}} {library}".strip()
    os.environ["FIELD_CLOCK"] = {file!r}
    os.execv(sys.executable, sys.orig_argv)
"""
"""Children get PYTHONPATH and no LD_PRELOAD: each process begins once more with it, before anything
else."""


class Clock:
    """For the processes with `environment`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        library, self._file = directory / "clock.so", directory / "step"
        words = ["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([*words, str(_SOURCE)], check=True)
        self.step(0)
        text = _INSTALL.format(library=str(library), file=str(self._file))
        (directory / "sitecustomize.py").write_text(text)
        self.environment = {"PYTHONPATH": str(directory)}

    def step(self, seconds: int) -> None:
        """So far from the true time from now on."""
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(fd, struct.pack("=q", seconds), 0)  # never cut: they have it mapped
        finally:
            os.close(fd)
