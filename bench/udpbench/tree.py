"""CPU time and memory of a process with all its descendants.

CPU: each process's own clock, which is exact to the nanosecond and keeps the time of threads that
have ended (the sum over /proc/PID/task/*/schedstat loses it), and what reaped children have used.
Memory: proportional set size, so that pages shared by parent and children count once.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h: the clock of process N is (~N << 3) | 2
_PPID, _CUTIME, _CSTIME = 1, 13, 14  # places after the command's name in /proc/PID/stat


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def processes(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[1-9]*"):
        if fields := _stat(int(entry.name)):
            children.setdefault(int(fields[_PPID]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _cpu_of(pid: int) -> float:
    fields = _stat(pid)
    if fields is None:
        return 0.0
    reaped = (int(fields[_CUTIME]) + int(fields[_CSTIME])) / _TICK
    try:
        return reaped + time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return reaped


def cpu_seconds(root: int) -> float:
    return sum(_cpu_of(pid) for pid in processes(root))


def memory_kib(root: int) -> int:
    total = 0
    for pid in processes(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def kill(root: int) -> None:
    for pid in processes(root):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
