"""Readiness, watchdog and status, told to whoever supervises us by the sd_notify protocol.

The socket never blocks: a supervisor that hangs must not hang the relay. Texts are ASCII, for
sdnotify would lose others without a word.
"""

from __future__ import annotations

import os

import sdnotify


class Notifier:
    """Says nothing where nobody listens (no NOTIFY_SOCKET)."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        if self._notifier.socket is not None:
            self._notifier.socket.settimeout(0)
        # What we start ourselves must not speak in our name.
        os.environ.pop("NOTIFY_SOCKET", None)
        microseconds = int(os.environ.pop("WATCHDOG_USEC", "0") or "0")
        self.watchdog_interval = microseconds / 1e6 / 3 if microseconds else None
        """Seconds between two calls of alive(); None: nobody waits for them."""

    def ready(self, status: str) -> None:
        """The work can begin."""
        self._notifier.notify(f"READY=1\nSTATUS={_ascii(status)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._notifier.notify(f"STATUS={_ascii(text)}")

    def alive(self) -> None:
        """The loop still turns."""
        self._notifier.notify("WATCHDOG=1")

    def stopping(self) -> None:
        """We are leaving on purpose."""
        self._notifier.notify("STOPPING=1")


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
