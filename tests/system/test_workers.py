"""Several workers, each with a socket of its own on the same address and port: which of them gets a
client's datagrams is decided in the kernel by the place of its socket among the others, and must be
the same after the sockets came back from systemd's store.

A client that changed its worker would be a stranger there: it would get another session, with
another port towards the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from system import losses
from system.machine import Machine
from system.package import Package
from system.service import ROLES, Instance, install, load, serve_echo
from system.waiting import until

pytestmark = pytest.mark.one_release("d12")

WORKERS = 4
IN_HAND = 64 * WORKERS
SESSIONS = 50


@pytest.fixture(scope="module")
def running(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    """A machine with a server, and an instance with several workers."""
    with Machine(root, f"{release}-workers") as machine:
        install(machine, deb)
        serve_echo(machine)
        dns = Instance(machine)
        dns.configure(more=f"workers = {WORKERS}\ncrash-limit = 1000")
        dns.drop_in("[Unit]\nStartLimitIntervalSec=0\n")
        dns.start()
        yield machine


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    ("command", "lost"),
    [
        ("kill --kill-whom=main --signal=KILL udp-proxy-reg@dns", IN_HAND),
        ("restart udp-proxy-reg@dns", 0),
        ("restart udp-proxy@dns", 0),
        ("kill --kill-whom=main --signal=KILL udp-proxy@dns", 0),
    ],
)
def test_clients_stay_with_their_worker(
    running: Machine, release: str, command: str, lost: int, times: int
) -> None:
    dns = Instance(running)
    before = int(str(dns.info("reg")["sessions-opened"]))
    assert dns.info("reg")["workers"] == WORKERS
    role = "reg" if "reg@" in command else "parent"
    with load(running, SESSIONS) as clients:
        for _ in range(times):
            old = dns.pid(role)
            dns.systemctl(*command.split())
            dns.replaced(role, old)
            until(lambda: all(dns.pid(one) and dns.state(one) == "active" for one in ROLES))
            clients.answered()
        report = clients.report()
    losses.note(release, f"{WORKERS} workers: {times} times systemctl {command}", report)
    assert report.moved == []
    assert report.twice == report.refused == 0
    assert report.lost <= lost * times
    after = int(str(dns.info("reg")["sessions-opened"]))
    assert after - before in (0, SESSIONS)  # those of the case before may still be there
    assert dns.info("reg")["sessions"] == SESSIONS
