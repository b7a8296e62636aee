"""Which unit a process is of: systemd says it by the control group that it has put it in.

Asked of the groups, not of /proc/PID: that may show a unit nothing but its own user's processes
(ProtectProc=invisible), and children can have a user of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_HIERARCHIES = {"": "unified", "name=systemd": "systemd"}
"""Where the trees of systemd are where there are others beside them."""
_MOST_GROUPS = 10_000
"""Looked through where a unit is not beside ours: a host has some hundreds."""


def is_in(pid: int, unit: str) -> bool:
    """Has systemd put that process into that unit? A user's own manager can name units as it likes,
    but only below its user: these do not count, unless we are there ourselves, as in a container
    that somebody started."""
    return any(pid in _members(group) for group in _groups(unit))


def _groups(unit: str) -> Iterator[Path]:
    """First where it is by default: in the slice of ours."""
    for root, ours in _trees():
        beside = root.joinpath(*ours[:-1], unit)
        if beside.is_dir():
            yield beside
    for root, ours in _trees():
        left = _MOST_GROUPS
        for place, below, _ in os.walk(root):
            below[:] = [name for name in below if name in ours or not _is_of_a_user(name)]
            if unit in below:
                yield Path(place, unit)
            left -= 1
            if not left:
                break


def _trees() -> Iterator[tuple[Path, list[str]]]:
    """Each of systemd's, with the way to our own group."""
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in _HIERARCHIES:
            alone = _ROOT / _HIERARCHIES[controllers]
            yield (alone if alone.is_dir() else _ROOT), path.strip("/").split("/")


def _is_of_a_user(name: str) -> bool:
    return name == "user.slice" or name.startswith("user@")


def _members(group: Path) -> set[int]:
    try:
        return {int(word) for word in (group / "cgroup.procs").read_text("ascii").split()}
    except OSError:  # it is gone
        return set()
