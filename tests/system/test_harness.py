"""The harness itself: what every other test here takes for granted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from system import cgroups, nspawn
from system.command import CommandError
from system.machine import Machine, MachineError
from system.waiting import until

pytestmark = pytest.mark.one_release("d12")

VERSIONS = {"d12": ("bookworm", 252), "d13": ("trixie", 257)}

ECHO = """
import socket, sdnotify
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 4000))
sdnotify.SystemdNotifier().notify("READY=1")
while True:
    data, client = server.recvfrom(65535)
    server.sendto(data[::-1], client)
"""
ASK = """
import socket
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(20)
client.sendto(b"drawer", ("127.0.0.1", 4000))
print(client.recv(65535).decode())
"""
BOOT_AND_HANG = """
import pathlib, signal, sys
from system.machine import Machine

with Machine(pathlib.Path(sys.argv[1]), "orphan") as machine:
    print(machine.name, flush=True)
    signal.pause()
"""


def traces(name: str) -> list[str]:
    """Whatever of a machine can be found on the host."""
    groups = [place for top in cgroups.hierarchies() for place in top.glob(f"*{name}*")]
    places = list(Path("/run/systemd/nspawn").rglob(f"*{name}*"))
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().split("\n") if name in line]
    return [*map(str, groups), *map(str, places), *mounts, *processes(name)]


def processes(name: str) -> list[str]:
    """Those in the machine's control groups, with systemd-nspawn itself."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            groups = (process / "cgroup").read_text()
            command = (process / "cmdline").read_text()
        except OSError:  # gone meanwhile
            continue
        if name in groups or name in command:
            found.append(f"{process.name}: {command}")
    return found


def test_boots_to_running(machine: Machine, release: str) -> None:
    codename, version = VERSIONS[release]
    assert machine.state == "running"
    assert f"VERSION_CODENAME={codename}\n" in machine.run("cat", "/etc/os-release").stdout
    assert machine.run("systemctl", "--version").stdout.startswith(f"systemd {version} ")
    assert machine.run("hostname").stdout.strip() == machine.name


def test_is_pure_cgroup2_inside(shared_machine: Machine) -> None:
    tainted = shared_machine.run("systemctl", "show", "--property=Tainted", "--value").stdout
    assert "cgroupsv1" not in tainted
    assert shared_machine.run("stat", "-fc", "%T", "/sys/fs/cgroup").stdout == "cgroup2fs\n"


def test_network_is_lo_alone(shared_machine: Machine) -> None:
    links = shared_machine.run("ip", "-brief", "link").stdout.splitlines()
    assert [line.split()[0] for line in links] == ["lo"]
    assert "127.0.0.1" in shared_machine.run("ip", "address", "show", "lo").stdout


def test_network_access_is_the_hosts(root: Path) -> None:
    with Machine(root, network_access=True) as machine:
        inside = machine.run("readlink", "/proc/self/ns/net").stdout.strip()
        assert inside == str(Path("/proc/self/ns/net").readlink())
        assert machine.path("/etc/resolv.conf").read_text() == Path("/etc/resolv.conf").read_text()


def test_journal_is_read_with_its_fields(machine: Machine) -> None:
    for name, text in {"whisper": "heard", "noise": r"\377"}.items():
        properties = ["Type=oneshot", f"SyslogIdentifier={name}"]
        machine.unit_start(name, "printf", text, properties=properties)
    entries = machine.journal("--identifier=whisper")
    assert [entry["MESSAGE"] for entry in entries] == ["heard"]
    assert entries[0]["_TRANSPORT"] == "stdout"
    assert machine.journal("--identifier=noise")[0]["MESSAGE"] == "\ufffd"
    assert machine.journal("--identifier=nobody-at-all") == []
    assert "heard" in machine.journal_text()


def test_side_by_side_see_nothing_of_each_other(root: Path) -> None:
    with Machine(root, "left") as left, Machine(root, "right") as right:
        for machine in (left, right):
            machine.unit_start("both", "sleep", "infinity")
        left.unit_start("only-left", "sleep", "infinity")
        left.write("/etc/only-left", "")

        assert right.run("systemctl", "is-active", "only-left", check=False).stdout == "inactive\n"
        assert "only-left" not in right.run("systemctl", "status", check=False).stdout
        assert not right.path("/etc/only-left").exists()
        right.run("systemctl", "stop", "both")
        assert left.run("systemctl", "is-active", "both").stdout == "active\n"


def test_unit_run_enforces_user_and_sandbox(shared_machine: Machine) -> None:
    assert shared_machine.unit_run("id", "-un", user="nobody").stdout == "nobody\n"
    strict = ["ProtectSystem=strict"]
    for user, properties in (("nobody", []), ("root", strict)):
        refused = shared_machine.unit_run(
            "touch", "/etc/mark", user=user, properties=properties, check=False
        )
        assert refused.returncode == 1
        assert "touch: cannot touch" in refused.stderr
    assert not shared_machine.path("/etc/mark").exists()
    assert shared_machine.unit_run("cat", stdin="passed on").stdout == "passed on"


