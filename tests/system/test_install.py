"""From nothing to a running proxy, and away again: install, start, stop, upgrade, remove, purge."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from system import losses
from system.machine import Machine
from system.package import OLDER, Package
from system.service import CHILDREN, PORT, SERVER_PORT, Instance, Report, install, load, serve_echo
from system.waiting import until

SERVER = (
    "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= "
    f"--listen-address=127.0.0.1 --bind-interfaces --port={SERVER_PORT} --user=root "
    "--host-record=www.example.test,192.0.2.80"
)
MISTAKES = """\
max-sessions = 0
wrong = 1
[[listen]]
address = "127.0.0.1"
port = 70000
[[session-acl]]
name = "local"
from = ["127.0.0.0/33"]
"""


def traces(machine: Machine) -> list[str]:
    """Whatever a running proxy has: processes, ports, mounts, its directory."""
    shown = machine.run("ps", "-e", "-o", "args=").stdout.splitlines()
    shown += machine.run("ss", "-Hlunp").stdout.splitlines()
    # Not the whole lines: the root's own says where on the host the working tree is.
    mounts = machine.run("cat", "/proc/self/mountinfo").stdout.splitlines()
    shown += [" ".join(line.split()[3:5]) for line in mounts]
    shown += machine.run("ls", "/run/udp-proxy", check=False).stdout.splitlines()
    return [line for line in shown if any(one in line for one in ("udp-proxy", "udpproxy", "dns"))]


def files(machine: Machine) -> set[str]:
    """What the package has or makes, wherever it is."""
    places = ["/etc", "/usr", "/var", "/run", "/lib"]
    found = machine.run("find", *places, "-xdev", "-iname", "*udp[-_]*proxy*").stdout
    found += machine.run("find", *places, "-xdev", "-iname", "*udpproxy*").stdout
    return {line for line in found.splitlines() if "/cgroup/" not in line}


def test_lintian_has_nothing_to_say(deb: Package) -> None:
    assert deb.lintian == ""


def test_from_nothing_to_an_answer_and_back(machine: Machine, deb: Package) -> None:
    machine.unit_start("server", *SERVER.split(), properties=["Type=exec"])
    install(machine, deb)
    assert machine.run("systemctl", "is-active", "udp-proxy.target").stdout == "active\n"
    dns = Instance(machine)
    dns.configure()
    idle = [line for line in traces(machine) if "dnsmasq" not in line]
    assert idle == []

    dns.start()
    question = ["dig", "@127.0.0.1", "-p", str(PORT), "+short", "+tries=1", "www.example.test"]
    assert machine.run(*question).stdout == "192.0.2.80\n"
    until(lambda: "running: listening 1, sessions 1/1000" in dns.show("StatusText"))
    assert machine.run(*question).stdout == "192.0.2.80\n"
    until(lambda: "sessions 2/1000" in dns.systemctl("status", dns.unit).stdout)
    assert all(dns.state(role) == "active" for role in dns.units())
    assert sum(line.endswith(" dns") for line in traces(machine)) == 3  # ... reg dns, and so on

    dns.systemctl("stop", dns.unit)
    assert [dns.state(role) for role in dns.units()] == ["inactive"] * 4
    assert [line for line in traces(machine) if "dnsmasq" not in line] == []
    assert machine.run("ls", "/run/udp-proxy", check=False).stdout == ""
    refused = machine.run(*question, check=False)
    assert refused.returncode == 9  # dig's word for no answer
    assert dns.state() == "inactive"
    assert machine.run("systemctl", "--failed", "--quiet").stdout == ""


def test_what_remove_and_purge_leave(machine: Machine, deb: Package) -> None:
    before = files(machine)
    install(machine, deb)
    dns = Instance(machine)
    dns.configure(more='log = { target = "file", file = "/var/log/udp-proxy/dns.log" }')
    dns.drop_in("ExecStopPost=/bin/sleep 1")  # it ends later than the target does
    dns.systemctl("enable", dns.unit)
    dns.systemctl("add-wants", "multi-user.target", "udp-proxy@other.service")
    dns.systemctl("add-requires", "timers.target", "udp-proxy@third.service")
    dns.start()

    machine.run("apt-get", "remove", "--yes", "udp-proxy")
    machine.run("rm", "-r", f"/etc/systemd/system/{dns.unit}.service.d")
    assert [line for line in traces(machine) if line.strip()] == []
    assert dns.systemctl("is-active", dns.unit, check=False).stdout == "inactive\n"
    left = files(machine) - before
    dpkg = {one for one in left if one.startswith("/var/lib/dpkg/info/udp-proxy.")}
    enabled = {
        one
        for one in left
        if "deb-systemd-helper" in one or ".target.wants" in one or ".requires/" in one
    }
    kept = {"/etc/udp-proxy", "/etc/logrotate.d/udp-proxy", "/var/log/udp-proxy"}
    assert left - dpkg - enabled == kept
    assert machine.path("/etc/udp-proxy/dns.toml").exists()

    machine.run("apt-get", "purge", "--yes", "udp-proxy")
    assert files(machine) - before == {"/etc/udp-proxy"}  # the administrator's own file is in it
    assert machine.run("id", "udp-proxy").returncode == 0
    assert machine.run("systemctl", "--failed", "--quiet").stdout == ""


def test_remove_without_instances_leaves_no_directory(machine: Machine, deb: Package) -> None:
    before = files(machine)
    install(machine, deb)
    machine.run("apt-get", "purge", "--yes", "udp-proxy")
    assert files(machine) == before


def test_an_upgrade_keeps_sessions(
    machine: Machine, deb: Package, older_deb: Package, release: str
) -> None:
    install(machine, older_deb)
    assert OLDER in machine.run("dpkg-query", "--show", "udp-proxy").stdout
    serve_echo(machine)
    dns = Instance(machine)
    dns.configure()
    dns.start()
    events = (("upgrade", deb), ("reinstall", deb), ("downgrade", older_deb))
    bus = " as the bus restarts"
    for event, package in (*events, (f"upgrade{bus}", deb), (f"downgrade{bus}", older_deb)):
        old = dns.pid("parent")
        with load(machine) as clients:
            if event.endswith(bus):
                dns.systemctl("restart", "dbus.service")
            install(machine, package)
            clients.answered()
            kept(clients.report(), release, event)
        assert dns.pid("parent") != old, f"the {event} left the old code running"
    assert dns.records() == []


@pytest.mark.long
def test_an_upgrade_from_0_1_0_keeps_sessions(
    machine: Machine, deb: Package, landed_deb: Package, release: str
) -> None:
    """Whose session table has another layout, and which stored listeners in another way."""
    install(machine, landed_deb)
    assert "0.1.0" in machine.run("dpkg-query", "--show", "udp-proxy").stdout
    serve_echo(machine)
    dns = Instance(machine)
    dns.configure()
    dns.start()
    old = dns.pid("parent")
    with load(machine) as clients:
        install(machine, deb)
        clients.answered()
        kept(clients.report(), release, "upgrade from 0.1.0")
    assert dns.pid("parent") != old
    assert dns.records() == []
    with load(machine) as clients:
        dns.systemctl("restart", dns.unit)
        clients.answered()
        kept(clients.report(), release, "restart after it")


def kept(report: Report, release: str, event: str) -> None:
    losses.note(release, event, report)
    assert report.moved == []
    assert (report.lost, report.twice, report.refused) == (0, 0, 0)


def test_another_size_keeps_the_sessions_that_fit(shared_host: Machine) -> None:
    dns = instance(shared_host, "sizes", 5401)
    dns.configure(sessions=60)
    dns.start()
    sources: list[set[object]] = []
    for size in (400, 50, 10):
        dns.configure(sessions=size)
        with load(shared_host, 40, 400, dns.port) as clients:
            sources.append({session["source"] for session in dns.sessions()})
            dns.systemctl("restart", dns.unit)
            if size >= 40:
                clients.answered()
                assert clients.report().moved == []
        sources.append({session["source"] for session in dns.sessions()})
    assert all(after <= before for before, after in itertools.pairwise(sources[:5]))
    assert len(sources[4]) == 40
    assert len(sources[5]) == 10
    assert sources[5] <= sources[4]
    cut_off = dns.records()
    assert len(cut_off) == 30
    assert {record["REASON"] for record in cut_off} == {"terminated"}
    dns.stop()


def test_a_file_with_mistakes_says_every_one(shared_host: Machine) -> None:
    dns = instance(shared_host, "mistakes", 5402)
    dns.configure()
    dns.start()
    with load(shared_host, 2, 10, dns.port):
        pass
    dns.write(MISTAKES)
    assert dns.systemctl("restart", dns.unit, check=False).returncode != 0
    until(lambda: dns.state() == "failed")
    assert dns.show("ExecMainStatus") == "78"
    assert dns.show("NRestarts") == "0"
    said = "\n".join(entry["MESSAGE"] for entry in dns.entries())
    for line, word in ((1, "max-sessions"), (2, "wrong"), (5, "port"), (8, "from")):
        assert f"mistakes.toml:{line}:" in said, f"line {line} ({word}) is not named:\n{said}"
    until(lambda: [dns.state(role) for role in CHILDREN] == ["inactive"] * 3)
    dns.configure()
    dns.start()
    dns.stop()


def test_no_file_no_proxy(shared_host: Machine) -> None:
    ghost = Instance(shared_host, "ghost")
    assert ghost.systemctl("start", ghost.unit, check=False).returncode != 0
    assert ghost.show("ExecMainStatus") == "78"
    assert "/etc/udp-proxy/ghost.toml" in "\n".join(each["MESSAGE"] for each in ghost.entries())
    until(lambda: [ghost.state(role) for role in CHILDREN] == ["inactive"] * 3)
    ghost.stop()


@pytest.mark.parametrize(
    "page", ["8 udp-proxy", "5 udp-proxy.toml", "5 org.udpproxy1", "7 udp-proxy-extension"]
)
def test_manual_pages_are_there(shared_host: Machine, page: str) -> None:
    section, name = page.split()
    where = Path(f"/usr/share/man/man{section}/{name}.{section}.gz")
    listed = shared_host.run("dpkg-query", "--listfiles", "udp-proxy").stdout
    assert f"{where}\n" in listed


def instance(machine: Machine, name: str, port: int) -> Instance:
    """Another one on the machine that all share, with the same server."""
    if machine.run("systemctl", "is-active", f"echo-{SERVER_PORT}", check=False).returncode:
        serve_echo(machine)
    return Instance(machine, name, port)
