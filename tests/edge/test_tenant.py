"""Another product on the frame (tests/bells.py): in fork mode, as units, as a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbus_next import Message

from bells import IDENTITY
from buses import ask, caller, open_bus
from groups import inside, unit
from host import free_port
from proxy import until
from stored import Units
from udpproxy.cli import ctl
from udpproxy.daemon.commands import DONE, DaemonCommands
from udpproxy.daemon.launch import DaemonStart
from udpproxy.errors import LinkError
from udpproxy.process.wire import Plain

TESTS = Path(__file__).parents[1]


def text(port: int, log: Path, **bells: int) -> str:
    hung = "".join(f'[[bell]]\nname = "{name}"\ntone = {tone}\n' for name, tone in bells.items())
    return f'port = {port}\n{hung}[log]\nlevel = "debug"\ntarget = "file"\nfile = "{log}"\n'


class Tower:
    """An instance, wherever it came from."""

    def __init__(self, directory: Path, **bells: int) -> None:
        self.directory = directory
        self.file = directory / "one.toml"
        self.log = directory / "log"
        self.runtime = directory / "run" / "bells" / "one"
        self.port = free_port()
        self.hang(**bells)
        self.environment = os.environ | {
            "PYTHONPATH": str(TESTS),
            "RUNTIME_DIRECTORY": str(self.runtime),
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={directory}/bus",
        }

    def hang(self, **bells: int) -> None:
        """The file."""
        self.file.write_text(text(self.port, self.log, **bells))

    def said(self, what: str) -> list[str]:
        """The log's lines with `what` in them."""
        there = self.log.exists()
        return [line for line in self.log.read_text().splitlines() if what in line] if there else []

    def ask(self, verb: str, **arguments: Plain) -> Plain:
        """Over the control socket."""
        return ctl.ask(self.runtime / "control.sock", verb, arguments)

    def info(self, process: str = "parent") -> dict[str, Plain]:
        """The state of that process."""
        answer = self.ask("info", process=process)
        assert isinstance(answer, dict)
        return answer

    def has(self, **states: str) -> bool:
        """Are the bells, by name, in these states, and are there no others?"""
        info = self.info()
        found = {key: value for key, value in info.items() if key.endswith("-state")}
        wanted = {f"bell:{name}-state": state for name, state in states.items()}
        return found == {"clock-state": "ready", **wanted}

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """In fork mode."""
        words = [sys.executable, "-m", "bells", "run", str(self.file)]
        with subprocess.Popen(words, env=self.environment) as parent:
            try:
                until(lambda: self.said("UDPS-100-I ready"))
                yield parent
            finally:
                parent.kill()


