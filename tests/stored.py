"""systemd's part for a parent and a REG that run as units: it keeps what the parent stores,
hands it to the next one, and starts both."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from groups import inside, unit
from proxy import command, until
from udpproxy.proxy.parent.shelf import unpack

_HAND_OVER = """
import fcntl, os, sys
fds = [int(number) for number in sys.argv[1].split(",") if number]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500) for fd in fds]
os.closerange(3, 500)
for place, fd in enumerate(high, 3):
    os.dup2(fd, place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""The stored descriptors stand from 3 on, whatever their numbers are here."""


class Units:
    """One instance with its store; a context manager that leaves no process behind."""

    unit = "udp-proxy-reg@one.service"
    child = ("udpproxy.child", "reg", "one")

    def __init__(self, directory: Path, text: str) -> None:
        self.directory = directory
        self.file = directory / "one.toml"
        self.runtime = directory / "run"
        self.runtime.mkdir(parents=True)
        self.stderr = directory / "one.stderr"
        self.file.write_text(text)
        self.store: list[tuple[str, int]] = []
        self._told = ""
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(directory / "notify"))
        self._notify.settimeout(0)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Units:
        # By its group the parent knows whose process that is.
        with contextlib.ExitStack() as failed:
            failed.callback(self._notify.close)
            self._group = self._stack.enter_context(unit(self.unit))
            failed.pop_all()
        return self

    def __exit__(self, *problem: object) -> None:
        if problem[0] is not None:
            print(self.stderr.read_text()[-6000:])
        for process in self._processes:
            process.kill()
            process.wait()
        self._stack.close()
        self._notify.close()
        for _, fd in self.store:
            os.close(fd)

    @property
    def log(self) -> list[str]:
        """All that they have said."""
        return self.stderr.read_text().splitlines()

    def said(self, what: str) -> list[str]:
        """The log's lines with `what` in them."""
        return [line for line in self.log if what in line]

    def stored(self, name: str) -> int:
        """The descriptor that is kept under that name."""
        self.listen()
        return next(fd for known, fd in self.store if known == name)

    def shelves(self) -> list[str]:
        """The names under which listeners are kept."""
        self.listen()
        return [name for name, _ in self.store if name.startswith("listeners-")]

    def listeners(self) -> list[socket.socket]:
        """Duplicates of all sockets that listen; to be closed by whoever asks."""
        found = []
        for name in self.shelves():
            with socket.socket(fileno=os.dup(self.stored(name))) as shelf:
                found += [sock for _, _, each in unpack(shelf) for sock in each]
        return found

    def lose(self, prefix: str) -> None:
        """As if it had had no room for what bears such names."""
        self.listen()
        for name, fd in [each for each in self.store if each[0].startswith(prefix)]:
            os.close(fd)
            self.store.remove((name, fd))

    def keep(self, name: str, fd: int) -> None:
        """As if the last parent had stored it: a duplicate."""
        self.store.append((name, os.dup(fd)))

    def listen(self) -> str:
        """Act on what was told; all of it so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self._notify, 4096, 4)
                lines = data.decode().split("\n")
                self._told += data.decode() + "\n"
                name = next((line[7:] for line in lines if line.startswith("FDNAME=")), "")
                self.store += [(name, fd) for fd in fds]
                if "FDSTOREREMOVE=1" in lines:
                    for known, fd in [each for each in self.store if each[0] == name]:
                        os.close(fd)
                        self.store.remove((known, fd))
        return self._told

    def start(self, limit: float = 20.0) -> None:
        """Parent and REG, until they relay."""
        self._told = ""
        self.start_parent()
        self.start_reg()
        until(self._ready, limit)

    def _ready(self) -> bool:
        assert self.parent.poll() is None, self.parent.returncode
        if self.reg.poll() is not None:
            self.start_reg()  # it came too early; Restart=always
        return "READY=1" in self.listen()

    def start_reg(self) -> None:
        """REG alone."""
        environment = os.environ | {"RUNTIME_DIRECTORY": str(self.runtime)}
        words = [*inside(self._group), sys.executable, "-m", *self.child]
        self.reg = self._launch(words, environment, [])

    def start_parent(self) -> None:
        """The parent alone, with all that is stored."""
        environment = os.environ | {
            "NOTIFY_SOCKET": str(self.directory / "notify"),
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.directory}/bus",
            "RUNTIME_DIRECTORY": str(self.runtime),
        }
        if self.store:
            environment["LISTEN_FDS"] = str(len(self.store))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in self.store)
        words = self.parent_words()
        self.parent = self._launch(words, environment, [fd for _, fd in self.store])

    def parent_words(self) -> list[str]:
        """The command line of the parent."""
        return command("run", self.file, "--units", "--runtime-dir", self.runtime)

    def _launch(
        self, words: list[str], environment: dict[str, str], fds: list[int]
    ) -> subprocess.Popen[bytes]:
        with self.stderr.open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-ISc", _HAND_OVER, ",".join(map(str, fds)), *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=fds,
            )
        self._processes.append(process)
        return process

    def terminate(self) -> None:
        """By command: a clear stop. REG goes with it."""
        words = command("ctl", "one", "--runtime-dir", self.runtime, "terminate")
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert self.parent.wait(30) == 0
        self.reg.wait(30)
        self.listen()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The parent's status; REG goes with it."""
        self.parent.send_signal(number)
        status = self.parent.wait(30)
        self.reg.wait(30)
        self.listen()
        return status
