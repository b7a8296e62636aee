"""A container in which nothing boots: no systemd, no bus, no journal, only what a test starts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from system.machine import Machine
from system.package import Package
from system.service import INSIDE, PORT, SERVER_PORT
from system.waiting import until

_LINE = re.compile(r"udp-proxy/\w+(/\w+)?\[\d+\]: ([A-Z]{4}-\d{3}-[A-Z])")
SYSLOG_FILE = "/var/log/local5"
_RSYSLOG = f"""\
module(load="imuxsock")
global(workDirectory="/tmp")
local5.* action(type="omfile" file="{SYSLOG_FILE}")
"""


class Bare(Machine):
    """The same as a Machine, with two processes in it."""

    program = ("sleep", "infinity")

    def _state(self) -> str:
        children = Path(f"/proc/{self.leader}/task/{self.leader}/children").read_text()
        return "running" if children.strip() else ""


def install(container: Bare, package: Package) -> None:
    """The package depends on a bus, which is not to be here; all else is."""
    container.put(package.path, "/root/package.deb")
    container.run("dpkg", "--force-depends", "--install", "/root/package.deb")


@contextlib.contextmanager
def running(container: Bare, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A process beside the test, ended with it if it has not ended before."""
    with container.popen(*command) as process:
        try:
            yield process
        finally:
            # nsenter waits for a child of its own, which its death would not end
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def echo(container: Bare) -> Iterator[None]:
    """A server that answers."""
    container.put(INSIDE / "echo.py", "/opt/echo.py")
    with running(container, "python3", "/opt/echo.py", "127.0.0.1", str(SERVER_PORT)):
        until(lambda: f":{SERVER_PORT} " in container.run("ss", "-Hlun").stdout)
        yield


@contextlib.contextmanager
def rsyslogd(container: Bare) -> Iterator[Path]:
    """The syslog daemon; the file that it writes. One that was killed has left its socket."""
    container.run("rm", "-f", "/dev/log")
    container.write("/etc/rsyslog-test.conf", _RSYSLOG)
    words = ["rsyslogd", "-n", "-i", "/run/rsyslogd.pid", "-f", "/etc/rsyslog-test.conf"]
    with running(container, *words):
        until(lambda: container.run("test", "-S", "/dev/log", check=False).returncode == 0)
        yield container.path(SYSLOG_FILE)
    until(lambda: container.run("pgrep", "rsyslogd", check=False).returncode == 1)


class Foreground:
    """`udp-proxy run` of an instance `one` in fork mode, as the only service of a container."""

    def __init__(self, container: Bare, log: str, path: Path) -> None:
        """`log` is the configuration's [log]; `path` the file that the lines end in."""
        self.container = container
        self.path = path
        self._seen = 0
        container.write("/etc/udp-proxy/one.toml", f"""\
max-sessions = 100
user = "udp-proxy"
[[listen]]
address = "127.0.0.1"
port = {PORT}
[[session-acl]]
name = "all"
plug-to = "127.0.0.1:{SERVER_PORT}"
[log]
{log}
""")  # fmt: skip

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """Its parent's process, which relays."""
        with running(self.container, "udp-proxy", "run", "/etc/udp-proxy/one.toml") as process:
            until(lambda: self.ctl("info", check=False).returncode == 0)
            self.news()
            yield process

    def ctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of `udp-proxy ctl`."""
        return self.container.run("udp-proxy", "ctl", "one", *words, check=check)

    def figure(self, name: str, process: str = "parent") -> str:
        """One line of its info."""
        shown = self.ctl("info", "--lines", "0", "--process", process).stdout.splitlines()
        return {line.split()[0]: line.split(maxsplit=1)[1] for line in shown}[name]

    def pid(self, process: str) -> int:
        """As the container counts."""
        return int(self.figure("pid" if process == "parent" else f"{process}-pid"))

    def text(self) -> str:
        """Its log so far."""
        return self.path.read_text() if self.path.exists() else ""

    def news(self) -> Counter[tuple[str, str]]:
        """What has been logged since the last time: process and message."""
        lines = self.text().splitlines()
        found = [match.groups("") for match in map(_LINE.search, lines) if match]
        new, self._seen = found[self._seen :], len(found)
        return Counter((role.strip("/") or "parent", ident) for role, ident in new)

    def forget(self) -> None:
        """The log begins anew."""
        self._seen = 0