def test_unit_gets_its_command_as_written(shared_machine: Machine) -> None:
    for text in ("$HOME ${HOME} $$ $1", "100 % %n", "two  blanks", "back\\slash \"quoted\" 'it'"):
        assert shared_machine.unit_run("printf", "%s", text).stdout == text


def test_unit_out_of_time_is_ended(shared_machine: Machine) -> None:
    assert shared_machine.unit_run("sleep", "60", timeout=0.3, check=False).returncode != 0
    assert shared_machine.run("pgrep", "sleep", check=False).stdout == ""


def test_a_unit_gets_all_descriptors_the_host_grants(shared_machine: Machine) -> None:
    granted = nspawn.raise_descriptor_limit()
    shown = shared_machine.unit_run("sh", "-c", "ulimit -Hn", properties=["LimitNOFILE=infinity"])
    assert int(shown.stdout) == granted


def test_datagrams_go_round_inside(machine: Machine) -> None:
    machine.write("/opt/echo.py", ECHO)
    machine.unit_start("echo", "python3", "/opt/echo.py", properties=["Type=notify"])
    assert machine.unit_run("python3", "-c", ASK, user="nobody").stdout == "reward\n"


def test_files_are_put_inside(machine: Machine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "program").write_text("#!/bin/sh\necho works\n")
    (tree / "deep" / "program").chmod(0o755)
    (tree / "unwanted.pyc").touch()
    machine.put(tree, "/opt/new/tree", ignore=["*.pyc"])
    machine.put(tree / "deep" / "program", "/usr/local/bin/program")
    machine.write("/opt/secret", "hidden", mode=0o600)

    assert machine.unit_run("/opt/new/tree/deep/program").stdout == "works\n"
    assert machine.unit_run("program").stdout == "works\n"
    assert machine.run("ls", "/opt/new/tree").stdout == "deep\n"
    assert machine.unit_run("cat", "/opt/secret", user="nobody", check=False).returncode == 1
    assert not (machine.root / "opt" / "new").exists()


def test_links_are_followed_inside(machine: Machine) -> None:
    machine.write("/var/run/from-outside", "mine")
    assert machine.run("cat", "/run/from-outside").stdout == "mine"
    assert not Path("/run/from-outside").exists()


def test_binds_are_seen_but_not_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("mine")
    with Machine(root, binds={tmp_path: "/mnt"}) as machine:
        assert machine.run("cat", "/mnt/given").stdout == "mine"
        assert machine.unit_run("touch", "/mnt/given", check=False).returncode == 1


def test_failed_command_tells_what_it_said(shared_machine: Machine) -> None:
    with pytest.raises(CommandError, match=r"(?s)status 3 of sh .*out\n.*err\n"):
        shared_machine.run("sh", "-c", "echo out; echo err >&2; exit 3")


def test_command_out_of_time_is_ended_inside_too(shared_machine: Machine) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        shared_machine.run("sleep", "4242", timeout=0.2)
    until(lambda: shared_machine.run("pgrep", "-f", "sleep 4242", check=False).stdout == "")


def test_end_leaves_nothing_behind(root: Path) -> None:
    with Machine(root, "leaver") as machine:
        machine.unit_start("stubborn", "sh", "-c", "trap '' TERM; sleep infinity")
        with machine.popen("sleep", "infinity"):
            name = machine.name
            assert any("cgroup" in trace for trace in traces(name))
            assert len(processes(name)) > 5
            machine.write("/etc/written", "")
            machine.stop()
    assert traces(name) == []
    assert not (root / "etc" / "written").exists()


def test_machine_that_powers_off_leaves_nothing_behind(root: Path) -> None:
    with Machine(root, "sleeper") as machine, machine.popen("systemctl", "poweroff") as command:
        try:
            until(lambda: machine.off, limit=60)
        finally:
            # Nobody waits for it: it may be stopped with all other processes before it has ended.
            os.killpg(command.pid, signal.SIGKILL)
    assert traces(machine.name) == []


def test_machine_that_cannot_boot_says_why(tmp_path: Path) -> None:
    empty = Machine(tmp_path, "empty")
    with pytest.raises(MachineError) as caught:
        empty.start()
    assert "doesn't look like" in "".join(caught.value.__notes__)
    assert traces(empty.name) == []


def test_machines_of_a_killed_run_are_swept_up(root: Path) -> None:
    tests = Path(__file__).parents[1]
    run = subprocess.Popen(
        [sys.executable, "-c", BOOT_AND_HANG, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )
    with run:
        try:
            assert run.stdout is not None
            name = run.stdout.readline().strip()
            nspawn.sweep()
            assert processes(name), "a living run lost its machine"
        finally:
            run.kill()
    nspawn.sweep()
    until(lambda: not traces(name))  # the dead wait for the host's PID 1 to collect them


def test_builder_has_the_tools(builder_root: Path) -> None:
    with Machine(builder_root, "builder") as builder:
        builder.run("dpkg-buildpackage", "--version")
        builder.run("dh", "--list")
        builder.run("lintian", "--version")
        builder.run("cython3", "--version")
