"""What holds for every test: it leaves no process, descriptor, thread or blocked signal behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from built import expect_native
from field import matrix
from rig import ENGINES, Rig

CLAIMS = os.environ.get("PARTS_CLAIMED", "")
"""A directory, where parts that run at the same time say which files they have begun."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """For halves of a suite that run side by side."""
    parser.addoption("--part", metavar="NofM", help="of so many parts of the files, that one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those of one part: every so many-th file, or whatever no other part has begun (below)."""
    if not (part := config.getoption("--part")):
        return
    files = list(dict.fromkeys(item.path for item in items))
    if CLAIMS:
        # From the end: whole instances are there, and what is short is a good last.
        items.sort(key=lambda item: files.index(item.path), reverse=True)
        return
    number, of = map(int, part.split("of"))
    chosen = {path for at, path in enumerate(files, 1) if at % of == number % of}
    config.hook.pytest_deselected(items=[item for item in items if item.path not in chosen])
    items[:] = [item for item in items if item.path in chosen]


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """As pytest's own, but each file is run by the part that comes to it first."""
    if not (CLAIMS and session.config.getoption("--part")) or session.config.option.collectonly:
        return None
    if session.testsfailed and not session.config.option.continue_on_collection_errors:
        raise session.Interrupted(f"{session.testsfailed} errors during collection")
    claimed = _claimed(session.items)
    item = next(claimed, None)
    while item is not None:
        after = next(claimed, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = after
    return True


def _claimed(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    for path, its in itertools.groupby(items, key=lambda item: item.path):
        name = str(path).replace("/", "-")
        try:
            (Path(CLAIMS) / name).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield from its


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What test_weather.py has found, also without -s."""
    stats = terminalreporter.stats
    lines = [*matrix.lines(report for reports in stats.values() for report in reports)]
    if lines:
        terminalreporter.section(matrix.TITLE)
    for line in lines:
        terminalreporter.write_line(line)


def _children() -> dict[str, str]:
    found: dict[str, str] = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ends meanwhile has no children
            for pid in (task / "children").read_text().split():
                found[f"process {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()
    return found


def _descriptors() -> dict[str, str]:
    found: dict[str, str] = {}
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - thousands, at times
        with contextlib.suppress(OSError):  # the one of the listing itself
            found[f"descriptor {number}"] = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
    return found


def _threads() -> dict[str, str]:
    return {f"thread {thread.ident}": thread.name for thread in threading.enumerate()}


def _belongings() -> set[tuple[str, str]]:
    return {*_children().items(), *_descriptors().items(), *_threads().items()}


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = _belongings()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    # Whatever another test starts would have the mask, too, and hear no SIGTERM.
    leaked = signal.pthread_sigmask(signal.SIG_SETMASK, blocked) - blocked
    assert not leaked, f"left blocked: {sorted(leaked)}"
    left = _belongings() - before
    if left:
        gc.collect()
        left = _belongings() - before
    assert not left, f"left behind: {sorted(left)}"


@pytest.fixture
def native() -> None:
    """The native engine is here, or the test fails."""
    expect_native()


@pytest.fixture(params=ENGINES)
def new_rig(request: pytest.FixtureRequest) -> Iterator[Callable[..., Rig]]:
    """Rigs over each engine there is; call it with Rig's keyword arguments."""
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> Rig:
            rig = Rig(ENGINES[request.param], **options)  # type: ignore[arg-type]
            stack.callback(rig.close)
            return rig

        yield make


@pytest.fixture
def rig(new_rig: Callable[..., Rig]) -> Rig:
    """The usual one: eight sessions, both families."""
    return new_rig()
