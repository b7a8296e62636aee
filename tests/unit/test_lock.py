"""Locks by name, while the name comes and goes."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from udpproxy.daemon import pidfile
from udpproxy.daemon.pidfile import Guard
from udpproxy.errors import UnitError
from udpproxy.instance.runtime_directory import AlreadyRunning, RuntimeDirectory
from udpproxy.process import lock
from udpproxy.process.privileges import Account
from udpproxy.proxy.identity import IDENTITY

SECONDS = 2.0
PROCESSES = 3


def place(directory: Path) -> Callable[[], None] | None:
    try:
        held = RuntimeDirectory(IDENTITY, directory / "run", Account(None, None))
    except AlreadyRunning:
        return None
    return held.leave


def folder(directory: Path) -> Callable[[], None] | None:
    """As an instance does that has made its directory, and removes it."""
    path = directory / "folder"

    def opened() -> int:
        while True:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    try:
        descriptor = lock.hold(opened, path)
    except BlockingIOError:
        return None

    def leave() -> None:
        path.rmdir()
        os.close(descriptor)

    return leave


def guard(directory: Path) -> Callable[[], None] | None:
    held = Guard(directory / "guard", directory / "pid")
    held.__enter__()
    return held.__exit__


def compete(
    take: Callable[[Path], Callable[[], None] | None], directory: Path, own: int, inside: mmap.mmap
) -> int:
    """The exit status: 0, nobody was there beside us; 2, we have hardly been there."""
    deadline, holds = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline:
        if (leave := take(directory)) is None:
            continue
        holds += 1
        inside[own] = 1
        if sum(inside[:PROCESSES]) > 1:
            return 1
        inside[own] = 0
        leave()
    return 0 if holds > 20 else 2


@pytest.mark.parametrize("take", [place, folder, guard])
def test_nobody_holds_it_beside_another(
    tmp_path: Path, take: Callable[[Path], Callable[[], None] | None]
) -> None:
    with mmap.mmap(-1, PROCESSES) as inside:
        pids = []
        for own in range(PROCESSES):
            if (pid := os.fork()) == 0:
                status = 3
                try:
                    status = compete(take, tmp_path, own, inside)
                finally:
                    os._exit(status)
            pids.append(pid)
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert ends == [0] * PROCESSES


def test_a_guard_that_stays_locked_is_waited_for_and_then_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pidfile, "GUARD_LIMIT", 0.3)
    begun = time.monotonic()
    with Guard(tmp_path / "guard", tmp_path / "pid"):
        with pytest.raises(UnitError, match=r"another program has had it locked for 0\.3 s"):
            Guard(tmp_path / "guard", tmp_path / "pid").__enter__()
        assert 0.3 <= time.monotonic() - begun < 5
    with Guard(tmp_path / "guard", tmp_path / "pid"):
        pass


def test_a_name_that_leads_elsewhere_each_time_is_given_up(tmp_path: Path) -> None:
    path, opened = tmp_path / "name", []

    def open_and_replace() -> int:
        path.write_bytes(b"")
        opened.append(os.open(path, os.O_RDWR))
        path.unlink()
        return opened[-1]

    with pytest.raises(BlockingIOError):
        lock.hold(open_and_replace, path)
    assert len(opened) > 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[-1])
