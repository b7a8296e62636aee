"""What happens to sessions and datagrams while things happen to the proxy's processes.

Clients ask a thousand times a second through fifty sessions. No session may change its port towards
the server; nothing may be lost but what a killed process had in its hands. Each case notes what
was lost (losses.py).
"""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import losses
from system.machine import Machine
from system.package import Package
from system.service import CHILDREN, ROLES, Instance, Report, install, load, serve_echo
from system.waiting import until

IN_HAND = 64
"""Datagrams that a relay may have taken from one socket and not yet passed on when it is killed."""
WATCHDOG = 3
KILLS = 25
ENDED = ("inactive", "failed")


@pytest.fixture(scope="module")
def running(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    """A machine with a server, and an instance that no number of kills makes give up."""
    with Machine(root, f"{release}-survival") as machine:
        install(machine, deb)
        serve_echo(machine)
        dns = Instance(machine)
        dns.configure(more="crash-limit = 1000")
        dns.drop_in("[Unit]\nStartLimitIntervalSec=0\n")
        for role in ROLES:
            dns.drop_in(f"WatchdogSec={WATCHDOG}", role, "watchdog")
        dns.start()
        yield machine


@pytest.fixture
def dns(running: Machine) -> Instance:
    return Instance(running)


def unharmed(report: Report, release: str, event: str, *, lost: int = 0, remark: str = "") -> None:
    losses.note(release, event, report, remark)
    assert report.moved == [], f"{event}: sessions have changed their ports"
    assert report.lost <= lost, f"{event}: {report.lost} of {report.sent} datagrams lost"
    assert report.twice == 0
    assert report.refused == 0, f"{event}: clients were told that nobody listens"


def test_undisturbed(dns: Instance, release: str) -> None:
    with load(dns.machine) as clients:
        for _ in range(5):
            clients.answered()
        unharmed(clients.report(), release, "nothing at all")


@pytest.mark.parametrize("role", ROLES)
def test_a_process_is_killed(dns: Instance, release: str, role: str) -> None:
    old, reg = dns.pid(role), dns.pid("reg")
    with load(dns.machine) as clients:
        dns.kill(role)
        dns.replaced(role, old)
        clients.answered()
        lost = IN_HAND if role == "reg" else 0
        unharmed(clients.report(), release, f"SIGKILL of {role}", lost=lost)
    if role in ("acr", "apr"):
        assert dns.pid("reg") == reg, "a resolver's death reached the relay"
    until(lambda: all(dns.pid(one) and dns.state(one) == "active" for one in ROLES))


@pytest.mark.parametrize("role", ROLES)
def test_a_process_hangs(dns: Instance, release: str, role: str) -> None:
    """The watchdog finds it."""
    old = dns.pid(role)
    with load(dns.machine) as clients:
        dns.kill(role, "STOP")
        dns.replaced(role, old, limit=3 * WATCHDOG + 30)
        clients.answered()
        lost = IN_HAND if role == "reg" else 0
        remark = f"watchdog after {WATCHDOG} s"
        unharmed(clients.report(), release, f"SIGSTOP of {role}", lost=lost, remark=remark)
    until(lambda: all(dns.pid(one) and dns.state(one) == "active" for one in ROLES))


@pytest.mark.parametrize(
    "command",
    [
        "restart udp-proxy@dns",
        "restart udp-proxy-reg@dns",
        "reload udp-proxy@dns",
        "daemon-reload",
        "daemon-reexec",
        "restart dbus.service",
        "kill --kill-whom=main --signal=TERM udp-proxy-reg@dns",
    ],
)
def test_systemctl(dns: Instance, release: str, command: str) -> None:
    with load(dns.machine) as clients:
        dns.systemctl(*command.split())
        until(lambda: dns.on_bus() and dns.state() == "active")
        clients.answered()
        unharmed(clients.report(), release, f"systemctl {command}")
    until(lambda: all(dns.pid(one) and dns.state(one) == "active" for one in ROLES))


def test_many_kills(dns: Instance, release: str) -> None:
    """At any moment, also while the last one's successor is still starting."""
    chance = random.Random(release)
    with load(dns.machine) as clients:
        begun = time.monotonic()
        for number in range(KILLS):
            moment = begun + number * 0.4 + chance.random() * 0.2
            until(lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
            if pid := dns.pid(chance.choice(("parent", "reg", "reg", "acr", "apr"))):
                dns.machine.run("kill", "-KILL", str(pid), check=False)
        took = time.monotonic() - begun
        until(lambda: all(dns.pid(one) and dns.state(one) == "active" for one in ROLES))
        clients.answered()
        event = f"{KILLS} random SIGKILLs in {took:.0f} s"
        unharmed(clients.report(), release, event, lost=KILLS * IN_HAND)


def test_every_session_was_kept(dns: Instance) -> None:
    """Whatever happened above: no session ended."""
    assert {record["REASON"] for record in dns.records()} <= {"idle"}
    assert not [entry for entry in dns.entries() if "Traceback" in entry["MESSAGE"]]


def instance(host: Machine, more: str = "") -> Instance:
    serve_echo(host)
    dns = Instance(host)
    dns.configure(more=more)
    return dns


def test_too_many_ends_end_the_proxy(host: Machine) -> None:
    dns = instance(host)
    dns.start()
    for number in range(5):
        old = dns.pid("reg")
        dns.kill("reg")
        if number < 4:
            dns.replaced("reg", old)
            until(lambda number=number: dns.info()["reg-ends"] == number + 1)  # type: ignore[misc]
    until(lambda: dns.state() == "failed")
    assert dns.show("ExecMainStatus") == "69"
    (said,) = dns.messages("UDPS-510-C", "parent")
    assert "reg ended 5 times within 60 s" in said
    until(lambda: [dns.state(role) for role in CHILDREN] == ["inactive"] * 3)
    dns.start()
    with load(host, 5, 50) as clients:
        assert clients.report().lost == 0


def test_a_child_that_never_says_hello(host: Machine) -> None:
    dns = instance(host)
    dns.start()
    dns.drop_in("ExecStart=\nExecStart=/bin/false", "reg")
    dns.kill("reg")
    until(lambda: dns.state() == "failed")
    assert dns.show("ExecMainStatus") == "69"
    assert dns.messages("UDPS-510-C", "parent")
    until(lambda: dns.state("reg") in ("inactive", "failed"))
    dns.systemctl("reset-failed", dns.unit)

    # From the very start, too: it is never ready, and the start fails.
    assert dns.systemctl("start", dns.unit, check=False).returncode != 0
    until(lambda: dns.state() == "failed")
    assert dns.show("ExecMainStatus") == "69"
    assert len(dns.messages("UDPS-510-C", "parent")) == 2


@pytest.mark.parametrize(("limit", "status"), [(5, "69"), (1000, "0")])
def test_an_ended_parent_is_not_pulled_up(host: Machine, limit: int, status: str) -> None:
    """By a child whose unit is between two lives when the parent gives up, or is told to terminate:
    here it nearly always is. Nor does that child live on."""
    dns = instance(host, more=f"crash-limit = {limit}")
    dns.start()
    dying = "ExecStart=\nExecStart=/bin/false\nExecStopPost=/bin/sleep 0.3\nRestartSec=1ms"
    dns.drop_in(dying, "reg")
    dns.kill("reg")
    if status == "0":
        until(lambda: int(dns.show("NRestarts", "reg")) > 1)
        dns.ctl("terminate")
    until(lambda: all(dns.state(role) in ENDED for role in ROLES), 30)
    assert dns.show("ExecMainStatus") == status
    restarts = dns.show("NRestarts", "reg")
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        assert all(dns.state(role) in ENDED for role in ROLES)
    assert dns.show("NRestarts", "reg") == restarts
    assert len(dns.messages("UDPS-102-I", "parent")) == 1

    # It can be started again, with all that was stopped.
    host.run("rm", "-r", "/etc/systemd/system/udp-proxy-reg@dns.service.d")
    dns.systemctl("daemon-reload")
    dns.start()
    with load(host, 5, 50) as clients:
        assert clients.report().lost == 0


def test_a_child_without_a_parent_leaves_for_good(host: Machine) -> None:
    ghost = Instance(host, "ghost")
    ghost.systemctl("start", ghost.units()["reg"])
    until(lambda: ghost.state("reg") in ENDED)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert (ghost.state("reg"), ghost.state()) == ("inactive", "inactive")
    (said,) = ghost.messages("UDPS-106-N", "reg")
    assert "/run/udp-proxy/ghost/children.sock" in said


def test_one_failed_start_is_one_failed_unit(host: Machine) -> None:
    """Also where systemd gives the parent up and its children are left waiting for it."""
    dns = instance(host)
    dns.drop_in("ExecStart=\nExecStart=/bin/false\nExecStopPost=")
    assert dns.systemctl("start", dns.unit, check=False).returncode != 0
    until(lambda: dns.state() == "failed" and int(dns.show("NRestarts")) >= 4)
    until(lambda: [dns.state(role) for role in CHILDREN] == ["inactive"] * 3)
    failed = host.run("systemctl", "--failed", "--plain", "--no-legend").stdout.splitlines()
    assert [line.split()[0] for line in failed] == ["udp-proxy@dns.service"]
    dns.systemctl("reset-failed", dns.unit)
    assert host.run("systemctl", "--failed", "--quiet").stdout == ""


def test_stop_in_a_crash_loop_stays_stopped(host: Machine) -> None:
    dns = instance(host, more="crash-limit = 1000")
    dns.start()
    dns.drop_in("ExecStart=\nExecStart=/bin/false", "reg")
    dns.kill("reg")
    until(lambda: int(dns.show("NRestarts", "reg")) > 3)
    dns.systemctl("stop", dns.unit)
    # Where the stop met it running, its own failure is the end that systemd notes.
    until(lambda: dns.state("reg") in ENDED)
    restarts = dns.show("NRestarts", "reg")
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        assert [dns.state(role) for role in ROLES if role != "reg"] == ["inactive"] * 3
        assert dns.state("reg") in ENDED
        assert [dns.pid(role) for role in ROLES] == [0] * 4
    assert dns.show("NRestarts", "reg") == restarts


def test_stop_ends_every_session_and_restart_none(host: Machine) -> None:
    dns = instance(host)
    dns.start()
    with load(host, 50, 500) as clients:
        dns.systemctl("restart", dns.unit)
        clients.answered()
        assert dns.records() == []
        assert len(dns.messages("UDPS-105-I", "parent")) == 1

        dns.systemctl("stop", dns.unit)
    ended = dns.records()
    assert len(ended) == 50
    assert {record["REASON"] for record in ended} == {"terminated"}
    assert len({record["SESSION"] for record in ended}) == 50
    assert len(dns.messages("UDPS-104-I", "parent")) == 1

    # Nothing wakes it up.
    host.run("python3", "-c", KNOCK)
    assert [dns.state(role) for role in ROLES] == ["inactive"] * 4


def test_a_bare_signal_ends_every_session(host: Machine) -> None:
    dns = instance(host)
    for signal in ("TERM", "HUP", "INT", "QUIT"):
        dns.start()
        with load(host, 10, 200):
            before = len(dns.records())
            dns.systemctl("kill", "--kill-whom=main", f"--signal={signal}", dns.unit)
            until(lambda: [dns.state(role) for role in ROLES] == ["inactive"] * 4)
        ended = dns.records()[before:]
        assert [record["REASON"] for record in ended] == ["terminated"] * 10, signal
        assert dns.show("ExecMainStatus") == "0"


KNOCK = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.sendto(b"knock", ("127.0.0.1", 5353))
"""


@pytest.fixture
def by_itself() -> Iterator[None]:
    """The kernel counts descriptors that are in sockets by user, with one limit for each, and users
    of all machines here are the host's: one such crowd at a time."""
    with Path("/var/tmp/udpp.descriptors").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("by_itself")
def test_ten_thousand_sessions_over_a_restart(host: Machine, release: str) -> None:
    dns = instance(host)
    dns.configure(sessions=10_000)
    dns.start()
    stored = int(dns.show("NFileDescriptorStore"))
    assert stored <= 10_000 // 250 + 2
    with load(host, 10_000, 3_000) as clients:
        before = spent(host)
        begun = time.monotonic()
        dns.systemctl("restart", dns.unit)
        took = time.monotonic() - begun
        after = spent(host)
        clients.answered()
        report = clients.report()
    remark = f"PID 1: {after - before:.2f} s, restart {took:.1f} s, {stored} stored"
    unharmed(report, release, "10,000 sessions, restart", remark=remark)
    assert after - before < 1.0
    assert len(dns.sessions()) == 10_000
    dns.systemctl("stop", dns.unit)
    until(lambda: len(dns.records()) == 10_000)


def spent(machine: Machine) -> float:
    """Seconds of CPU that the machine's PID 1 has had."""
    fields = Path(f"/proc/{machine.leader}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
