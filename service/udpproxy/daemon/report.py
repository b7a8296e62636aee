"""What a daemon tells the command that starts it: ready, or what went wrong, over a pipe.

The other end may be gone: then nobody hears it, and the start goes on.
"""

from __future__ import annotations

import contextlib
import os

from udpproxy.config.model import Log
from udpproxy.daemon.launch import READY, SAID
from udpproxy.instance.start import Starter
from udpproxy.process.logs import clean


class Report(Starter):
    """The daemon's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.watchdog_interval = None

    def log_opens(self, log: Log) -> None:
        """Nobody's terminal stays open because of us, unless stderr is where the log is to go."""
        if log.target != "stderr":
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 2)
            os.close(nowhere)

    def say(self, text: str) -> None:
        """A warning or an error, while somebody waits."""
        self._write(SAID + clean(text).encode("utf-8", "backslashreplace") + b"\n")

    def ready(self, status: str) -> None:
        """The start is over."""
        self._write(READY)
        self.close()

    def close(self) -> None:
        """Nobody waits any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def reloading(self) -> None:
        """The command that asked for it waits for the answer itself."""

    def status(self, text: str) -> None:
        """Nobody asks a daemon this way."""

    def alive(self) -> None:
        """Nobody waits for it."""

    def stopping(self) -> None:
        """The PID file says when we are gone."""

    def _write(self, line: bytes) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, line)
