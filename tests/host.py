"""What the tests need of the host: other people's programs, and free ports."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from random import sample

import pytest

_PACKAGES = {
    "dig": "bind9-dnsutils",
    "dnsdist": "dnsdist",
    "dnsmasq": "dnsmasq-base",
    "in.tftpd": "tftpd-hpa",
    "ip": "iproute2",
    "logger": "bsdutils",
    "logrotate": "logrotate",
    "nft": "nftables",
    "nsenter": "util-linux",
    "pdns_recursor": "pdns-recursor",
    "prlimit": "util-linux",
    "rsyslogd": "rsyslog",
    "tc": "iproute2",
    "tftp": "tftp-hpa",
    "unshare": "util-linux",
}


def tool(name: str) -> str:
    """The program's path; the test fails with the package's name where it is missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        pytest.fail(f"{name} is missing: apt install {_PACKAGES[name]}")
    return found


_FIRST_PORT, _SLICES, _SLICE_PORTS = 12_000, 20, 1000
"""Below those that the kernel hands out by itself."""


def _own_slice() -> tuple[int, socket.socket]:
    """Ports that no other run of tests on this network takes meanwhile, for as long as the socket
    is open: it has a name that only one can have."""
    guard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for number in sample(range(_SLICES), _SLICES):
        with contextlib.suppress(OSError):
            guard.bind(f"\0udp-proxy-test-ports-{number}")
            return _FIRST_PORT + number * _SLICE_PORTS, guard
    raise OSError(f"{_SLICES} runs of tests have all the ports")


_first_port, _guard = _own_slice()
_even = range(_first_port, _first_port + _SLICE_PORTS, 2)  # some take the next one, too
_ports = itertools.cycle(sample(_even, len(_even)))


def free_port(address: str = "127.0.0.1", kind: int = socket.SOCK_DGRAM) -> int:
    """A port that nobody has, nor is about to take: another one each time."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in itertools.islice(_ports, 100):
        with socket.socket(family, kind) as sock, contextlib.suppress(OSError):
            sock.bind((address, port))
            return port
    pytest.fail("no free port in 100 attempts")


def is_bound(port: int) -> bool:
    """Does somebody listen on that UDP port (IPv4)?"""
    table = Path("/proc/net/udp").read_text()
    return re.search(f":{port:04X} [0-9A-F]{{8}}:0000", table) is not None


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """No more than so many can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    gaps = []
    with contextlib.ExitStack() as stack:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
        while (fd := os.dup(0)) < highest:
            gaps.append(fd)
        for one in (*gaps, fd):
            stack.callback(os.close, one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1 + count, before[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        yield
