"""What the tests need of the host: other people's programs, and free ports."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from random import randrange

import pytest

_PACKAGES = {
    "dig": "bind9-dnsutils",
    "dnsmasq": "dnsmasq-base",
    "in.tftpd": "tftpd-hpa",
    "ip": "iproute2",
    "logger": "bsdutils",
    "logrotate": "logrotate",
    "nsenter": "util-linux",
    "prlimit": "util-linux",
    "rsyslogd": "rsyslog",
    "tftp": "tftp-hpa",
    "unshare": "util-linux",
}


def tool(name: str) -> str:
    """The program's path; the test fails with the package's name where it is missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        pytest.fail(f"{name} is missing: apt install {_PACKAGES[name]}")
    return found


def free_port(address: str = "127.0.0.1", kind: int = socket.SOCK_DGRAM) -> int:
    """A port that nobody has, below those that the kernel hands out by itself."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(100):
        port = randrange(12_000, 32_000)
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
