"""Readiness, watchdog and status, told to whoever supervises us by the sd_notify protocol.

What comes again and again never blocks: a supervisor that hangs must not hang the relay. What is
said once waits for it: a READY=1 that is lost is a start or a reload that fails. Texts are ASCII,
for sdnotify would lose others without a word.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

import sdnotify

_PATIENCE = 10.0


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

    def store(self, name: str, descriptor: int, *, wait: bool = True) -> None:
        """Have systemd keep a duplicate over our restarts (FDSTORE, sd_pid_notify_with_fds(3)).

        FDPOLL=0, for one ICMP error would make it throw a polled socket away. May wait for
        systemd, unless `wait` is False, and that must not fail: what is not stored is lost with us.
        """
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [descriptor], wait=wait)

    def unstore(self, name: str, *, wait: bool = True) -> None:
        """Systemd need not keep it any longer."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}", [], wait=wait)

    def _send(self, state: str, descriptors: list[int], *, wait: bool = True) -> None:
        sock = self._notifier.socket
        if sock is None:
            return
        sock.settimeout(_PATIENCE if wait else 0)
        try:
            if descriptors:
                socket.send_fds(sock, [state.encode()], descriptors)
            else:
                sock.send(state.encode())
        finally:
            sock.settimeout(0)

    def ready(self, status: str) -> None:
        """The work can begin, or goes on after reloading()."""
        self._insist(f"READY=1\nSTATUS={_ascii(status)}")

    def starting(self, seconds: float) -> None:
        """It takes so much longer."""
        self._insist(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def reloading(self) -> None:
        """A new configuration is tried; ready() must follow, whatever comes of it."""
        moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._insist(f"RELOADING=1\nMONOTONIC_USEC={moment}")

    def _insist(self, state: str) -> None:
        with contextlib.suppress(OSError):  # it hangs or is gone: our work goes on
            self._send(state, [])

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
