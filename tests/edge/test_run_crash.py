"""Deaths: REG killed, hanging, asked to go; the parent killed; too many of them."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from echo import Echo, clients, exchange, udp
from host import free_port
from proxy import Endpoint, Proxy, config, until
from udpproxy.process.privileges import PARENT

SESSIONS = 20
EXCHANGES = 10_000
RATE = 1600
"""Datagrams a second, so that there is a kill a second for a while."""

MOST_LOST = 100
"""Datagrams that may be in a process's hands when it is killed."""


class Lab:
    """A proxy before an echo server, with clients that each have a session."""

    def __init__(self, proxy: Proxy, echo: Echo, port: int, socks: list[socket.socket]) -> None:
        self.proxy = proxy
        self.echo = echo
        self.at = ("127.0.0.1", port)
        self.clients = socks
        for number, sock in enumerate(socks):
            exchange(sock, self.at, b"%03d first" % number)
        self.sources = self.sources_now()
        self.numbers = self._numbers()

    def sources_now(self) -> list[set[Endpoint]]:
        """Where the server sees each client's datagrams come from, so far."""
        return [self.echo.sources_of(b"%03d " % number) for number in range(len(self.clients))]

    def _numbers(self) -> set[int]:
        return {row["session"] for row in self.proxy.sessions()}

    def goes_on(self) -> None:
        """Every session is as it was: its number, its port towards the server, no record."""
        for number, sock in enumerate(self.clients):
            sock.settimeout(20.0)
            exchange(sock, self.at, b"%03d again" % number)
        assert self.sources_now() == self.sources
        assert all(len(each) == 1 for each in self.sources)
        assert self._numbers() == self.numbers
        assert self.proxy.records() == []


@contextmanager
def a_lab(directory: Path, top: str = "", sessions: int = 5) -> Iterator[Lab]:
    port = free_port()
    with Echo() as echo, ExitStack() as stack:
        text = config(port, str(echo), top=f"max-sessions = 100\n{top}")
        proxy = stack.enter_context(Proxy(directory, text))
        yield Lab(proxy, echo, port, stack.enter_context(clients(sessions)))


def replaced(proxy: Proxy, old: int) -> int:
    """Wait for the next REG to relay; its process number."""
    pid = proxy.next_reg(old)
    until(lambda: proxy.info()["reg-state"] == "ready", step=0.05)
    return pid


class Load:
    """An even stream of numbered datagrams over all sessions; what comes back is ticked off."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._sent = 0
        self.missing: set[bytes] = set()
        self.unknown: list[bytes] = []
        for sock in lab.clients:
            sock.settimeout(0)

    def send(self, count: int) -> None:
        for _ in range(count):
            number = self._sent % len(self._lab.clients)
            data = b"%03d %d" % (number, self._sent)
            self._lab.clients[number].sendto(data, self._lab.at)
            self.missing.add(data)
            self._sent += 1

    def take(self) -> None:
        for number, sock in enumerate(self._lab.clients):
            try:
                while True:
                    data = sock.recv(100)
                    if data in self.missing and data.startswith(b"%03d " % number):
                        self.missing.remove(data)
                    else:
                        self.unknown.append(data)
            except BlockingIOError:
                continue

    def run(self, count: int, once_a_second: list[int]) -> None:
        """Send so many; note the process number of each REG that is killed on the way."""
        begun = time.monotonic()
        while self._sent < count:
            time.sleep(0.002)
            passed = time.monotonic() - begun
            self.send(min(count, int(passed * RATE)) - self._sent)
            self.take()
            if passed > len(once_a_second) + 1:
                once_a_second.append(self._lab.proxy.kill(signal.SIGKILL, "reg"))

    def settle(self) -> int:
        """Wait for the last answers; how many are lost."""
        quiet_since, left = time.monotonic(), len(self.missing)
        while self.missing and time.monotonic() - quiet_since < 2:
            time.sleep(0.01)
            self.take()
            if len(self.missing) < left:
                quiet_since, left = time.monotonic(), len(self.missing)
        return len(self.missing)


def test_killed_once_a_second_under_load(tmp_path: Path) -> None:
    with a_lab(tmp_path, "crash-limit = 1000", SESSIONS) as lab:
        load, killed = Load(lab), list[int]()
        load.run(EXCHANGES, killed)
        lost = load.settle()
        print(f"{EXCHANGES} exchanges, REG killed {len(killed)} times: {lost} lost")
        assert len(set(killed)) == len(killed) >= 4
        assert lost < MOST_LOST * len(killed)
        assert load.unknown == [], "nothing comes twice or to somebody else"
        assert lab.proxy.info()["reg-ends"] == len(killed)
        lab.goes_on()


def test_reg_asked_to_go_ends_no_session(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        old = lab.proxy.kill(signal.SIGTERM, "reg")
        replaced(lab.proxy, old)
        lab.goes_on()


def test_datagrams_wait_while_nobody_relays(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        lab.proxy.kill(signal.SIGKILL, "reg")
        lab.goes_on()


def test_hanging_reg_is_replaced_by_the_watchdog(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        old = lab.proxy.kill(signal.SIGSTOP, "reg")
        # The watchdog waits for 5 s, and is asked once a second.
        until(lambda: lab.proxy.reg_pid not in (0, old))
        lab.goes_on()
        assert lab.proxy.said("UDPS-202-E")


def test_children_leave_when_the_parent_is_killed(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        proxy = lab.proxy
        assert proxy.reg_pid
        proxy.kill(signal.SIGKILL)
        assert proxy.wait() == -signal.SIGKILL
        until(lambda: not proxy.processes(), limit=2)
        # What it left in its directory does not stand in the way of the next one.
        proxy.start()
        exchange(lab.clients[0], lab.at, b"000 new")
        assert proxy.stop() == 0


def test_child_that_hears_nothing_goes_with_the_parent(tmp_path: Path) -> None:
    """It has no link whose end it could see, and waits for one: the kernel ends it."""
    code = f"""
