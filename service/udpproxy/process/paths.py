"""Paths as root may take them: where another account can put something, no link is followed.

What such an account finds a way to name, root would otherwise open, write or give away for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""


class Shared(PermissionError):
    """A directory that somebody beside root and us can write."""


@dataclass(frozen=True, slots=True)
class Directory:
    """`descriptor` is for *at calls only; `private`: nobody but root and we can have put there
    what is in it, nor moved it here."""

    descriptor: int
    private: bool


@contextlib.contextmanager
def directory(path: Path, *, make: bool = False) -> Iterator[Directory]:
    """That directory, reached step by step; OSError. With `make` it is made, with mode 0755
    whatever the umask, where it is missing."""
    walk = _Walk()
    try:
        walk.go(path.absolute(), make=make)
        yield Directory(walk.here, walk.private and _is_private(os.fstat(walk.here)))
    finally:
        os.close(walk.here)


def open_file(path: Path, flags: int, mode: int) -> int:
    """os.open() of a file that is no link; OSError names the whole path."""
    if os.geteuid() != 0:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with directory(path.parent) as above:
            return open_in(above, path, flags, mode)
    except OSError as problem:
        raise type(problem)(problem.errno, problem.strerror, str(path)) from None


def open_in(above: Directory, path: Path, flags: int, mode: int) -> int:
    """The same in the directory that is at hand."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path.name, flags, mode, dir_fd=above.descriptor)
    if not above.private and os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        # A hard link is another way to name a file that is not one's own.
        raise Shared(errno.EPERM, "it has another name elsewhere, and others can write here")
    return descriptor


def remove(path: Path, descriptor: int) -> None:
    """The file behind that descriptor, where this is still its name and no link led there;
    OSError."""
    with directory(path.parent) as above:
        named = os.stat(path.name, dir_fd=above.descriptor, follow_symlinks=False)
        if os.path.samestat(named, os.fstat(descriptor)):
            os.unlink(path.name, dir_fd=above.descriptor)


class _Walk:
    """From the root on, a name at a time."""

    def __init__(self) -> None:
        self.here = os.open("/", os.O_PATH | _DIRECTORY)
        self.private = True
        self._links = 0

    def go(self, path: Path, *, make: bool) -> None:
        for name in path.parts:
            if name == "/":
                self._step("/")
                continue
            try:
                found = os.stat(name, dir_fd=self.here, follow_symlinks=False)
            except FileNotFoundError:
                if not make:
                    raise
                self._make(name)
                continue
            self.private = self.private and _holds(os.fstat(self.here), found)
            if stat.S_ISLNK(found.st_mode):
                self._follow(name)
            else:
                self._step(name)

    def _follow(self, name: str) -> None:
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not self.private and os.geteuid() == 0:
            raise Shared(errno.EPERM, f"{name} is a symbolic link where others can write")
        self.go(Path(os.readlink(name, dir_fd=self.here)), make=False)

    def _make(self, name: str) -> None:
        if os.geteuid() == 0 and not (self.private and _is_private(os.fstat(self.here))):
            raise Shared(errno.EPERM, f"{name} is missing, and others can write where it is to be")
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self.here)
            fresh = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=self.here)
            os.fchmod(fresh, 0o755)
            os.close(fresh)
        self._step(name)

    def _step(self, name: str) -> None:
        there = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=self.here)
        os.close(self.here)
        self.here = there


def _is_private(status: os.stat_result) -> bool:
    """Can only root and we write there?"""
    others = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid != 0 else 0)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & others


def _holds(above: os.stat_result, below: os.stat_result) -> bool:
    """Can only root and we put something else in the place of `below`? In a sticky directory that
    is up to its owner."""
    sticky = bool(above.st_mode & stat.S_ISVTX) and above.st_uid in (0, os.geteuid())
    return _is_private(above) or (sticky and below.st_uid in (0, os.geteuid()))
