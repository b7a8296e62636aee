"""One instance of `udp-proxy daemon` as its users control it; whatever a test does, no process of
it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from host import free_port
from proxy import command, config, until

USER = 47110

DONE, ALREADY, NOT_RUNNING, FAILED, STALE = 0, 100, 101, 102, 103

Done = subprocess.CompletedProcess[str]


class Daemon:
    """A context manager; its files are all in `directory`."""

    def __init__(
        self, directory: Path, *, account: str = f'user = "#{USER}"', top: str = "", more: str = ""
    ) -> None:
        """`account` are the keys that say whom it becomes: by default a user who is nobody else.
        Descriptors in flight are counted by user, and root may have too many of others."""
        directory.mkdir(parents=True, exist_ok=True)
        for path in (directory, *directory.parents[:3]):
            path.chmod(0o755)
        if f"#{USER}" in account:
            os.chown(directory, USER, USER)
        self.directory = directory
        self.file = directory / "one.toml"
        self.pid_file = directory / "one.pid"
        self.guard_file = directory / "one.lock"
        self.runtime = directory / "run"
        self.log_file = directory / "log"
        self.port = free_port()
        log = f'[log]\ntarget = "file"\nfile = "{self.log_file}"\n'
        top = f"max-sessions = 5\n{account}\n{top}"
        more = more or log
        self.file.write_text(config(self.port, "127.0.0.1:9", top=top, more=more))
        bus = f"unix:path={directory}/bus"
        self.environment = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": bus}

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *problem: object) -> None:
        if problem[0] is not None:
            print("--- the log:", *self.log[-40:], sep="\n")
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), 5)

    def words(self, action: str, *options: object) -> list[str]:
        """The command line of an action."""
        where = ["--runtime-dir", self.runtime] if action in ("start", "reload") else []
        return command("daemon", action, self.file, "--pid-file", self.pid_file, *where, *options)

    def do(self, action: str, *options: object, prefix: Sequence[str] = ()) -> Done:
        """That action, to its end."""
        return subprocess.run(
            [*prefix, *self.words(action, *options)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def result(self, action: str, *options: object) -> int:
        """Its result."""
        return self.do(action, *options).returncode

    def start(self, *options: object) -> int:
        """It must work; the daemon's number."""
        done = self.do("start", *options)
        assert (done.returncode, done.stderr) in ((DONE, ""), (STALE, done.stderr)), done.stderr
        return self.pid

    @property
    def pid(self) -> int:
        """As its PID file says."""
        return int(self.pid_file.read_text())

    @property
    def log(self) -> list[str]:
        """What it has logged so far."""
        return self.log_file.read_text().splitlines() if self.log_file.exists() else []

    def said(self, what: str) -> list[str]:
        """The log's lines with `what` in them."""
        return [line for line in self.log if what in line]

    def processes(self) -> dict[int, str]:
        """Every process of it but for zombies, with its role; the daemon itself is `daemon`."""
        found = {}
        file, runtime = os.fsencode(self.file), os.fsencode(self.runtime)
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = entry.joinpath("cmdline").read_bytes().split(b"\0")
                if b"udpproxy.proxy.daemon" in words and file in words:
                    # A child that is not itself yet still looks like its parent.
                    leads = os.getsid(int(entry.name)) == int(entry.name)
                    found[int(entry.name)] = "daemon" if leads else "child to be"
                elif b"udpproxy.child" in words and runtime in (entry / "environ").read_bytes():
                    found[int(entry.name)] = words[words.index(b"udpproxy.child") + 1].decode()
        return found

    def reg_pid(self) -> int:
        """REG's, 0: there is none."""
        return next((pid for pid, role in self.processes().items() if role == "reg"), 0)

    def left(self) -> set[str]:
        """What lies in the directory beside what the test put there."""
        return {path.name for path in self.directory.iterdir()} - {self.file.name, "log"}


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status, by the lines' names."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
