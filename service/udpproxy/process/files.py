"""Log lines in a file that others rotate.

Several processes append to one file, a line in one write. Renamed (and made anew), it is reopened
by its name; copied and truncated, it goes on at its new end, and for as long as that takes the
lines can be held. On a full disk lines wait, and none stays there cut in half.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from udpproxy.process import paths
from udpproxy.process.sinks import Entry, Sink

# Without O_NONBLOCK a pipe in the file's place could keep us waiting.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
_MODE, _SHARED_MODE = 0o640, 0o660


def _open(path: Path) -> int:
    """A file that is made is the group's to write, whatever the umask, where the group may make
    files beside it: so it is with units, whose children have a user of their own."""
    try:
        shared = bool(path.parent.stat().st_mode & stat.S_IWGRP)
    except OSError:
        shared = False  # to open the file says better what is wrong
    if not shared:
        return paths.open_file(path, _FLAGS, _MODE)
    # Not by fchmod(2) afterwards: another process of ours opens it at the same time.
    before = os.umask(0o007)
    try:
        return paths.open_file(path, _FLAGS, _SHARED_MODE)
    finally:
        os.umask(before)


def give(path: Path, uid: int, gid: int) -> None:
    """Make the file if it is missing, for an account that may not. In a directory where others
    than root can write nothing is done: the account opens it there with its own rights. OSError."""
    try:
        with paths.directory(path.parent) as above:
            if not above.private:
                return
            descriptor = paths.open_in(above, path, _FLAGS, _MODE)
    except OSError as problem:
        raise type(problem)(problem.errno, problem.strerror, str(path)) from None
    try:
        kind = os.fstat(descriptor).st_mode
        # Never a device, as /dev/null is.
        if stat.S_ISREG(kind) or stat.S_ISFIFO(kind):
            os.fchown(descriptor, uid, gid)
    finally:
        os.close(descriptor)


class FileSink(Sink):
    """Lines in a file, reopened after a rotation."""

    def __init__(self, who: str, path: Path) -> None:
        """OSError where the file cannot be written."""
        super().__init__(who)
        self._path = path
        self._fd = _open(path)

    @property
    def waiting(self) -> int:
        """Lines that were not taken yet; some wait together."""
        return sum(lines.count(b"\n") for lines in self._waiting)

    def reopen(self) -> None:
        """The file by its name; OSError, and the old one stays open, where that fails."""
        self.held = False
        fresh = _open(self._path)
        os.close(self._fd)
        self._fd = fresh
        self.flush()

    def close(self) -> None:
        """What still waits gets a last try."""
        self.held = False
        super().close()
        os.close(self._fd)

    def emit_lines(self, ident: str, severity: str, texts: list[str]) -> None:
        """All in one write, where nothing waits."""
        head = self._line(Entry(ident, severity, "", "", {}))[:-1]
        lines = [head + text.encode("utf-8", "backslashreplace") + b"\n" for text in texts]
        done = 0 if self._waiting else self._write(b"".join(lines))
        for line in lines:
            done -= len(line)
            if done < 0:
                self._put(line[done:])
                done = 0

    def _format(self, entry: Entry) -> bytes:
        return self._line(entry)

    def _write(self, line: bytes) -> int:
        if self.held:
            return 0
        try:
            done = os.write(self._fd, line)
        except OSError:
            return 0  # a full disk: it waits until there is room
        if done < len(line):
            done -= self._taken_back(done - line.rfind(b"\n", 0, done) - 1)
        return done

    def _taken_back(self, length: int) -> int:
        """The disk took half a line: out with it, before another process writes behind it."""
        try:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if os.fstat(self._fd).st_size != end:
                return 0
            os.ftruncate(self._fd, end - length)
        except OSError:
            return 0  # a pipe
        return length
