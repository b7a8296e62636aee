"""Files of instances: found, named and read; what is in them, each service reads itself."""

from __future__ import annotations

import grp
import os
import pwd
import re
from pathlib import Path

from udpproxy.config.values import said
from udpproxy.errors import ConfigError, Problem

LARGEST_FILE = 2**20
_INSTANCE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


def path_of(word: str, home: Path) -> Path:
    """The file that somebody means: `-` is standard input, a bare name an instance of the host,
    whose file is in `home`."""
    if word == "-":
        return Path("/dev/stdin")
    path = Path(word)
    return path if "/" in word or "." in word or path.exists() else home / f"{word}.toml"


def read_text(path: Path, user: str = "") -> str:
    """The file as it is; ConfigError where it cannot be read. `user`: of the units, who reads what
    his group may."""
    origin = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except PermissionError as error:
        raise _unreadable(origin, f"cannot be read by {_who(user)}: {error.strerror}") from error
    except OSError as error:
        raise _unreadable(origin, f"cannot be read: {error.strerror}") from error
    if len(raw) > LARGEST_FILE:
        raise _unreadable(origin, f"is larger than {LARGEST_FILE} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unreadable(origin, "is not UTF-8 text", line) from error


def _who(unit: str) -> str:
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
    return f"the user {name} (chgrp {unit} and chmod g+r help)" if name == unit else name


def unreadable_for(user: str, path: Path, home: Path) -> str:
    """Why the unit, whose user has a group of that name, could not read a file in `home` that root
    can read; "": it could."""
    if path.resolve().parent != home:
        return ""
    try:
        group = grp.getgrnam(user).gr_gid
        status = path.stat()
    except (KeyError, OSError):
        return ""
    readable = status.st_mode & 0o004 or (status.st_gid == group and status.st_mode & 0o040)
    advice = f"chgrp {user} {path}; chmod g+r {path}"
    return "" if readable else f"the user {user} cannot read it: {advice}"


def instance_name(path: Path) -> str:
    """The name of the instance that a file configures: also a part of its name on the bus, and of
    its units' names, so neither dots nor a digit first."""
    if not _INSTANCE.fullmatch(path.stem):
        raise _unreadable(
            str(path),
            f"{said(path.stem)} is no instance's name: at most 64 letters, digits, - and _, "
            f"beginning with a letter or _; {_similar(path.stem)} would be one",
        )
    return path.stem


def _similar(stem: str) -> str:
    """A name that can be had."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", stem[:63], flags=re.ASCII)
    return name if _INSTANCE.fullmatch(name) else f"_{name}"


def _unreadable(origin: str, text: str, line: int = 0) -> ConfigError:
    return ConfigError([Problem(origin, line, "file", text)])
