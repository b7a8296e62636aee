"""Giving up what a process does not need: capabilities, root, the low limit of descriptors, and
the processor where others need it more."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
import resource
import signal
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from udpproxy.errors import UnitError

DAC_OVERRIDE, NET_BIND_SERVICE, NET_RAW, SYS_RESOURCE = 1, 10, 13, 24
"""Capabilities (capabilities(7), linux/capability.h)."""
_SETPCAP = 8

NICE = 5
"""The niceness of a process that only resolves names (nice(1), as in its units)."""
_NOBODY_AT_ALL = 2**32 - 1
"""(uid_t) -1, which setresuid(2) takes for: no change."""
PARENT = "UDP_PROXY_PARENT"
"""In the environment of a child that was forked: its parent's process number."""
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def drop_capabilities() -> None:
    """No capability, none to be had by exec: REG needs nothing but what it is lent. UnitError
    where the system does not let go of them."""
    _take_no_new()
    if _capabilities("CapInh", "CapPrm", "CapEff") == 0:
        return  # as a unit we never had any, and may not even ask
    _bound(())
    _set_capabilities(())


def end_with_parent() -> bool:
    """A child that hangs cannot see that its parent has gone: from now on the kernel kills it then,
    however the parent ends (prctl(2)). False: it has gone already. Where systemd is the parent, by
    whom PARENT is not set, there is no need."""
    parent = os.environ.pop(PARENT, "")
    if not parent:
        return True
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return str(os.getppid()) == parent


def let_others_first() -> None:
    """Where the processors are busy, names wait longer and sessions do not. As a unit we may set
    nothing, and our unit has done it or an administrator wants it otherwise."""
    if os.getpriority(os.PRIO_PROCESS, 0) < NICE:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)


def _prctl(option: int, value: int) -> int:
    """0, or the error's number."""
    return ctypes.get_errno() if _libc.prctl(option, value, 0, 0, 0) != 0 else 0


def _take_no_new() -> None:
    """No exec gives more than what we have, whatever the program's file says."""
    if _status("NoNewPrivs") != ["1"] and (error := _prctl(_PR_SET_NO_NEW_PRIVS, 1)):
        raise UnitError("privileges", f"new ones cannot be refused: {os.strerror(error)}")


def _bound(wanted: Collection[int]) -> None:
    """No exec gives others than these."""
    _take_no_new()
    if not _capabilities("CapEff") >> _SETPCAP & 1:
        return  # we may not, and as nothing new can be had there is no need
    for number in range(64):
        error = 0 if number in wanted else _prctl(_PR_CAPBSET_DROP, number)
        if error == errno.EINVAL:
            return  # the kernel knows no more of them
        if error:
            raise UnitError("capabilities", f"{number} cannot be dropped: {os.strerror(error)}")


def _set_capabilities(wanted: Collection[int]) -> None:
    """Those of them that are permitted, and no other."""
    bits = sum(1 << number for number in wanted) & _capabilities("CapPrm")
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise UnitError("capabilities", f"they cannot be given up: {reason}")


def _capabilities(*sets: str) -> int:
    """All in these sets, as bits (proc(5))."""
    bits = 0
    for value in _status(*sets):
        bits |= int(value, 16)
    return bits


def _status(*names: str) -> list[str]:
    """What the kernel says of us under these names."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name in names]


def raise_descriptor_limit() -> tuple[int, str]:
    """RLIMIT_NOFILE as high as we may; what it is then, and why it is not higher: mostly ""."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return hard, ""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as problem:
        # ValueError is EPERM, and may come from a filter of system calls, too.
        return soft, str(problem)
    return hard, ""


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

    def become(self, keep: Collection[int] | None = None) -> None:
        """For good; UnitError where we may not. Of the capabilities only `keep` stay then; None:
        what the system leaves to that user."""
        if keep is not None:
            _bound(keep)
            if error := _prctl(_PR_SET_KEEPCAPS, 1):
                raise UnitError("capabilities", f"they cannot be kept: {os.strerror(error)}")
        self._switch()
        if keep is not None:
            _set_capabilities(keep)

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """With that account's rights, where root is to become it, and back."""
        if os.geteuid() != 0 or not self.uid or self.gid is None:
            yield
            return
        groups, gid = os.getgroups(), os.getegid()
        try:
            os.setgroups(self._groups or [self.gid])
            os.setegid(self.gid)
            os.seteuid(self.uid)
        except PermissionError:
            raise UnitError("user", "only root can become somebody else") from None
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(gid)
            os.setgroups(groups)

    def _switch(self) -> None:
        if self.uid is None and self.gid is None:
            return
        if (self.uid, self.gid) == (os.getuid(), os.getgid()):
            # Only the supplementary groups can differ: those of whoever started us.
            with contextlib.suppress(PermissionError):
                os.setgroups(self._groups or [os.getgid()])
            return
        try:
            if self.gid is not None:
                os.setgroups(self._groups or [self.gid])
                os.setresgid(self.gid, self.gid, self.gid)
            if self.uid is not None:
                os.setresuid(self.uid, self.uid, self.uid)
        except PermissionError:
            raise UnitError("user", "only root can become somebody else") from None


def user_number(user: str) -> int | None:
    """The user's number, None where the system does not know him."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


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
        number = int(word[1:])
    except ValueError:
        raise UnitError("user", f"{word!r} is no number after the #") from None
    if not 0 <= number < _NOBODY_AT_ALL:
        raise UnitError("user", f"{word!r} is no user's or group's number")
    return number
