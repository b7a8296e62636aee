"""Several instances on one machine: each by itself, and all of them by their target."""

from __future__ import annotations

import time

import pytest

from system.machine import Machine
from system.service import ROLES, Instance, load, serve_echo
from system.waiting import until

pytestmark = pytest.mark.one_release("d13")


@pytest.fixture
def pair(host: Machine) -> tuple[Instance, Instance]:
    serve_echo(host)
    both = (Instance(host, "inner", 5353), Instance(host, "outer-2", 5354))
    for one in both:
        one.configure()
    return both


def states(instance: Instance) -> set[str]:
    return {instance.state(role) for role in ROLES}


def test_side_by_side(host: Machine, pair: tuple[Instance, Instance]) -> None:
    inner, outer = pair
    for one in pair:
        one.start()
    assert inner.on_bus()
    assert not outer.busctl("status", "org.udpproxy1.outer", check=False).stdout
    names = host.run("busctl", "list", "--acquired").stdout
    assert "org.udpproxy1.inner " in names
    with load(host, 20, 400, inner.port) as clients:
        pids = [inner.pid(role) for role in ROLES]
        outer.systemctl("restart", outer.unit)
        outer.kill("parent")
        until(lambda: states(outer) == {"active"})
        outer.ctl("loglevel", "9")
        outer.systemctl("stop", outer.unit)
        clients.answered()
        report = clients.report()
    assert (report.lost, report.moved) == (0, [])
    assert [inner.pid(role) for role in ROLES] == pids
    assert inner.level("reg") == 6
    assert host.run("ls", "/run/udp-proxy").stdout == "inner\n"
    assert states(outer) == {"inactive"}


def test_by_the_target(host: Machine, pair: tuple[Instance, Instance]) -> None:
    inner, outer = pair
    for one in pair:
        one.systemctl("enable", one.unit)
    wants = host.run("ls", "/etc/systemd/system/udp-proxy.target.wants").stdout.split()
    assert wants == ["udp-proxy@inner.service", "udp-proxy@outer-2.service"]
    inner.systemctl("start", "udp-proxy.target")
    until(lambda: states(inner) == states(outer) == {"active"})
    assert (
        "udp-proxy.target"
        in host.run("systemctl", "list-dependencies", "--plain", "multi-user.target").stdout
    )

    with load(host, 5, 100, outer.port) as clients:
        inner.systemctl("restart", "udp-proxy.target")
        until(lambda: states(inner) == states(outer) == {"active"})
        clients.answered()
        assert clients.report().moved == []

    inner.systemctl("stop", "udp-proxy.target")  # returns at once
    until(lambda: states(inner) == states(outer) == {"inactive"})
    assert host.run("ls", "/run/udp-proxy").stdout == ""
    inner.systemctl("disable", inner.unit)
    inner.systemctl("start", "udp-proxy.target")
    until(lambda: states(outer) == {"active"})
    assert states(inner) == {"inactive"}


def test_a_port_that_is_taken(host: Machine, pair: tuple[Instance, Instance]) -> None:
    inner, _ = pair
    rival = Instance(host, "rival", inner.port)
    rival.configure()
    inner.start()
    assert rival.systemctl("start", rival.unit, check=False).returncode != 0
    until(lambda: any("Address already in use" in text for text in rival.messages("UDPS-520-E")))
    assert rival.show("ExecMainStatus") == "71"
    # Never so often that the start limit would end it, and no more than that.
    begun = time.monotonic()
    until(lambda: len(rival.messages("UDPS-520-E")) == 7, 60)
    assert time.monotonic() - begun > 15
    assert rival.state() in ("activating", "deactivating")  # it rests, or tries
    assert states(inner) == {"active"}
    inner.stop()
    until(lambda: states(rival) == {"active"}, 30)
    rival.stop()
    inner.start()


def group(instance: Instance, role: str) -> str:
    return instance.show("ControlGroup", role)


def test_limits_of_one_are_not_those_of_another(host: Machine) -> None:
    """Whatever their names: systemd puts a-b.slice into a.slice."""
    names = ("my", "my-dns", "my-dns_", "my-dns-2")
    serve_echo(host)
    instances = [Instance(host, name, 5310 + number) for number, name in enumerate(names)]
    for one in instances:
        one.configure()
        one.start()
    for one in instances:
        of_all = f"udpproxy-{one.name}:all.slice"
        one.systemctl("set-property", "--runtime", of_all, "MemoryMax=512M")
        place = host.run("systemctl", "show", "--property=ControlGroup", "--value", of_all)
        inside = {(each, role) for each in instances for role in ROLES
                  if group(each, role).startswith(place.stdout.strip() + "/")}  # fmt: skip
        assert inside == {(one, role) for role in ROLES}
    my, *others = instances
    my.systemctl("stop", "udpproxy-my:all.slice")
    until(lambda: states(my) == {"inactive"})
    assert [states(one) for one in others] == [{"active"}] * 3


def test_another_slice_keeps_the_sessions(host: Machine) -> None:
    """As an upgrade from a version whose instances had others brings it."""
    serve_echo(host)
    dns = Instance(host, "my-dns", 5310)
    dns.configure()
    for role in ROLES:
        dns.drop_in("Slice=udpproxy-%i.slice", role)
    dns.start()
    assert "/udpproxy-my.slice/udpproxy-my-dns.slice/" in group(dns, "reg")
    with load(host, 20, 400, dns.port) as clients:
        for role in ROLES:
            host.run("rm", f"/etc/systemd/system/{dns.units()[role]}.service.d/test.conf")
        dns.systemctl("daemon-reload")
        # Until then a child that dies is still one of ours, wherever it comes back.
        old = dns.pid("reg")
        dns.kill("reg")
        dns.replaced("reg", old)
        clients.answered()
        dns.systemctl("restart", dns.unit)
        clients.answered()
        report = clients.report()
    assert (report.lost, report.moved) == (0, [])
    assert {group(dns, role).rpartition("/")[0] for role in ROLES} == {
        "/udpproxy.slice/udpproxy-my.slice/udpproxy-my-dns:all.slice"
    }
