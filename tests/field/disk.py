"""A file system of a few kilobytes in a process's own mount namespace, and what fills it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from host import tool

_MOUNTS = """
mount -t tmpfs -o mode=755,size=$1 none "$2"
mount --bind "$3" /etc/resolv.conf
shift 3
exec "$@"
"""


def own_mounts(disk: Path, size: str, resolv: Path) -> list[str]:
    """A prefix: a disk of that size, and a resolv.conf that the test writes."""
    disk.mkdir(exist_ok=True)
    resolv.touch()
    return [tool("unshare"), "--mount", "sh", "-ec", _MOUNTS, "sh", size, str(disk), str(resolv)]


def seen_by(pid: int, path: Path) -> Path:
    """A path as that process finds it."""
    return Path(f"/proc/{pid}/root") / path.relative_to("/")


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte more goes there."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    try:
        yield
    finally:
        ballast.unlink()
