"""Who may do what, what the units forbid themselves, and what a crowd of callers can do."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import losses
from system.machine import Machine
from system.package import Package
from system.service import INSIDE, ROLES, Instance, install, load, serve_echo
from system.waiting import until

EXPOSURE = {"parent": 1.3, "reg": 0.6, "acr": 1.2, "apr": 1.2}
CHANGES = [
    ("", "LogLevel", "s", "+1"),
    ("", "Reopen"),
    ("", "Terminate"),
    ("", "Reload"),
    ("", "ListSessions", "a{sv}", "0"),
    ("", "KillSession", "t", "1"),
    ("", "Explain", "a{sv}", "1", "from", "s", "127.0.0.1"),
    ("", "ResolveNow"),
    ("", "Segmentation", "s", "off"),
    ("parent", "Terminate"),
    ("reg", "LogLevel", "s", "9"),
    ("acr", "Reopen"),
    ("reg", "Terminate"),
]
"""What only root, the group and whom polkit lets may call: object, method, arguments."""
CALLS = 2_000


@pytest.fixture(scope="module")
def guarded(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    """With a plain user, alice, and one of the group, bob."""
    with Machine(root, f"{release}-security") as machine:
        install(machine, deb)
        serve_echo(machine)
        machine.run("useradd", "alice")
        machine.run("useradd", "--groups", "udp-proxy", "bob")
        dns = Instance(machine)
        dns.configure()
        dns.start()
        yield machine


@pytest.fixture
def dns(guarded: Machine) -> Instance:
    return Instance(guarded)


@pytest.fixture(params=["polkit", "no polkit"])
def polkit(request: pytest.FixtureRequest, guarded: Machine) -> Iterator[None]:
    """Running, or not to be had."""
    if request.param == "polkit":
        guarded.run("systemctl", "start", "polkit")
        yield
    else:
        guarded.run("systemctl", "mask", "--now", "polkit")
        yield
        guarded.run("systemctl", "unmask", "polkit")


def test_units_are_well_formed(guarded: Machine) -> None:
    listed = guarded.run("dpkg-query", "--listfiles", "udp-proxy").stdout.split()
    units = [path for path in listed if path.endswith((".service", ".target"))]
    assert len(units) == 5
    verified = guarded.run("systemd-analyze", "verify", "--man=no", *units)
    assert (verified.stdout, verified.stderr) == ("", "")


@pytest.mark.parametrize("role", ROLES)
def test_exposure(dns: Instance, role: str) -> None:
    path = dns.show("FragmentPath", role)
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    rated = dns.machine.run(*words, f"--threshold={EXPOSURE[role] * 10:.0f}", path, check=False)
    assert rated.returncode == 0, rated.stdout


@pytest.mark.parametrize("role", ROLES)
def test_what_a_process_has(dns: Instance, role: str) -> None:
    process = Path("/proc", str(dns.pid(role)))
    status = dns.machine.run("cat", str(process / "status")).stdout
    fields = {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}
    user = "udp-proxy" if role == "parent" else "udp-proxy-child"
    number = dns.machine.run("id", "--user", user).stdout.strip()
    group = dns.machine.run("id", "--group", "udp-proxy").stdout.strip()
    assert set(fields["Gid"]) == {group}
    assert set(fields["Uid"]) == {number}
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(fields[name][0], 16) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == (["1"], ["2"])

    # Where the processors are busy, names wait and sessions do not.
    nice = dns.machine.run("ps", "-o", "ni=", "-p", process.name).stdout.strip()
    assert nice == {"parent": "0", "reg": "0", "acr": "5", "apr": "5"}[role]

    def network(pid: object) -> str:
        return dns.machine.run("readlink", f"/proc/{pid}/ns/net").stdout

    assert (network(process.name) == network(1)) == (role != "reg")
    shown = dns.machine.run("cat", str(process / "cmdline")).stdout.split("\0")
    assert shown[-3:-1] == [role, "dns"] or role == "parent"


def test_what_others_can_see(dns: Instance) -> None:
    places = ["/etc/udp-proxy", "/var/log/udp-proxy", "/run/udp-proxy/dns"]
    modes = dns.machine.run("stat", "--format=%A %U %G", *places).stdout.splitlines()
    assert modes[0] == "drwxr-s--- root udp-proxy"
    assert modes[1:] == [f"drwx{rest}--- udp-proxy udp-proxy" for rest in ("rwx", "r-x")]
    # The socket is for neither; over D-Bus the group may.
    words = ["udp-proxy", "ctl", "dns", "--runtime-dir", places[2]]
    refused = dns.machine.unit_run(*words, "terminate", user="alice", check=False)
    assert refused.returncode == 1
    assert "may do that; run this as root, or join that group" in refused.stderr
    done = dns.machine.unit_run(*words, "loglevel", "normal", user="bob", check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("polkit")
def test_everybody_may_read(dns: Instance) -> None:
    for user in ("root", "alice", "bob"):
        assert '"state" s "running"' in dns.call("Info", user=user).stdout
        words = ["get-property", "org.udpproxy1.dns", "/org/udpproxy1"]
        shown = dns.busctl(*words, "org.udpproxy1.Proxy", "MaxSessions", user=user).stdout
        assert shown == "u 1000\n"


@pytest.mark.usefixtures("polkit")
def test_a_stranger_may_change_nothing(dns: Instance) -> None:
    before = (dns.level("parent"), dns.level("reg"), [dns.pid(role) for role in ROLES])
    alice = dns.machine.run("id", "--user", "alice").stdout.strip()
    with load(dns.machine, 3, 30):
        count = len(dns.sessions())
        for where, member, *words in CHANGES:
            answer = dns.call(member, *words, where=where, user="alice", check=False)
            assert answer.returncode == 1, member
            assert "Access denied" in answer.stderr or "AccessDenied" in answer.stderr
            assert answer.stdout == ""
        words = ["set-property", "org.udpproxy1.dns", "/org/freedesktop/LogControl1"]
        words += ["org.freedesktop.LogControl1", "LogLevel", "s", "debug"]
        assert dns.busctl(*words, user="alice", check=False).returncode == 1
        assert len(dns.sessions()) == count
    assert (dns.level("parent"), dns.level("reg"), [dns.pid(role) for role in ROLES]) == before
    refused = dns.machine.journal("UDP_PROXY_ID=UDPS-322-W")
    assert refused
    assert {entry["CALLER_UID"] for entry in refused} == {alice}
    assert all(f"by uid {alice} refused" in entry["MESSAGE"] for entry in refused)


@pytest.mark.usefixtures("polkit")
@pytest.mark.parametrize("user", ["root", "bob"])
def test_the_group_may_do_what_root_may(dns: Instance, user: str) -> None:
    assert dns.call("LogLevel", "s", "debug", user=user).stdout == 's "debug (7)"\n'
    assert dns.level("reg") == 7
    dns.call("LogLevel", "s", "normal", user=user)
    dns.call("Reload", user=user)
    assert dns.call("ListSessions", "a{sv}", "0", user=user).stdout.startswith("aa{sv} ")
    old = dns.pid("apr")
    dns.call("Terminate", where="apr", user=user)
    dns.replaced("apr", old)


def test_what_polkit_grants(guarded: Machine, dns: Instance) -> None:
    """A rule of the administrator lets a user in who is in no group."""
    rule = 'polkit.addRule(function(a, s) { if (a.id == "org.udpproxy1.control" && '
    rule += 's.user == "alice") return polkit.Result.YES; });\n'
    guarded.write("/etc/polkit-1/rules.d/10-alice.rules", rule)
    guarded.run("systemctl", "restart", "polkit")
    until(lambda: dns.call("Reopen", user="alice", check=False).returncode == 0)
    guarded.path("/etc/polkit-1/rules.d/10-alice.rules").unlink()
    guarded.run("systemctl", "restart", "polkit")
    until(lambda: dns.call("Reopen", user="alice", check=False).returncode == 1)


def test_a_polkit_that_hangs_holds_up_no_one_else(dns: Instance) -> None:
    """A stranger is refused once its time is over; root and the group need not ask it."""
    machine = dns.machine
    machine.run("systemctl", "restart", "polkit")
    machine.run("systemctl", "kill", "--signal=STOP", "polkit")
    words = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--uid=alice", "busctl"]
    words += ["--allow-interactive-authorization=no", "call", "org.udpproxy1.dns"]
    words += ["/org/udpproxy1", "org.udpproxy1.Proxy", "Reopen"]
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        strangers = [stack.enter_context(machine.popen(*words)) for _ in range(6)]
        stack.callback(machine.run, "systemctl", "kill", "--signal=CONT", "polkit")
        while any(stranger.poll() is None for stranger in strangers):
            asked = time.monotonic()
            dns.call("LogLevel", "s", "6")
            assert time.monotonic() - asked < 1.0
            assert time.monotonic() - begun < 15.0
            time.sleep(0.1)
        assert time.monotonic() - begun > 4.0, "it was asked"
        for stranger in strangers:
            _, errors = stranger.communicate()
            assert stranger.returncode == 1
            assert "Access denied" in errors or "AccessDenied" in errors or "too many" in errors
        assert dns.call("Reopen", user="bob").returncode == 0


def test_a_crowd_of_callers_does_no_harm(dns: Instance, release: str) -> None:
    machine = dns.machine
    machine.put(INSIDE / "calls.py", "/opt/calls.py")
    machine.run("systemctl", "restart", "polkit")
    with load(machine, rate=500) as clients:
        clients.answered()
        losses.note(release, "before the flood of calls", clients.report())
    lines = len(machine.journal())
    as_alice = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--uid=alice"]
    with load(machine, rate=500) as clients:
        flood = [
            machine.popen(*as_alice, "python3", "/opt/calls.py", "dns", member, str(CALLS))
            for member in ("LogLevel", "Info")
        ]
        answers = []
        for caller in flood:
            output, errors = caller.communicate(timeout=120)
            assert caller.returncode == 0, errors
            answers.append(json.loads(output))
        clients.answered()
        report = clients.report()
    took = report.sent / 500
    refused, informed = answers
    remark = f"{2 * CALLS} calls in {took:.0f} s"
    losses.note(release, "flood of D-Bus calls", report, remark)
    assert set(refused) <= {
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.LimitsExceeded",
    }
    assert set(informed) <= {"done", "org.freedesktop.DBus.Error.LimitsExceeded"}
    assert (sum(refused.values()), sum(informed.values())) == (CALLS, CALLS)
    assert (report.lost, report.moved) == (0, [])
    assert report.p99 < 0.1
    added = machine.journal()[lines:]
    ours = [entry for entry in added if entry["SYSLOG_IDENTIFIER"].startswith("udp-proxy")]
    assert len(ours) <= 3 * took + 10
    assert len(added) <= 3 * took + 60, "somebody else was made to fill the journal"
    assert dns.level("parent") == 6


def test_nothing_of_it_was_an_internal_error(guarded: Machine) -> None:
    assert guarded.journal("UDP_PROXY_ID=UDPS-530-C") == []
    assert not [each for each in guarded.journal() if "Traceback" in each["MESSAGE"]]
