"""The installed package in a machine: an instance, its server and its clients."""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from system import journal
from system.command import Result
from system.machine import Machine
from system.package import Package
from system.waiting import until

INSIDE = Path(__file__).parent / "inside"
CHILDREN = ("reg", "acr", "apr")
ROLES = ("parent", *CHILDREN)
PORT, SERVER_PORT = 5353, 7000

CONFIG = """\
max-sessions = {sessions}
{more}
[[listen]]
address = "127.0.0.1"
port = {port}
[[session-acl]]
name = "local"
from = ["127.0.0.0/8"]
plug-to = "127.0.0.1:{server}"
"""

PATIENCE = 40.0
"""Seconds until clients without an answer are a failure."""
_numbers = itertools.count(1)


def install(machine: Machine, package: Package) -> Result:
    """As an administrator does it; also an upgrade, or the same once more."""
    target = f"/root/{next(_numbers)}/{package.path.name}"
    machine.put(package.path, target)
    words = ["install", "--yes", "--reinstall", "--allow-downgrades", target]
    return machine.run("apt-get", *words, timeout=300)


def serve_echo(machine: Machine, port: int = SERVER_PORT, address: str = "127.0.0.1") -> None:
    """A server that answers for as long as the machine lives."""
    machine.put(INSIDE / "echo.py", "/opt/echo.py")
    machine.unit_start(
        f"echo-{port}", "python3", "/opt/echo.py", address, str(port), properties=["Type=notify"]
    )


class Instance:
    """One configured proxy; nothing runs before start()."""

    def __init__(self, machine: Machine, name: str = "dns", port: int = PORT) -> None:
        self.machine = machine
        self.name = name
        self.port = port
        self.unit = f"udp-proxy@{name}"

    def units(self) -> dict[str, str]:
        """The unit of each process."""
        return {
            role: self.unit if role == "parent" else f"udp-proxy-{role}@{self.name}"
            for role in ROLES
        }

    def configure(self, *, sessions: int = 1000, server: int = SERVER_PORT, more: str = "") -> None:
        """Its file; `more` stands above the tables."""
        self.write(CONFIG.format(sessions=sessions, port=self.port, server=server, more=more))

    def write(self, text: str) -> None:
        """Its file, as it is."""
        self.machine.write(f"/etc/udp-proxy/{self.name}.toml", text)

    def drop_in(self, text: str, role: str = "parent", name: str = "test") -> None:
        """For the unit of that process."""
        place = f"/etc/systemd/system/{self.units()[role]}.service.d/{name}.conf"
        self.machine.write(place, f"[Service]\n{text}\n" if "[" not in text else text)
        self.systemctl("daemon-reload")

    def systemctl(self, *words: str, check: bool = True) -> Result:
        """A command of systemctl, words as given."""
        return self.machine.run("systemctl", *words, check=check)

    def start(self) -> None:
        """Ready at the end."""
        self.systemctl("start", self.unit)

    def stop(self) -> None:
        """Whatever state it was in: as new afterwards."""
        self.systemctl("stop", self.unit)
        self.systemctl("reset-failed", f"*@{self.name}.service", check=False)

    def state(self, role: str = "parent") -> str:
        """active, failed, inactive, ..."""
        return self.show("ActiveState", role)

    def show(self, name: str, role: str = "parent") -> str:
        """A property of a unit."""
        unit = self.units()[role]
        return self.systemctl("show", "--property", name, "--value", unit).stdout.strip()

    def pid(self, role: str) -> int:
        """The process of a unit, 0: none."""
        return int(self.show("MainPID", role))

    def kill(self, role: str, signal: str = "KILL") -> None:
        """By its number."""
        self.machine.run("kill", f"-{signal}", str(self.pid(role)), check=False)

    def replaced(self, role: str, old: int, limit: float = 30.0) -> None:
        """Wait until another process works in its place."""
        until(lambda: self.pid(role) not in (0, old) and self.state(role) == "active", limit)
        until(lambda: self.state() == "active", limit)

    def ctl(self, *words: str, check: bool = True) -> Result:
        """A command of `udp-proxy ctl`."""
        return self.machine.run("udp-proxy", "ctl", self.name, *words, check=check)

    def info(self, role: str = "parent") -> dict[str, object]:
        """Its state; logged, too."""
        found = json.loads(self.ctl("info", "--json", "--process", role).stdout)
        assert isinstance(found, dict)
        return found

    def level(self, role: str) -> int:
        """Its log level."""
        return int(str(self.info(role)["log-level"]).partition("(")[2].rstrip(")"))

    def sessions(self) -> list[dict[str, object]]:
        """As `ctl sessions` has them."""
        found = json.loads(self.ctl("sessions", "--json").stdout)
        assert isinstance(found, list)
        return found

    def call(
        self, member: str, *words: str, where: str = "", user: str = "", check: bool = True
    ) -> Result:
        """A D-Bus method: of the proxy, or of the process `where`; `words` are its signature and
        arguments as busctl takes them."""
        place = f"/org/udpproxy1/{where}" if where else "/org/udpproxy1"
        interface = "org.udpproxy1.Process" if where else "org.udpproxy1.Proxy"
        return self.busctl(
            "call", "--", f"org.udpproxy1.{self.name}", place, interface, member, *words,
            user=user, check=check,
        )  # fmt: skip

    def busctl(self, *words: str, user: str = "", check: bool = True) -> Result:
        """As root without the detour of a unit."""
        if user:
            return self.machine.unit_run("busctl", *words, user=user, check=check)
        return self.machine.run("busctl", *words, check=check)

    def on_bus(self) -> bool:
        """Does it own its name?"""
        return self.call("Info", check=False).returncode == 0

    def entries(self, *selection: str) -> list[journal.Entry]:
        """Of the journal, of all its units."""
        return self.machine.journal("--unit", f"udp-proxy*@{self.name}.service", *selection)

    def messages(self, ident: str, role: str = "") -> list[str]:
        """The texts of all messages with that id, by one process or by all."""
        who = {"": None, "parent": f"udp-proxy/{self.name}"}.get(
            role, f"udp-proxy/{self.name}/{role}"
        )
        return [
            entry["MESSAGE"]
            for entry in self.machine.journal(f"UDP_PROXY_ID={ident}")
            if who is None or entry["SYSLOG_IDENTIFIER"] == who
            if entry["SYSLOG_IDENTIFIER"].split("/")[1] == self.name
        ]

    def records(self) -> list[journal.Entry]:
        """Of ended sessions."""
        who = f"udp-proxy/{self.name}"
        return [
            entry
            for entry in self.machine.journal("UDP_PROXY_ID=UDPP-888-I")
            if entry["SYSLOG_IDENTIFIER"] in (who, f"{who}/reg")
        ]


