"""Where an instance lives while it runs: its runtime directory, whose lock says that it runs.

With `user` set the directory is the account's, and all in it may be of the account's making. So
root opens nothing in there: the lock is on the directory itself, which is reached through root's
own directories. In a directory of others it is made and opened as the account.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from udpproxy.errors import UnitError
from udpproxy.identity import Identity
from udpproxy.process import lock, paths
from udpproxy.process.privileges import Account


def runtime_directory(identity: Identity, instance: str, given: Path | None) -> Path:
    """SPEC 9: as given, else RUNTIME_DIRECTORY, else by who we are."""
    if given is not None:
        return given.absolute()
    if named := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(named)
    if os.getuid() == 0:
        return identity.runtime / instance
    home = os.environ.get("XDG_RUNTIME_DIR")
    if not home:
        raise UnitError(
            "runtime directory", "XDG_RUNTIME_DIR is not set: give --runtime-dir DIRECTORY"
        )
    return Path(home) / identity.name / instance


def running_directory(identity: Identity, instance: str, given: Path | None) -> Path:
    """Where a command finds it: for users the one that they run themselves, else the system's."""
    chosen = given or os.environ.get("RUNTIME_DIRECTORY") or os.getuid() == 0
    if chosen or (
        os.environ.get("XDG_RUNTIME_DIR") and _is_there(runtime_directory(identity, instance, None))
    ):
        return runtime_directory(identity, instance, given)
    if _is_there(identity.runtime / instance) or not os.environ.get("XDG_RUNTIME_DIR"):
        return identity.runtime / instance
    return runtime_directory(identity, instance, None)


def _is_there(directory: Path) -> bool:
    try:
        return directory.exists()
    except PermissionError:
        return True


class AlreadyRunning(UnitError):
    """The instance has its lock."""


class RuntimeDirectory:
    """The directory, ours alone while we hold its lock."""

    def __init__(self, identity: Identity, directory: Path, account: Account) -> None:
        """Made if it is missing and given to `account`; AlreadyRunning or UnitError."""
        self.directory = directory
        self._ours = identity.runtime
        """All in there is ours, whatever account it ran as."""
        self._the = identity.spoken
        self._account = account
        self._made = False
        try:
            self._take()
        except BlockingIOError:
            raise AlreadyRunning("instance", f"it is already running in {directory}") from None
        except OSError as problem:
            raise _failed(directory, str(problem.strerror)) from None

    def _take(self) -> None:
        try:
            with paths.directory(self.directory.parent, make=True) as above:
                if os.geteuid() == 0 and not above.private:
                    raise paths.Shared(0, f"others than root can write {self.directory.parent}")
                self._lock_in(above)
        except paths.Shared as problem:
            if not self._account.uid:
                raise _failed(self.directory, str(problem.strerror)) from None
            self._take_as_the_account()

    def _take_as_the_account(self) -> None:
        try:
            with (
                self._account.acting(),
                paths.directory(self.directory.parent, make=True) as above,
            ):
                self._lock_in(above)
        except PermissionError as problem:
            raise _failed(self.directory, f"{problem.strerror} for {self._the}'s user") from None

    def _lock_in(self, above: paths.Directory) -> None:
        self._lock = lock.hold(lambda: self._opened(above), self.directory)
        try:
            found = os.fstat(self._lock)
            self._check(found)
            self._give(found)
        except BaseException:
            os.close(self._lock)
            raise

    def _opened(self, above: paths.Directory) -> int:
        name = self.directory.name
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            try:
                os.mkdir(name, 0o750, dir_fd=above.descriptor)
                self._made = True
            except FileExistsError:
                self._made = False
            try:
                descriptor = os.open(name, flags, dir_fd=above.descriptor)
            except FileNotFoundError:
                continue  # whoever had it has just removed it
            except NotADirectoryError:
                if self.directory.is_symlink():
                    raise _failed(self.directory, "it is a symbolic link") from None
                raise
            if self._made:
                # Whatever the umask.
                os.fchmod(descriptor, 0o750)
            return descriptor

    def _check(self, found: os.stat_result) -> None:
        """UnitError for a directory that others have a hand in."""
        allowed = {0, os.geteuid(), self._account.uid}
        if found.st_uid not in allowed and not (os.geteuid() == 0 and self._is_known()):
            raise _failed(
                self.directory,
                f"it belongs to uid {found.st_uid}, who is neither root nor "
                f"{self._the}'s user: "
                "remove it, or give another",
            )
        if found.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if os.geteuid() == 0 else 0)):
            raise _failed(
                self.directory, f"others can write it (mode {stat.S_IMODE(found.st_mode):04o})"
            )
        if self._gives_away(found) and not self._is_known() and not self._holds_sockets_only():
            raise _failed(
                self.directory,
                f"it is to be given to {self._the}'s user, and holds more than sockets: "
                "give a directory of its own",
            )

    def _is_known(self) -> bool:
        return self.directory.parent == self._ours

    def _gives_away(self, found: os.stat_result) -> bool:
        return os.geteuid() == 0 and self._account.uid not in (None, found.st_uid)

    def _holds_sockets_only(self) -> bool:
        with os.scandir(self._lock) as entries:
            modes = [entry.stat(follow_symlinks=False).st_mode for entry in entries]
        return all(map(stat.S_ISSOCK, modes))

    def _give(self, found: os.stat_result) -> None:
        """To the account, now that nobody else runs here."""
        if os.geteuid() != 0:
            return
        uid, gid = self._account.uid or 0, self._account.gid
        if found.st_uid != uid or gid is not None:
            os.fchown(self._lock, uid, gid or 0)
        with self._account.acting():
            if not os.access(self.directory, os.W_OK | os.X_OK, effective_ids=True):
                raise _failed(
                    self.directory,
                    f"{self._the}'s user cannot get there: look at the directories above",
                )

    def leave(self) -> None:
        """Nothing of ours stays behind, as far as we may remove it."""
        # Where the directory above is root's, and we are not root any more, it stays.
        with contextlib.suppress(OSError):
            if self._made and lock.is_named(self._lock, self.directory):
                self.directory.rmdir()
        os.close(self._lock)


def _failed(directory: Path, reason: str) -> UnitError:
    return UnitError("runtime directory", f"{directory}: {reason}")
