"""One control group per machine: two machines in one would see and kill each other's units.

The group's name holds the pid of the process that made it, so that what a killed test run left
running can be told from what runs for another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

PREFIX = "udp-proxy-test"
# Enters the groups named before "--", then becomes the command behind it.
ENTER = (
    'until [ "$1" = -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
)


def hierarchies() -> list[Path]:
    """Where systemd keeps units: the unified hierarchy and, on a hybrid host, its named one."""
    found: dict[tuple[int, int], Path] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split(" ")
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            status = Path(place).stat()
            # A hierarchy can be mounted at several places, for a chroot for example.
            found.setdefault((status.st_dev, status.st_ino), Path(place))
    return list(found.values())


class Group:
    def __init__(self, name: str) -> None:
        self.places = [place / f"{PREFIX}-{os.getpid()}-{name}" for place in hierarchies()]

    def create(self) -> None:
        if not self.places:
            raise OSError(errno.ENOENT, "no cgroup hierarchy is mounted that systemd could use")
        for place in self.places:
            place.mkdir()

    def entered_by(self, command: list[str]) -> list[str]:
        return ["/bin/sh", "-c", ENTER, "sh", *map(str, self.places), "--", *command]

    def remove(self) -> None:
        for place in self.places:
            _remove(place)


def sweep() -> list[str]:
    """Ends the machines of test runs that are no more: their names."""
    ended = set()
    for hierarchy in hierarchies():
        for place in hierarchy.glob(f"{PREFIX}-*"):
            maker, _, name = place.name.removeprefix(f"{PREFIX}-").partition("-")
            if not Path("/proc", maker).exists():
                _remove(place)
                ended.add(name)
    return sorted(ended)


def _remove(place: Path, timeout: float = 5.0) -> None:
    """Ends the processes of the group and of those below until it is empty and gone."""
    deadline = time.monotonic() + timeout
    while place.exists():
        for directory, _, _ in os.walk(place, topdown=False):
            with contextlib.suppress(OSError):  # not empty yet, or gone with its last process
                for process in Path(directory, "cgroup.procs").read_text().split():
                    os.kill(int(process), signal.SIGKILL)
                Path(directory).rmdir()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{place} is still in use")
        time.sleep(0.01)