def can_connect(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def story(tower: Tower, parent: int) -> None:
    """What all of them do: verb, signal, reloads right and wrong, a child that is killed."""
    until(lambda: tower.has(a="ready", b="ready"))
    assert tower.ask("ring", bell="a") == "440 Hz, 1 times"
    with pytest.raises(LinkError, match="is not running"):
        tower.ask("ring", bell="z")
    with pytest.raises(LinkError, match="knows no verb 'sessions'"):
        tower.ask("sessions")
    with pytest.raises(LinkError, match="give one of parent, clock, bell:a, bell:b"):
        tower.ask("info", process="reg")
    os.kill(parent, signal.SIGRTMIN + 1)
    until(lambda: tower.info("bell:b")["rung"] == 1)
    assert tower.info("bell:a")["rung"] == 2
    # One that fails once the port of the new file is bound leaves nothing behind.
    before, tower.port = tower.port, free_port()
    tower.hang(a=440, c=13)
    with pytest.raises(LinkError, match="it is cracked"):
        tower.ask("reload")
    assert can_connect(before)
    assert not can_connect(tower.port)
    assert tower.has(a="ready", b="ready")
    # One goes, one comes, one stays.
    tower.hang(a=440, c=523)
    assert tower.ask("reload") == {"bells": 2}
    assert can_connect(tower.port)
    assert not can_connect(before)
    killed = int(str(tower.info("bell:a")["pid"]))
    os.kill(killed, signal.SIGKILL)
    until(lambda: tower.info("bell:a")["pid"] != killed)


def test_fork_mode(tmp_path: Path) -> None:
    tower = Tower(tmp_path, a=440, b=494)
    with tower.running() as parent:
        story(tower, parent.pid)
        until(lambda: tower.has(a="ready", c="ready"))
        assert tower.ask("ring", bell="c") == "523 Hz, 1 times"
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(20) == 0
    assert "UDPS-104-I stopped with 2 bells hung up" in tower.log.read_text()
    assert not tower.said("UDPS-203-E")
    assert not tower.said("UDPS-530-C")


def test_a_bell_that_cannot_be_kept_alive_fails_alone(tmp_path: Path) -> None:
    tower = Tower(tmp_path, a=440, b=494)
    tower.file.write_text("crash-limit = 2\n" + tower.file.read_text())
    with tower.running() as parent:
        for _ in range(2):
            until(lambda: tower.has(a="ready", b="ready"))
            os.kill(int(str(tower.info("bell:b")["pid"])), signal.SIGKILL)
            until(lambda: tower.info()["bell:b-state"] != "ready")
        until(lambda: tower.has(a="ready", b="failed"))
        assert tower.said("UDPS-510-C")
        with pytest.raises(LinkError, match="bell:b has failed"):
            tower.ask("ring", bell="b")
        assert tower.ask("ring", bell="a") == "440 Hz, 1 times"
        assert "degraded: bell:b is down since" in str(tower.info()["state"])
        os.kill(int(str(tower.info("clock")["pid"])), signal.SIGKILL)
        until(lambda: len(tower.said("UDPS-201-W clock")) == 1)
        until(lambda: tower.info("clock")["pid"])
        os.kill(int(str(tower.info("clock")["pid"])), signal.SIGKILL)
        assert parent.wait(20) == 69  # nothing works without the clock


def test_on_the_bus(tmp_path: Path) -> None:
    """Objects come and go with the children, named as systemd names them."""

    async def call(member: str, path: str = IDENTITY.root, *body: object) -> Message:
        async with caller(tmp_path) as bus:
            message = Message(
                destination="org.bells1.one",
                path=path,
                interface=IDENTITY.interface if path == IDENTITY.root else IDENTITY.process,
                member=member,
                signature="s" * len(body),
                body=list(body),
            )
            return await ask(bus, message)

    tower = Tower(tmp_path, a=440)
    with open_bus(tmp_path), tower.running():
        until(lambda: tower.said("UDPS-321-D on D-Bus as org.bells1.one"))
        assert asyncio.run(call("Ring", IDENTITY.root, "a")).body == ["440 Hz, 1 times"]
        (state,) = asyncio.run(call("Info", "/org/bells1/bell/a")).body
        assert state["rung"].value == 1
        tower.hang(**{"b-1": 494})
        assert asyncio.run(call("Reload")).body == []
        assert asyncio.run(call("Info", "/org/bells1/bell/a")).error_name.endswith("UnknownObject")
        (state,) = asyncio.run(call("Info", "/org/bells1/bell/b_2d1")).body
        assert state["role"].value == "bell:b-1"


class UnitsOfBells(Units):
    """The same as units; their processes are started here, as systemd does."""

    unit = IDENTITY.unit("one", "clock")
    child = ("bells", "clock", "one")

    def parent_words(self) -> list[str]:
        """See Units."""
        return [sys.executable, "-m", "bells", "run", str(self.file), "units"]


def test_as_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The door comes back from the store; a bell that is taken down is told not to come again."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    port, log = free_port(), tmp_path / "log"
    assert IDENTITY.unit("one", "bell:a-1") == "bells-bell@one:a\\x2d1.service"
    with (
        unit(IDENTITY.unit("one", "bell:a")) as group,
        UnitsOfBells(tmp_path, text(port, log, a=440)) as units,
    ):
        units.start()
        environment = os.environ | {"RUNTIME_DIRECTORY": str(units.runtime)}
        words = [*inside(group), sys.executable, "-m", "bells", "bell:a", "one"]
        control = units.runtime / "control.sock"
        with subprocess.Popen(words, env=environment) as bell, killed_at_last(bell):
            until(lambda: rung(control) == "440 Hz, 1 times")
            units.listen()
            assert [name for name, _ in units.store] == [f"door-{port}"]
            units.file.write_text(text(port, log))
            assert ctl.ask(control, "reload", {}) == {"bells": 0}
            assert bell.wait(20) == 69
        units.parent.kill()
        units.parent.wait()
        units.reg.wait(20)
        assert can_connect(port)
        units.listen()  # what the first one told
        units.start()
        assert f"ready: port {port} as before" in log.read_text()
        assert ctl.ask(control, "terminate", {}) is None
        assert units.parent.wait(20) == 0
        units.listen()
        assert units.store == []


@contextlib.contextmanager
def killed_at_last(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()


def rung(control: Path) -> Plain:
    try:
        return ctl.ask(control, "ring", {"bell": "a"})
    except LinkError:
        return None


def test_as_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = Tower(tmp_path, a=440, b=494)
    for name in ("PYTHONPATH", "RUNTIME_DIRECTORY", "DBUS_SYSTEM_BUS_ADDRESS"):
        monkeypatch.setenv(name, tower.environment[name])
    daemon = DaemonCommands(IDENTITY, "one", tmp_path / "pid", tmp_path / "lock")
    begun = DaemonStart(IDENTITY, tower.file, level=None, runtime_dir=tower.runtime, limit=20.0)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        assert daemon.start(begun.launch).result == DONE
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # the command would end here
    pid = int((tmp_path / "pid").read_text())
    try:
        story(tower, pid)
    finally:
        stopped = daemon.stop(20.0, force=True)
        os.waitpid(pid, 0)  # it was started here, not by a command
    assert (stopped.result, stopped.text) == (DONE, "")
    assert "UDPS-104-I stopped with 2 bells hung up" in tower.log.read_text()
