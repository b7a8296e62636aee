"""Giving up what a process does not need: capabilities, root, and the low limit of descriptors."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import resource
import struct
from pathlib import Path

from udpproxy.errors import UnitError

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def drop_capabilities() -> None:
    """No capability, none to be had by exec: REG needs nothing but what it is lent."""
    if _capabilities() == 0:
        return  # as a unit we never had any, and may not even ask
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise UnitError("capabilities", os.strerror(ctypes.get_errno()))


def _capabilities() -> int:
    """Effective, permitted and inheritable ones, as bits (proc(5))."""
    bits = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("CapInh", "CapPrm", "CapEff"):
            bits |= int(value, 16)
    return bits


def raise_descriptor_limit() -> int:
    """RLIMIT_NOFILE as high as we may; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Account:
    """Whom to become: `user` and `group` by name or #number; group None is the user's own."""

    def __init__(self, user: str | None, group: str | None) -> None:
        """UnitError where the system does not know them."""
        self.uid: int | None = None
        self.gid: int | None = None
        self._groups: list[int] = []
        if user is not None:
            self._find_user(user)
        if group is not None:
            self.gid = _find_group(group)
            self._groups = [self.gid, *self._groups]

    def _find_user(self, user: str) -> None:
        try:
            entry = pwd.getpwuid(_number(user)) if user.startswith("#") else pwd.getpwnam(user)
        except KeyError:
            if not user.startswith("#"):
                raise UnitError("user", f"there is no user {user!r}: create it") from None
            self.uid = self.gid = _number(user)
            return
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self._groups = os.getgrouplist(entry.pw_name, entry.pw_gid)

    def become(self) -> None:
        """For good; UnitError where we may not."""
        if self.uid is None and self.gid is None:
            return
        if (self.uid, self.gid) == (os.getuid(), os.getgid()):
            return
        try:
            if self.gid is not None:
                os.setgroups(self._groups or [self.gid])
                os.setresgid(self.gid, self.gid, self.gid)
            if self.uid is not None:
                os.setresuid(self.uid, self.uid, self.uid)
        except PermissionError:
            raise UnitError("user", "only root can become somebody else") from None


def group_number(group: str) -> int | None:
    """The group's number, None where the system does not know it."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _find_group(group: str) -> int:
    if group.startswith("#"):
        return _number(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UnitError("group", f"there is no group {group!r}: create it") from None


def _number(word: str) -> int:
    try:
        return int(word[1:])
    except ValueError:
        raise UnitError("user", f"{word!r} is no number after the #") from None
