"""Configurations from files, with what this very host makes of them: load.py does the rest."""

from __future__ import annotations

import grp
import os
import pwd
import re
import socket
from ipaddress import ip_address
from pathlib import Path

from udpproxy.config.load import EPHEMERAL_FILE, Range, parse
from udpproxy.config.model import Address, Config
from udpproxy.config.values import said
from udpproxy.errors import ConfigError, Problem

LARGEST_FILE = 2**20
_HOME, _GROUP = Path("/etc/udp-proxy"), "udp-proxy"
_RESERVED_FILE = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_INSTANCE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


def path_of(word: str) -> Path:
    """The file that somebody means: `-` is standard input, a bare name an instance of the host."""
    if word == "-":
        return Path("/dev/stdin")
    path = Path(word)
    return path if "/" in word or "." in word or path.exists() else _HOME / f"{word}.toml"


def read(path: Path) -> Config:
    return parse_here(read_text(path), str(path))


def parse_here(text: str, origin: str) -> Config:
    """With the ports of this very kernel, and the addresses that the host has by now."""
    return parse(
        text, origin, ephemeral=ephemeral_ports(), reserved=reserved_ports(), is_own=is_own
    )


def read_text(path: Path) -> str:
    """The file as it is; ConfigError where it cannot be read."""
    origin = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except PermissionError as error:
        raise _unreadable(origin, f"cannot be read by {_who()}: {error.strerror}") from error
    except OSError as error:
        raise _unreadable(origin, f"cannot be read: {error.strerror}") from error
    if len(raw) > LARGEST_FILE:
        raise _unreadable(origin, f"is larger than {LARGEST_FILE} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _unreadable(origin, "is not UTF-8 text", line) from error


def _who() -> str:
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
    return f"the user {name} (chgrp {_GROUP} and chmod g+r help)" if name == _GROUP else name


def unreadable_for_us(path: Path) -> str:
    """Why the unit could not read a file below /etc/udp-proxy, which root can; "": it could."""
    if path.resolve().parent != _HOME:
        return ""
    try:
        group = grp.getgrnam(_GROUP).gr_gid
        status = path.stat()
    except (KeyError, OSError):
        return ""
    readable = status.st_mode & 0o004 or (status.st_gid == group and status.st_mode & 0o040)
    advice = f"chgrp {_GROUP} {path}; chmod g+r {path}"
    return "" if readable else f"the user {_GROUP} cannot read it: {advice}"


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


def is_own(address: Address) -> bool:
    """Does what is sent there stay on this host? Then it comes from that very address. To bind it
    would tell nothing: broadcast addresses can be, and with ip_nonlocal_bind all of them."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), 9))
            return ip_address(sock.getsockname()[0].partition("%")[0]) == address
    except OSError:  # no way there, or a broadcast address
        return False


def ephemeral_ports() -> Range | None:
    """The kernel's own range; None where it will not say."""
    try:
        first, last = map(int, EPHEMERAL_FILE.read_text().split())
    except (OSError, ValueError):
        return None
    return first, last


def reserved_ports() -> list[Range]:
    """What an administrator has taken out of it."""
    try:
        words = _RESERVED_FILE.read_text().strip().split(",")
        ends = [word.partition("-") for word in words if word]
        return [(int(first), int(last or first)) for first, _, last in ends]
    except (OSError, ValueError):
        return []