@dataclass(frozen=True)
class Report:
    """What clients lived through; times in seconds."""

    sent: int
    lost: int
    lost_sessions: int
    twice: int
    refused: int
    gap: float
    median: float
    p99: float
    ports: list[list[int]]

    @property
    def moved(self) -> list[list[int]]:
        """The ports of the sessions that had more than one towards the server."""
        return [ports for ports in self.ports if len(ports) != 1]


class Load:
    """Clients that go on asking; see inside/load.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def answered(self) -> None:
        """Wait until every session has had an answer to something sent after this call."""
        self._say("mark")
        self.settled()

    def settled(self) -> None:
        """The same for what was sent since the last time."""
        line = self._line()
        assert line == "answered\n", line

    def report(self) -> Report:
        """The end of it."""
        self._say("report")
        return Report(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert ready, f"no session, or not all, had an answer for {PATIENCE:g} s"
        return self._process.stdout.readline()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def load(
    machine: Machine,
    sessions: int = 50,
    rate: int = 1000,
    port: int = PORT,
    source: str = "127.0.0.1",
) -> Iterator[Load]:
    """Every session is open by the time this yields. Clients of another proxy at the same time need
    another address, `source`."""
    words = [str(port), str(sessions), str(rate), source]
    with clients_of(machine, words) as clients:
        yield clients


@contextlib.contextmanager
def clients_of(
    machine: Machine, words: Sequence[str], prefix: Sequence[str] = ()
) -> Iterator[Load]:
    """The same, with the words of inside/load.py, and a command before it."""
    machine.put(INSIDE / "load.py", "/opt/load.py")
    process = machine.popen(*prefix, "python3", "/opt/load.py", *words)
    with process:
        clients = Load(process)
        try:
            clients.settled()
            yield clients
        finally:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()  # it reports, and ends
