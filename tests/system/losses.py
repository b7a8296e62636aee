"""What clients lost while things happened to the proxy: a table at the end of the test run."""

from __future__ import annotations

import fcntl

from system.package import ROOT
from system.service import Report

PLACE = ROOT / "build" / "system-losses.txt"
_HEAD = ("release", "event", "sent", "lost", "of sessions", "pause ms", "p99 ms", "")
_rows: list[tuple[str, ...]] = [_HEAD]


def note(release: str, event: str, report: Report, remark: str = "") -> None:
    """One row; `pause` is the longest time in which nobody had an answer."""
    counts = map(str, (report.sent, report.lost, report.lost_sessions))
    times = (f"{1000 * seconds:.0f}" for seconds in (report.gap, report.p99))
    _rows.append((release, event, *counts, *times, remark))


def lines() -> list[str]:
    """The table, or nothing where nothing was noted."""
    if len(_rows) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*_rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in _rows
    ]


def save(table: list[str]) -> None:
    """Where it can be read after the run, under what other runs have seen of other releases."""
    PLACE.parent.mkdir(exist_ok=True)
    ours = {row[0] for row in _rows}
    with PLACE.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the other release's run ends at the same time
        file.seek(0)
        others = [line for line in file.read().splitlines() if line.split()[0] not in ours]
        file.truncate(0)
        file.write("\n".join([table[0], *others, *table[1:]]) + "\n")
