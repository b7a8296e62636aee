"""A lock that goes with a name: flock(2) on a file or directory that may be removed meanwhile.

Who opened it before it was removed would get the lock of what nobody finds any more, beside the
next one: so the name is looked at again once the lock is held.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

_STEP = 0.005
_REPLACED = 1.0
"""Seconds for which the name may lead elsewhere each time: whoever can write there could go on."""


def hold(opened: Callable[[], int], path: Path, *, patience: float = 0.0) -> int:
    """The descriptor from `opened` that has the lock, and is what `path` names. BlockingIOError
    where another has it for `patience` seconds, or there is another file again and again."""
    now = time.monotonic()
    tired, replaced = now + patience, now + patience + _REPLACED
    while True:
        descriptor = opened()
        try:
            _lock(descriptor, tired)
            if is_named(descriptor, path):
                return descriptor
            if time.monotonic() > replaced:
                raise BlockingIOError
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, tired: float) -> None:
    """Not flock(2)'s own way to wait: it has no end."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= tired:
                raise
            time.sleep(_STEP)
        else:
            return


def is_named(descriptor: int, path: Path) -> bool:
    """Is that still what `path` names?"""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))
