"""Who has the address and port that the system refuses us, as far as we may see that.

The kernel tells every user which sockets there are and whose (/proc/net/udp); which process has
one only root and its owner see. The work has a bound: it is done while the proxy has other things
to do, and a hint is all that it gives.
"""

from __future__ import annotations

import itertools
import os
import pwd
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from udpproxy.config.model import Address

_MOST_SOCKETS = 100_000
_MOST_DESCRIPTORS = 20_000
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class _Bound:
    """A socket of the system."""

    address: Address
    uid: int
    inode: str


def holder(address: Address, port: int, ours: Sequence[socket.socket]) -> str:
    """Who it is, and what of theirs is in the way; "" where nothing is found. `ours` are not."""
    mine = {str(os.fstat(sock.fileno()).st_ino) for sock in ours}
    # Some of those for IPv6 take IPv4, too, and the table does not say which: they come last.
    tables: list[Iterable[_Bound]] = [_table("udp6", port)]
    if address.version == 4:
        tables = [_table("udp", port), _ipv4_in(*tables)]
    found = (
        _in_the_way(address, [one for one in bound if one.inode not in mine]) for bound in tables
    )
    return next(filter(None, found), "")


def _in_the_way(address: Address, others: list[_Bound]) -> str:
    for one in others:
        if one.address == address:
            return f"{_who(one)} has it"
    for one in others:
        if one.address.is_unspecified:
            return f"{_who(one)} has all addresses ({one.address}) of this port"
    if address.is_unspecified and others:
        one = others[0]
        return f"{_who(one)} has {one.address}, so {address} cannot be had: name the addresses"
    return ""


def _ipv4_in(bound: Iterable[_Bound]) -> Iterator[_Bound]:
    """Those that may take IPv4, with the address that they take."""
    for one in bound:
        mapped = one.address.ipv4_mapped if isinstance(one.address, IPv6Address) else None
        if mapped is not None:
            yield replace(one, address=mapped)
        elif one.address.is_unspecified:
            yield one


def _table(name: str, port: int) -> Iterator[_Bound]:
    """Of the file's fields the second is our end, the eighth the user, the tenth the inode."""
    end = f":{port:04X}"
    try:
        with (_PROC / "net" / name).open() as lines:
            for line in itertools.islice(lines, 1, _MOST_SOCKETS):
                fields = line.split()
                if len(fields) > 9 and fields[1].endswith(end):
                    yield _Bound(_address(fields[1].partition(":")[0]), int(fields[7]), fields[9])
    except (OSError, ValueError):
        return


def _address(text: str) -> Address:
    """Words of 32 bits, each in the order of this machine."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ip_address(struct.pack(f"={len(words)}I", *words))


def _who(one: _Bound) -> str:
    try:
        user = f"user {pwd.getpwuid(one.uid).pw_name}"
    except KeyError:
        user = f"uid {one.uid}"
    pid = _process(f"socket:[{one.inode}]")
    if not pid:
        return user
    try:
        name = (_PROC / pid / "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return user
    shown = "".join(each if each.isprintable() else "?" for each in name)
    return f"{shown} (process {pid}, {user})"


def _process(link: str) -> str:
    """The number of a process that has it; "" if we see none."""
    for entry in itertools.islice(_descriptors(), _MOST_DESCRIPTORS):
        try:
            if str(entry.readlink()) == link:
                return entry.parts[-3]
        except OSError:
            continue
    return ""


def _descriptors() -> Iterator[Path]:
    for process in _PROC.iterdir():
        if process.name.isdecimal():
            try:
                yield from (process / "fd").iterdir()
            except OSError:
                continue
