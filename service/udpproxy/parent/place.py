"""Where an instance lives while it runs: its runtime directory, and the lock that says so."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from udpproxy.errors import UnitError
from udpproxy.process.privileges import Account


def runtime_directory(instance: str, given: Path | None) -> Path:
    """SPEC 9: as given, else RUNTIME_DIRECTORY, else by who we are."""
    if given is not None:
        return given.absolute()
    if named := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(named)
    if os.getuid() == 0:
        return Path("/run/udp-proxy") / instance
    home = os.environ.get("XDG_RUNTIME_DIR")
    if not home:
        raise UnitError(
            "runtime directory", "XDG_RUNTIME_DIR is not set: give --runtime-dir DIRECTORY"
        )
    return Path(home) / "udp-proxy" / instance


class AlreadyRunning(UnitError):
    """The instance has its lock."""


class Place:
    """The directory, ours alone while we hold its lock."""

    def __init__(self, directory: Path, account: Account) -> None:
        """Made if it is missing and given to `account`; AlreadyRunning or UnitError."""
        self.directory = directory
        try:
            self._made = not directory.exists()
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.getuid() == 0 and (account.uid is not None or account.gid is not None):
                for path in (directory, directory / "lock"):
                    os.chown(path, _id(account.uid), _id(account.gid))
        except OSError as problem:
            raise UnitError("runtime directory", f"{directory}: {problem.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise AlreadyRunning("instance", f"it is already running in {directory}") from None

    def leave(self) -> None:
        """Nothing of ours stays behind, as far as we may remove it."""
        try:
            (self.directory / "lock").unlink(missing_ok=True)
            if self._made:
                self.directory.rmdir()
        except OSError:
            pass  # the directory above is root's, and we are not root any more
        os.close(self._lock)


def _id(number: int | None) -> int:
    return -1 if number is None else number
