"""A lock that goes with a name: flock(2) on a file or directory that may be removed meanwhile.

Who opened it before it was removed would get the lock of what nobody finds any more, beside the
next one: so the name is looked at again once the lock is held.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def hold(opened: Callable[[], int], path: Path, *, wait: bool) -> int:
    """The descriptor from `opened` that has the lock, and is what `path` names. BlockingIOError
    where another has it, and nobody is to be waited for."""
    while True:
        descriptor = opened()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if is_named(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_named(descriptor: int, path: Path) -> bool:
    """Is that still what `path` names?"""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))
