"""Configurations with what this very host makes of them: its ports and its addresses."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import Path

from udpproxy.config.model import Address
from udpproxy.config.reading import read_text
from udpproxy.proxy.config.load import EPHEMERAL_FILE, Range, parse
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.identity import IDENTITY

_RESERVED_FILE = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_FREE_FROM_FILE = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def read(path: Path) -> Config:
    return parse_here(read_text(path, IDENTITY.name), str(path))


def parse_here(text: str, origin: str) -> Config:
    """With the ports of this very kernel, and the addresses that the host has by now."""
    return parse(
        text,
        origin,
        ephemeral=ephemeral_ports(),
        reserved=reserved_ports(),
        free_from=free_from(),
        is_own=is_own,
    )


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


def free_from() -> int:
    """The first port that needs no right."""
    try:
        return int(_FREE_FROM_FILE.read_text())
    except (OSError, ValueError):
        return 1024
