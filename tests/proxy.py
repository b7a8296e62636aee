"""One instance of `udp-proxy run` as its users start it, and what tests ask of it.

Everything is waited for with `until`; whatever a test does, no process of it is left.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
Row = dict[str, Any]  # what JSON gives
Endpoint = tuple[str, int]

_RECORD = re.compile(r".* UDPP-888-I (.*)")
_LIMIT = 30.0


def until(condition: Callable[[], T], limit: float = 20.0, step: float = 0.01) -> T:
    """What `condition` returns as soon as that is true; the test fails after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit:g} s in vain; last: {value!r}")
        time.sleep(step)
    return value


def config(
    port: int,
    server: str,
    *,
    listen: str = "127.0.0.1",
    top: str = "max-sessions = 100",
    acl: str = "",
    more: str = "",
) -> str:
    """A file with one listener and one rule, `all`; `acl` are more keys of the rule."""
    return f"""{top}
[[listen]]
address = "{listen}"
port = {port}
[[session-acl]]
name = "all"
plug-to = "{server}"
{acl}
{more}
"""


def reloaded(ended: int, following: int = 0, staying: int = 0) -> Row:
    """What a reload says that it did to sessions."""
    return {
        "sessions-ended": ended,
        "sessions-following": following,
        "sessions-staying": staying,
    }


def command(*words: object) -> list[str]:
    """The proxy's command line as this interpreter runs it."""
    return [sys.executable, "-m", "udpproxy", *map(str, words)]


class Proxy:
    """One instance, named like its file; a context manager that starts it and cleans up."""

    def __init__(
        self,
        directory: Path,
        text: str,
        *,
        name: str = "one",
        single: bool = False,
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix` is a command that runs ours, such as `ip netns exec NAME`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.single = single
        self.file = directory / f"{name}.toml"
        self.runtime = directory / "run"
        self.stderr = directory / f"{name}.stderr"
        self.write(text)
        # The host's bus is none of ours: all instances here have the same name.
        self.environment = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={directory}/bus"}
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if problem[0] is not None:
            print(f"--- {self.stderr}, its end:", *self.log[-60:], sep="\n")
        self.clean_up()

    def write(self, text: str) -> None:
        """Another configuration; `reload` makes it hold."""
        self.file.write_text(text)

    def launch(self) -> None:
        """Start it and do not wait."""
        words = ["run", self.file, "--runtime-dir", self.runtime, *["--single"] * self.single]
        with self.stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*self._prefix, *command(*words)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )

    @contextlib.contextmanager
    def launched(self) -> Iterator[None]:
        """Start it, do not wait, and clean up at the end."""
        self.launch()
        try:
            yield
        finally:
            self.clean_up()

    def start(self) -> None:
        """Start it and wait until it relays."""
        self.launch()
        try:
            until(self.ready, _LIMIT)
        except BaseException as problem:
            self.__exit__(type(problem), problem, None)
            raise

    def ready(self) -> bool:
        """Does it relay?"""
        status = self.process.poll()
        assert status is None, f"ended with {status}"
        return (self.runtime / "control.sock").exists() and self.ctl("info").returncode == 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The parent."""
        assert self._process
        return self._process

    @property
    def pid(self) -> int:
        """The parent's."""
        return self.process.pid

    @property
    def reg_pid(self) -> int:
        """REG's at this moment; 0: there is none."""
        if self.single:
            return self.pid
        return next((pid for pid, role in self.processes().items() if role == "reg"), 0)

    def table(self) -> mmap.mmap:
        """The shared memory with the sessions, to be written over."""
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            if "udp-proxy-sessions" in str(entry.readlink()):
                fd = os.open(entry, os.O_RDWR)
                try:
                    return mmap.mmap(fd, 0)
                finally:
                    os.close(fd)
        raise AssertionError("no table")

    def kill(self, number: int, process: str = "parent") -> int:
        """Send a signal; which process got it."""
        pid = self.pid if process == "parent" else until(lambda: self.reg_pid)
        os.kill(pid, number)
        return pid

    def next_reg(self, old: int) -> int:
        """Wait for another REG than that one; its process number."""
        return until(lambda: 0 if (pid := self.reg_pid) == old else pid)

    def processes(self) -> dict[int, str]:
        """Every process of this instance, whoever's child it is now, with its role."""
        return dict(self._processes())

    def _processes(self) -> Iterator[tuple[int, str]]:
        mark = os.fsencode(self.runtime)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"udpproxy.child" in words and mark in (entry / "environ").read_bytes():
                    yield int(entry.name), words[words.index(b"udpproxy.child") + 1].decode()
                elif b"udpproxy" in words and b"run" in words and mark in words:
                    yield int(entry.name), "parent"

    def ctl_words(self, *words: object) -> list[str]:
        """The command line of `udp-proxy ctl NAME ...`"""
        return command("ctl", self.name, "--runtime-dir", self.runtime, *words)

    def ctl(self, *words: object) -> subprocess.CompletedProcess[str]:
        """`udp-proxy ctl NAME ...`"""
        return subprocess.run(
            self.ctl_words(*words),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ask(self, *words: object) -> Any:
        """The same with --json: what it prints; it must succeed."""
        done = self.ctl(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def info(self, process: str = "parent") -> Row:
        """The figures of one process."""
        figures: Row = self.ask("--process", process, "info")
        return figures

    def sessions(self, *filters: str) -> list[Row]:
        """The sessions that there are."""
        rows: list[Row] = self.ask("sessions", *filters)
        return rows

    @property
    def log(self) -> list[str]:
        """What it has said on stderr so far."""
        return self.stderr.read_text().splitlines() if self.stderr.exists() else []

    def said(self, what: str) -> list[str]:
        """The log's lines with `what` in them."""
        return [line for line in self.log if what in line]

    def records(self, path: Path | None = None) -> list[dict[str, str]]:
        """The session records, from a file of their own or from the log."""
        lines = path.read_text().splitlines() if path else self.log
        found = [match[1] for match in map(_RECORD.match, lines) if match]
        return [dict(word.split("=", 1) for word in text.split(" ")) for text in found]

    def unrecorded(self) -> int:
        """How many sessions ended without any reply and without a record of their own."""
        return sum(int(line.split("UDPP-889-W ")[1].split()[0]) for line in self.said("UDPP-889-W"))

    def wait(self, limit: float = _LIMIT) -> int:
        """Its exit status."""
        return self.process.wait(limit)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it with a signal; its exit status."""
        self.kill(number)
        return self.wait()

    def clean_up(self) -> None:
        """Nothing of it is left, whatever happened before."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LIMIT)
        self._process.kill()
        self._process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), 5)