import os, subprocess, sys, time
environment = os.environ | {{"RUNTIME_DIRECTORY": {str(tmp_path)!r}, {PARENT!r}: str(os.getpid())}}
child = [sys.executable, "-m", "udpproxy.child", "reg", "one"]
print(subprocess.Popen(child, env=environment).pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        number = int(parent.stdout.readline())
        with os.fdopen(os.pidfd_open(number)) as child:
            # It blocks its signals only after it has asked the kernel.
            own = Path(f"/proc/{number}/status")
            until(lambda: "SigBlk:\t0000000000000000" not in own.read_text())
            parent.kill()
            poll = select.poll()
            poll.register(child, select.POLLIN)
            assert poll.poll(2000), "it waits on"


def test_child_that_comes_too_late_does_not_begin(tmp_path: Path) -> None:
    """Its parent ended before it could ask the kernel to be told."""
    environment = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path), PARENT: "1"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "udpproxy.child", "reg", "one"], env=environment, check=False
    )
    assert (done.returncode, time.monotonic() - begun < 5) == (69, True)


def test_hanging_parent_is_followed_once_it_is_gone(tmp_path: Path) -> None:
    """REG goes on as long as the parent only hangs."""
    with a_lab(tmp_path) as lab:
        lab.proxy.kill(signal.SIGSTOP)
        for number, sock in enumerate(lab.clients):
            exchange(sock, lab.at, b"%03d meanwhile" % number)
        lab.proxy.kill(signal.SIGKILL)
        lab.proxy.wait()
        until(lambda: not lab.proxy.processes(), limit=2)


def test_fifth_crash_ends_the_proxy(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        old = 0
        for _ in range(4):
            old = lab.proxy.kill(signal.SIGKILL, "reg")
            replaced(lab.proxy, old)
        lab.goes_on()
        assert lab.proxy.said("UDPS-510") == []
        lab.proxy.kill(signal.SIGKILL, "reg")
        assert lab.proxy.wait() == 69
        (line,) = lab.proxy.said("UDPS-510-C")
        assert "reg ended 5 times within 60 s" in line
        assert {record["REASON"] for record in lab.proxy.records()} == {"terminated"}
        assert len(lab.proxy.records()) == len(lab.clients)
        assert not lab.proxy.runtime.exists()


def test_crashes_outside_the_window_do_not_count(tmp_path: Path) -> None:
    with a_lab(tmp_path, "crash-limit = 2\ncrash-window = 0.5", sessions=1) as lab:
        for _ in range(3):
            replaced(lab.proxy, lab.proxy.kill(signal.SIGKILL, "reg"))
            time.sleep(0.5)  # the window itself
        lab.goes_on()


def test_on_child_death_stop(tmp_path: Path) -> None:
    with a_lab(tmp_path, 'on-child-death = "stop"') as lab:
        lab.proxy.kill(signal.SIGKILL, "reg")
        assert lab.proxy.wait() == 69
        assert len(lab.proxy.said("UDPS-510-C")) == 1
        assert len(lab.proxy.records()) == len(lab.clients)


def test_datagrams_for_a_dead_parents_port_are_refused(tmp_path: Path) -> None:
    """Nobody holds the port once all are gone: the client hears of it."""
    with a_lab(tmp_path, sessions=1) as lab, udp() as client:
        assert lab.proxy.stop() == 0
        client.connect(lab.at)
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


def test_reg_holds_no_capability(tmp_path: Path) -> None:
    with a_lab(tmp_path, sessions=1) as lab:
        status = Path(f"/proc/{lab.proxy.reg_pid}/status").read_text()
        figures = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"):
            assert int(figures[name], 16) == 0, name
        assert figures["NoNewPrivs"] == "1"


def test_a_parent_that_was_stopped_kills_nobody(tmp_path: Path) -> None:
    """REG has told all the time that it lives; the parent only had no time to hear it."""
    with a_lab(tmp_path) as lab:
        reg = lab.proxy.reg_pid
        lab.proxy.kill(signal.SIGSTOP)
        # Longer than a child may be silent, and than its messages have room to wait.
        deadline = time.monotonic() + 12
        until(lambda: time.monotonic() > deadline)
        lab.proxy.kill(signal.SIGCONT)
        deadline = time.monotonic() + 3
        until(lambda: time.monotonic() > deadline)
        assert lab.proxy.reg_pid == reg
        assert not lab.proxy.said("UDPS-202-E")
