"""The machine: pinning, the private network, who else uses the CPUs, what it is.

The proxy has one CPU, the load generator and the echo server share another.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import platform
import re
import resource
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROXY_CPUS, LOAD_CPUS, ALL_CPUS = {0}, {1}, {0, 1}
_NICE = -10
_QUIET_SHARE = 0.20
_QUIET_LIMIT = 2.4
_QUIET_WINDOW = 0.15
_TICK = os.sysconf("SC_CLK_TCK")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


class Unfit(Exception):
    """This machine cannot run the benchmark; the text says why."""


def prepare(*, urgent: bool = True) -> None:
    """Inside the namespace, once: everything that all samples share. `urgent`: before whatever else
    runs on the machine."""
    if not os.sched_getaffinity(0) >= ALL_CPUS:
        raise Unfit("CPUs 0 and 1 are needed")
    _loopback_up()
    # Sessions take ephemeral ports: twice 10,000 for each sample, beside those still closing.
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("10000 65535")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, LOAD_CPUS)
    if not urgent:
        return
    # A session of its own is an autogroup of its own; without the right to it, we go on.
    with suppress(OSError):
        os.setsid()
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICE))
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


@contextmanager
def pinned(cpus: set[int]) -> Iterator[None]:
    """Processes started inside inherit these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy_seconds(now: float) -> float:
    """CPU time of the whole machine that was not idle, up to a constant; stolen time included."""
    idle = cpus = 0
    for line in Path("/proc/stat").read_text().splitlines():
        if re.match(r"cpu\d", line):
            fields = line.split()
            idle += int(fields[4]) + int(fields[5])
            cpus += 1
    return now * cpus - idle / _TICK


def share(seconds: float, elapsed: float) -> float:
    """Of all CPUs."""
    return max(0.0, seconds) / (elapsed * (os.cpu_count() or 1))


def wait_until_quiet() -> None:
    """For less than a fifth of the machine in use by others, with a limit."""
    deadline = time.monotonic() + _QUIET_LIMIT
    while time.monotonic() < deadline:
        began = time.monotonic()
        before = busy_seconds(began)
        time.sleep(_QUIET_WINDOW)
        ended = time.monotonic()
        if share(busy_seconds(ended) - before, ended - began) < _QUIET_SHARE:
            return


def _field(path: str, pattern: str) -> str:
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return "unknown"
    return found[1].strip() if found else "unknown"


def _sysctl(name: str) -> str:
    return _field("/proc/sys/" + name.replace(".", "/"), r"(.*)")


def first_line(*command: str) -> str:
    """Of what a command prints on either stream; empty if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines and done.returncode == 0 else ""


def described() -> dict[str, str]:
    memory = int(_field("/proc/meminfo", r"^MemTotal:\s+(\d+)")) / (1 << 20)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{os.cpu_count()} x {_field('/proc/cpuinfo', r'^model name.*: (.*)')}",
        "virtual machine": first_line("systemd-detect-virt", "--vm") or "none",
        "container": first_line("systemd-detect-virt", "--container") or "none",
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "system": _field("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
        "compiler": first_line("cc", "--version"),
        "Python": platform.python_version(),
        "descriptor limit": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        "net.core.rmem_max": _sysctl("net.core.rmem_max"),
        "net.core.rmem_default": _sysctl("net.core.rmem_default"),
    }
