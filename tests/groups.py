"""Control groups named like units, as systemd makes them: whoever is in one is that unit's."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_UNIFIED = Path("/sys/fs/cgroup/unified")
GROUPS = _UNIFIED if _UNIFIED.exists() else Path("/sys/fs/cgroup")


@contextlib.contextmanager
def unit(name: str) -> Iterator[Path]:
    """A control group of that name, as systemd makes one for a unit; in one of its own, for other
    runs of the tests have units of the same name."""
    try:
        slice_ = Path(tempfile.mkdtemp(prefix="udpp.", dir=GROUPS))
    except OSError as problem:
        pytest.skip(f"no control group: {problem}")
    path = slice_ / name
    try:
        path.mkdir()
        yield path
    finally:
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (GROUPS / "cgroup.procs").write_text(pid)
        path.rmdir()
        slice_.rmdir()


def inside(group: Path) -> tuple[str, ...]:
    """What begins a command that runs in it."""
    return "/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"
