"""How a process ended, as waitid(2) tells it."""

from __future__ import annotations

import os
import signal


def in_order(end: os.waitid_result) -> bool:
    """Did it leave by itself and say that all is well?"""
    return end.si_code == os.CLD_EXITED and end.si_status == 0


def was_killed(end: os.waitid_result) -> bool:
    """By SIGKILL, which somebody must have sent?"""
    return end.si_code == os.CLD_KILLED and end.si_status == signal.SIGKILL


def describe(end: os.waitid_result) -> str:
    """How a process ended, in words."""
    if end.si_code == os.CLD_EXITED:
        return f"exit status {end.si_status}"
    try:
        name = signal.Signals(end.si_status).name
    except ValueError:
        name = str(end.si_status)
    return f"signal {name}{', core dumped' * (end.si_code == os.CLD_DUMPED)}"
