"""Signals without handlers: blocked, and read from a descriptor like anything else.

Blocked signals are queued by the kernel, so nothing interrupts a system call and no handler does
work; different signals are never lost, equal ones that are pending together count once (SPEC 2).
asyncio's own way, a wake-up pipe, lost most of a storm of 1,000.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

TERMINATE = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
INFO = signal.SIGRTMIN
"""Linux has no SIGINFO."""
LEVEL_UP, LEVEL_DOWN, REOPEN = signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH
OURS = frozenset({*TERMINATE, int(INFO), LEVEL_UP, LEVEL_DOWN, REOPEN})

_SIGINFO = struct.Struct("=I124x")
_SIGSET_SIZE = 128
_SFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


def block(more: frozenset[int] = frozenset()) -> None:
    """Hold our signals, and those of a product's own verbs, back until they are read; children
    inherit this."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OURS | more)


class Signals:
    """The signals that came, for a loop to read."""

    def __init__(self, more: frozenset[int] = frozenset()) -> None:
        """`more`: those of a product's own verbs."""
        block(more)
        mask = bytearray(_SIGSET_SIZE)
        for number in OURS | more:
            mask[(number - 1) // 8] |= 1 << (number - 1) % 8
        self._fd = int(_libc.signalfd(-1, bytes(mask), _SFD_FLAGS))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "signalfd")

    def fileno(self) -> int:
        """Readable while a signal is pending."""
        return self._fd

    def read(self) -> list[int]:
        """Each signal that came since the last time, once, in order of arrival."""
        try:
            raw = os.read(self._fd, 64 * _SIGINFO.size)
        except BlockingIOError:
            return []
        return list(dict.fromkeys(number for (number,) in _SIGINFO.iter_unpack(raw)))

    def close(self) -> None:
        """The signals stay blocked."""
        os.close(self._fd)
