"""What happens to processes: stopped or frozen for a while, short of descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from proxy import until

_FREEZERS = (Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """They do nothing meanwhile (SIGSTOP), as on a host that is far too busy."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def stop_for(pid: int, seconds: float) -> None:
    """The same for so long."""
    with stopped(pid):
        time.sleep(seconds)


@contextlib.contextmanager
def frozen(pids: Iterable[int]) -> Iterator[str]:
    """By a cgroup of their own, all at once, as `systemctl freeze`, containers and the suspension
    of a machine do it; SIGSTOP where no cgroup can be made. Which of them it was."""
    which = list(pids)
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(_cgroup(which))
        except OSError:
            stack.enter_context(stopped(*which))
            yield "SIGSTOP"
            return
        stack.enter_context(_frozen(group))
        yield "cgroup"


@contextlib.contextmanager
def _cgroup(pids: list[int]) -> Iterator[Path]:
    """One that can freeze, with these processes in it; of version 1 or 2."""
    top = next((each for each in _FREEZERS if (each / "cgroup.procs").exists()), None)
    if top is None:
        raise FileNotFoundError("no cgroups")
    group = top / f"udpproxy-field-{os.getpid()}"
    group.mkdir()
    old = {pid: top / _path_of(pid, top).lstrip("/") / "cgroup.procs" for pid in pids}
    try:
        if not any((group / name).exists() for name in ("freezer.state", "cgroup.freeze")):
            raise FileNotFoundError("no freezer")
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        for pid, home in old.items():
            with contextlib.suppress(OSError):  # it has ended
                home.write_text(str(pid))
        until(lambda: not (group / "cgroup.procs").read_text().split())
        group.rmdir()


def _path_of(pid: int, top: Path) -> str:
    """A process's place below that cgroup file system."""
    name = "freezer" if top.name == "freezer" else ""
    lines = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return next(path for _, kinds, path in lines if kinds == name)


@contextlib.contextmanager
def _frozen(group: Path) -> Iterator[None]:
    first = group / "freezer.state"
    switch, on, off = (first, "FROZEN", "THAWED") if first.exists() else (
        group / "cgroup.freeze", "1", "0")  # fmt: skip
    state = group / "cgroup.events" if not first.exists() else first
    mark = "FROZEN" if first.exists() else "frozen 1"
    switch.write_text(on)
    try:
        until(lambda: mark in state.read_text())
        yield
    finally:
        switch.write_text(off)


@contextlib.contextmanager
def few_descriptors(pid: int, more: int) -> Iterator[None]:
    """It can open so many more, and no others."""
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = sorted(int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir())
    limits = range(used[-1] + more + 2)
    limit = max(each for each in limits if each - sum(fd < each for fd in used) == more)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, usual[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
