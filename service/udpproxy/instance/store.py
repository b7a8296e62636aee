"""What systemd kept of ours over a restart: the descriptors in its store, by their names.

What is not what its name says is given back at once, and what nobody takes once all is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from systemd import daemon

from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier


class DescriptorStore:
    """The descriptors found at start, and what is stored from now on."""

    def __init__(self, logs: Logs, notifier: Notifier) -> None:
        self._logs = logs
        self._notifier = notifier
        self._found: dict[str, int] = {}
        refused: set[str] = set()
        for fd, name in daemon.listen_fds_with_names(unset_environment=True).items():
            os.set_inheritable(fd, False)  # noqa: FBT003
            why = "is there twice" if name in self._found else self.mistake(name, fd)
            if why:
                logs.say(messages.STORED_WRONGLY, name, why)
                os.close(fd)
                refused.add(name)
            else:
                self._found[name] = fd
        self._throw_out(refused)

    def mistake(self, name: str, fd: int) -> str:
        """Why that cannot be what its name says, "" where it may be. UnitError where the system
        lacks what it takes to find out."""
        return ""

    def names(self) -> list[str]:
        """Of those that nobody has taken."""
        return list(self._found)

    def take(self, name: str) -> int | None:
        """That descriptor; it is whoever's who takes it."""
        return self._found.pop(name, None)

    def peek(self, name: str) -> int | None:
        """The same, and it stays."""
        return self._found.get(name)

    def keep(self, name: str, fd: int, *, wait: bool = True) -> None:
        """From now on it survives us, beside any other one that is stored under that name: what
        takes another's place needs a name of its own. OSError where systemd does not listen, at
        once or after a wait."""
        self._notifier.store(name, fd, wait=wait)

    def drop(self, name: str, *, wait: bool = True) -> None:
        """It is not needed any more. OSError as keep()."""
        self._notifier.unstore(name, wait=wait)

    def drop_rest(self, more: Iterable[str] = ()) -> None:
        """What nobody took is of an older version or configuration, and so are `more`."""
        for fd in self._found.values():
            os.close(fd)
        rest = [*self._found, *more]
        self._found.clear()
        for name in rest:
            try:
                self._notifier.unstore(name)
            except OSError as problem:
                # The next start sees it again. Each try waits: no second one.
                self._logs.say(messages.STORE_SILENT, name, problem)
                return

    def _throw_out(self, refused: set[str]) -> None:
        """All of these names; what was right among them is stored again."""
        for name in refused:
            try:
                self._notifier.unstore(name)
                if name in self._found:
                    self._notifier.store(name, self._found[name])
            except OSError as problem:
                # The next start sees it again. Each try waits: no second one.
                self._logs.say(messages.STORE_SILENT, name, problem)
                return
