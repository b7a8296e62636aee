"""The two files that make control of a daemon safe.

The PID file has the daemon's number and a newline. It is locked (flock) as long as the daemon
lives, by a descriptor that the daemon inherits: the kernel lets go of it on any death, so a number
without a lock is stale, whoever has that number now. While the daemon is not there yet the file
says `(starting)`, which is no number; a daemon that leaves empties it.

The guard file is locked around every action, so one command never sees another half done.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from udpproxy.errors import UnitError
from udpproxy.process import lock, paths

STARTING = b"(starting)\n"
_NUMBER = re.compile(rb"([1-9][0-9]{0,9})\n")
GUARD_LIMIT = 300.0
"""Seconds to wait for other commands. Whoever may write above the file can lock it, for ever."""
_MOST = 32
_FLAGS = os.O_NONBLOCK


class State(enum.Enum):
    """What a PID file tells."""

    FREE = "not running"
    STALE = "crashed"
    UNDER_WAY = "starting or about to leave"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class PidFileStatus:
    """`pid` is what the file says, 0 where it says none."""

    state: State
    pid: int


class PidFile:
    """An opened PID file. Its mode is 0600: whoever can read it could lock it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self.path = path

    @classmethod
    def opened(cls, path: Path, *, create: bool) -> PidFile | None:
        """None where there is none, unless it is to be created; UnitError for what cannot be
        one."""
        flags = _FLAGS | os.O_RDWR | (os.O_CREAT if create else 0)
        try:
            file = cls(paths.open_file(path, flags, 0o600), path)
        except OSError as problem:
            if isinstance(problem, FileNotFoundError) and not create:
                return None
            raise UnitError("PID file", f"{path}: {problem.strerror}") from None
        if not stat.S_ISREG(os.fstat(file.descriptor).st_mode):
            file.close()
            raise UnitError("PID file", f"{path} is no regular file")
        return file

    def look(self) -> PidFileStatus:
        """What it tells now; UnitError where its content is not of our making."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            try:
                pid, empty = self._read()
            finally:
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            return PidFileStatus(State.FREE if empty else State.STALE, pid)
        pid, _ = self._read()
        return PidFileStatus(State.RUNNING if pid else State.UNDER_WAY, pid)

    def hold(self) -> bool:
        """Lock it, for as long as this descriptor or an inherited one is open. False: it is."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, content: bytes) -> None:
        """In place of what it says. A reader sees the old, nothing, or the new."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, content, 0)

    def is_open_in(self, pid: int) -> bool:
        """Has that process this very file open? Also True where we may not look (proc(5))."""
        ours = os.fstat(self.descriptor)
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - thousands, at times
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(ours, os.stat(f"/proc/{pid}/fd/{name}")):  # noqa: PTH116
                        return True
        except PermissionError:
            return True
        except OSError:
            return False
        return False

    def owner(self) -> int:
        """Whose file it is, and so whose word: but for root's it is true of his processes only."""
        return os.fstat(self.descriptor).st_uid

    def speaks_for(self, pid: int) -> bool:
        """An account names its own processes only. Root reads its file, too, and would signal for
        it any process that it has made hold the file open, by a descriptor in a message."""
        try:
            return self.owner() in (0, os.stat(f"/proc/{pid}").st_uid)  # noqa: PTH116
        except OSError:
            return False

    def remove(self) -> None:
        """Nobody is there any more. Where the directory is not ours an empty file stays."""
        self.write(b"")
        with contextlib.suppress(OSError):
            paths.remove(self.path, self.descriptor)

    def close(self) -> None:
        """The lock stays where the descriptor was inherited."""
        os.close(self.descriptor)

    def _read(self) -> tuple[int, bool]:
        """(the number or 0, is it empty)"""
        content = os.pread(self.descriptor, _MOST, 0)
        if content in (b"", STARTING):
            return 0, not content
        number = _NUMBER.fullmatch(content)
        if number is None:
            raise UnitError("PID file", f"{self.path} holds something else: it is left alone")
        return int(number[1]), False


class Guard:
    """A context manager: whoever else acts on this daemon waits. It removes its file where the
    PID file is gone, too."""

    def __init__(self, path: Path, pid_path: Path) -> None:
        self._path = path
        self._pid_path = pid_path
        self._descriptor = -1

    def __enter__(self) -> Guard:
        try:
            self._descriptor = lock.hold(self._opened, self._path, patience=GUARD_LIMIT)
        except BlockingIOError:
            why = f"{self._path}: another program has had it locked for {GUARD_LIMIT:g} s"
            raise UnitError("guard file", f"{why}: see `fuser {self._path}`") from None
        return self

    def __exit__(self, *problem: object) -> None:
        if not os.path.lexists(self._pid_path):
            with contextlib.suppress(OSError):
                paths.remove(self._path, self._descriptor)
        os.close(self._descriptor)

    def _opened(self) -> int:
        try:
            return paths.open_file(self._path, _FLAGS | os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as problem:
            raise UnitError("guard file", f"{self._path}: {problem.strerror}") from None


def guard_path(pid_path: Path) -> Path:
    """The guard file where none is given."""
    if pid_path.suffix == ".pid":
        return pid_path.with_suffix(".lock")
    return pid_path.with_name(f"{pid_path.name}.lock")
