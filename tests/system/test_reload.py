"""A reload as systemd sees it: `reloading` for as long as it takes, and never for longer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from system.machine import Machine
from system.service import Instance, load, serve_echo
from system.waiting import until

pytestmark = pytest.mark.one_release("d12")

WAYS = {
    "ctl": "udp-proxy ctl dns reload",
    "bus": "busctl call org.udpproxy1.dns /org/udpproxy1 org.udpproxy1.Proxy Reload",
    "systemctl": "systemctl reload udp-proxy@dns",
}


@pytest.fixture
def dns(host: Machine) -> Iterator[Instance]:
    """Relaying; afterwards it is what it was, whatever was tried."""
    serve_echo(host)
    instance = Instance(host)
    instance.configure()
    instance.start()
    parent = instance.pid("parent")
    yield instance
    until(lambda: instance.show("SubState") == "running")
    assert instance.state() == "active"
    assert (instance.pid("parent"), instance.show("NRestarts")) == (parent, "0")
    assert not [one for one in instance.entries() if "timed out" in one["MESSAGE"]]
    with load(host, 5, 50) as clients:
        assert clients.report().lost == 0


def asked(dns: Instance, way: str) -> subprocess.Popen[str]:
    return dns.machine.popen(*WAYS[way].split())


def done(asked: subprocess.Popen[str], *, well: bool = True) -> None:
    _, errors = asked.communicate(timeout=60)
    assert (asked.returncode == 0) is well, errors


@pytest.mark.parametrize("way", WAYS)
def test_systemd_knows_of_it(dns: Instance, way: str) -> None:
    dns.kill("reg", "STOP")  # so it takes a while
    reload = asked(dns, way)
    until(lambda: dns.state() == "reloading")
    dns.kill("reg", "CONT")
    done(reload)
    until(lambda: dns.state() == "active")


def test_fifty_in_a_row(dns: Instance) -> None:
    """Every second file has a mistake, and every third is a whole new size: both are refused."""
    for number in range(50):
        refused = number % 2 == 1 or number % 3 == 2
        if number % 2:
            dns.write("colour = 1\n")
        else:
            dns.configure(sessions=10 if number % 3 == 2 else 1000)
        done(asked(dns, list(WAYS)[number % len(WAYS)]), well=not refused)
        until(lambda: dns.state() == "active")
    dns.configure()


def test_many_at_once(dns: Instance) -> None:
    for asking in [asked(dns, way) for way in ("ctl", "bus", "systemctl", "bus", "ctl")]:
        done(asking)


def test_while_it_restarts(host: Machine) -> None:
    """The restart wins; what asked for the reload is told so, or gets it from the next parent."""
    serve_echo(host)
    dns = Instance(host)
    dns.configure()
    dns.start()
    for way in WAYS:
        old = dns.pid("parent")
        with load(host, 20, 200) as clients:
            dns.kill("reg", "STOP")
            reload = asked(dns, way)
            until(lambda: dns.state() == "reloading")
            dns.systemctl("restart", dns.unit)
            reload.communicate(timeout=60)
            clients.answered()
            assert clients.report().moved == []
        assert dns.state() == "active"
        assert dns.pid("parent") != old
        assert dns.show("NRestarts") == "0"
        assert dns.records() == []
        done(asked(dns, way))
        until(lambda: dns.show("SubState") == "running")
