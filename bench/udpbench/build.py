"""Places of the benchmark, and its two C programs, compiled when their sources are newer."""

from __future__ import annotations

import subprocess
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
PROJECT = BENCH.parent
OUTPUT = PROJECT / "build" / "bench"
_SOURCES = {
    "udpload": [BENCH / "udpload.c", *sorted((BENCH / "load").glob("*.c"))],
    "echo": [BENCH / "echo.c"],
}
_HEADER = BENCH / "load" / "load.h"


def compiled(name: str) -> Path:
    program = OUTPUT / name
    sources = _SOURCES[name]
    newest = max(path.stat().st_mtime for path in (*sources, _HEADER))
    if not program.exists() or program.stat().st_mtime < newest:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        options = ["-std=gnu17", "-O2", "-Wall", "-Wextra"]
        subprocess.run(["cc", *options, "-o", program, *sources], check=True)
    return program
