"""From a file to a Config, or to every mistake in it at once.

`parse` is pure; `read` is the one function that opens files.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from udpproxy.config import acls, check, lines, sections
from udpproxy.config.model import Config, Limits, Ports
from udpproxy.config.table import Notes, Table
from udpproxy.config.values import said
from udpproxy.errors import ConfigError, Problem

LARGEST_FILE = 2**20
_HOME, _GROUP = Path("/etc/udp-proxy"), "udp-proxy"
EPHEMERAL = (32768, 60999)
_EPHEMERAL_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RESERVED_FILE = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_INSTANCE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


Range = tuple[int, int]


def parse(
    text: str,
    origin: str,
    *,
    ephemeral: Range | None = EPHEMERAL,
    reserved: Iterable[Range] = (),
) -> Config:
    """`ephemeral` is None where the kernel did not say; `reserved` it never hands out."""
    data = _toml(text, origin)
    notes = Notes(origin, lines.locate(text))
    first, last = EPHEMERAL if ephemeral is None else ephemeral
    kept = tuple(Ports(first=one, last=other) for one, other in reserved)
    kernel = check.KernelPorts(Ports(first=first, last=last), kept)
    config = _config(Table(data, (), notes), kernel)
    if ephemeral is None:
        notes.warn(
            ("listen",),
            f"cannot read {_EPHEMERAL_FILE}: the kernel's ephemeral ports are taken to be "
            f"{first}-{last}",
        )
    if notes.problems:
        raise ConfigError(notes.problems)
    return replace(config, warnings=tuple(map(str, notes.warnings)))


def read(path: Path) -> Config:
    return parse_here(read_text(path), str(path))


def parse_here(text: str, origin: str) -> Config:
    """With the ports of this very kernel."""
    return parse(text, origin, ephemeral=ephemeral_ports(), reserved=reserved_ports())


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
    """The name of the instance that a file configures."""
    if not _INSTANCE.fullmatch(path.stem):
        raise _unreadable(
            str(path),
            f"{said(path.stem)} is no instance's name: at most 64 letters, digits, - and _, "
            "beginning with a letter or _",
        )
    return path.stem


def _unreadable(origin: str, text: str, line: int = 0) -> ConfigError:
    return ConfigError([Problem(origin, line, "file", text)])


def ephemeral_ports() -> Range | None:
    """The kernel's own range; None where it will not say."""
    try:
        first, last = map(int, _EPHEMERAL_FILE.read_text().split())
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


def _toml(text: str, origin: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        problem = Problem(origin, 0, "TOML", "values are nested too deeply")
    except ValueError as error:
        problem = _syntax_error(text, origin, str(error))
    raise ConfigError([problem])


def _syntax_error(text: str, origin: str, told: str) -> Problem:
    """tomllib says where only in its words; for a number of 4300 digits it does not say it."""
    place = _TOML_PLACE.fullmatch(told)
    if place is None:
        return Problem(origin, 0, "TOML", told)
    if place[2] is None:
        return Problem(origin, text.count("\n") + 1, "TOML", f"{place[1]} at the end of the file")
    return Problem(origin, int(place[2]), "TOML", f"{place[1]} (column {place[3]})")


def _config(table: Table, kernel: check.KernelPorts) -> Config:
    notes = table.notes
    base = table.table("limits")
    resolver, log = table.table("resolver"), table.table("log")
    listen_tables, acl_tables = table.tables("listen"), table.tables("session-acl")
    if not listen_tables and table.sound("listen"):
        table.wrong("listen", "at least one [[listen]] must be given")
    config = sections.top(table)
    table.done()

    limits = sections.limits(base, Limits())
    listens = [(each.path, found) for each in listen_tables if (found := sections.listen(each))]
    rules = [(each.path, acls.session_acl(each, limits)) for each in acl_tables]
    config = replace(
        config,
        listen=tuple(listener for _, listener in listens),
        acls=tuple(acl for _, acl in rules),
        resolver=sections.resolver(resolver),
        log=sections.log(log),
    )
    check.together(config, listens, rules, kernel, notes)
    return config
