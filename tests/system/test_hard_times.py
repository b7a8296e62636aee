"""A host that is unwell: no journal, a full /run, frozen units, many instances at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import losses
from system.machine import Machine
from system.package import Package
from system.service import ROLES, Instance, Report, install, load, serve_echo
from system.waiting import until

pytestmark = pytest.mark.one_release("d13")

INSTANCES = 10


@pytest.fixture(scope="module")
def running(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    with Machine(root, f"{release}-unwell") as machine:
        install(machine, deb)
        serve_echo(machine)
        dns = Instance(machine)
        dns.configure(more="crash-limit = 1000")
        dns.start()
        yield machine


@pytest.fixture
def dns(running: Machine) -> Iterator[Instance]:
    dns = Instance(running)
    yield dns
    until(lambda: all(dns.pid(role) and dns.state(role) == "active" for role in ROLES))


def unharmed(report: Report, release: str, event: str) -> None:
    losses.note(release, event, report)
    assert report.moved == [], f"{event}: sessions have changed their ports"
    assert (report.lost, report.twice, report.refused) == (0, 0, 0), event


def test_the_journal_stops_and_comes_back(dns: Instance, release: str) -> None:
    journald = ("systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald")
    begun = time.monotonic()
    with load(dns.machine) as clients:
        dns.systemctl("stop", *journald)
        for _ in range(5):
            clients.answered()
        assert dns.ctl("info").returncode == 0
        assert dns.ctl("loglevel", "+1").returncode == 0
        dns.systemctl("start", *reversed(journald))
        assert dns.ctl("loglevel", "-1").returncode == 0
        clients.answered()
        unharmed(clients.report(), release, "no journal")
    said = dns.messages("UDPS-300-I", "parent")
    assert len(said) == 2, f"{said} within {time.monotonic() - begun:.0f} s: lines wait, and come"


def test_the_journal_hangs(dns: Instance, release: str) -> None:
    journald = dns.systemctl("show", "--property=MainPID", "--value", "systemd-journald").stdout
    with load(dns.machine) as clients:
        dns.machine.run("kill", "-STOP", journald.strip())
        try:
            dns.ctl("loglevel", "9")  # a line for each datagram: what it has room for is soon full
            for _ in range(5):
                clients.answered()
            dns.ctl("loglevel", "6")
        finally:
            dns.machine.run("kill", "-CONT", journald.strip())
        clients.answered()
        unharmed(clients.report(), release, "SIGSTOP of journald, level full")


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_is_frozen(dns: Instance, release: str, role: str) -> None:
    """For less than its watchdog allows: nobody is replaced, and what came meanwhile is carried."""
    unit, pids = dns.units()[role], {one: dns.pid(one) for one in ROLES}
    with load(dns.machine, rate=200) as clients:
        dns.systemctl("freeze", unit)
        time.sleep(1.5)
        dns.systemctl("thaw", unit)
        clients.answered()
        unharmed(clients.report(), release, f"freeze of {role} for 1.5 s")
    assert {one: dns.pid(one) for one in ROLES} == pids


@contextlib.contextmanager
def full_run(machine: Machine) -> Iterator[None]:
    """/run has no room for one byte or one name more."""
    blocks, inodes = (
        int(machine.run("df", f"--output={what}", "/run").stdout.split()[-1])
        for what in ("size", "itotal")
    )
    used = int(machine.run("df", "--output=iused", "/run").stdout.split()[-1])
    machine.run("mount", "-o", f"remount,nr_inodes={used}", "/run")
    machine.run("sh", "-c", "cat /dev/zero >>/run/udp-proxy/full", check=False)
    assert machine.run("touch", "/run/one-more", check=False).returncode != 0
    try:
        yield
    finally:
        machine.run("mount", "-o", f"remount,size={blocks}k,nr_inodes={inodes}", "/run")
        machine.run("rm", "-f", "/run/udp-proxy/full")


@pytest.mark.parametrize("what", ["reg", "parent", "restart"])
def test_run_is_full(dns: Instance, release: str, what: str) -> None:
    machine = dns.machine
    machine.run("mount", "-o", "remount,size=16m", "/run")
    machine.run("touch", "/run/udp-proxy/full")
    with load(machine) as clients:
        with full_run(machine):
            if what == "restart":
                dns.systemctl("restart", dns.unit, check=False)
            else:
                old = dns.pid(what)
                dns.kill(what)
                until(lambda: dns.pid(what) != old)
            time.sleep(3.0)
        until(lambda: dns.state() == "active")
        clients.answered()
        report = clients.report()
        losses.note(release, f"/run full, {what}", report)
        assert report.moved == []
        assert report.refused == 0


def test_ten_instances_at_once(dns: Instance, release: str) -> None:
    machine = dns.machine
    others = [Instance(machine, f"many{number}", 5400 + number) for number in range(INSTANCES)]
    for one in others:
        one.configure(sessions=100)
    names = [one.unit for one in others]
    machine.run("systemctl", "start", *names, timeout=180)
    with contextlib.ExitStack() as stack:
        loads = [
            stack.enter_context(load(machine, 5, 50, one.port, f"127.0.1.{number}"))
            for number, one in enumerate(others, 1)
        ]
        machine.run("systemctl", "restart", *names, timeout=180)
        for clients in loads:
            clients.answered()
        for one, clients in zip(others, loads, strict=True):
            unharmed(clients.report(), release, f"restart of ten, {one.name}")
            assert one.info()["reg-ends"] == 0
    machine.run("systemctl", "stop", *names, timeout=180)
    assert [one.state() for one in others] == ["inactive"] * INSTANCES
