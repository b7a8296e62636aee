"""A machine boots with an instance that is enabled, long before its network is up."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from system.machine import Machine
from system.package import Package
from system.service import ROLES, Instance, install, serve_echo
from system.waiting import until

LATE = ("10.99.0.1", "fd99::1")
FAR = ("10.99.0.2", "fd99::2")
WAIT = 30.0
"""Seconds from the boot until the network is there: as with a slow DHCP server."""
CONFIG = """\
max-sessions = 100
[[listen]]
address = "{0}"
port = 5300
[[listen]]
address = "{1}"
port = 5300
[[session-acl]]
name = "all"
plug-to = "127.0.0.1:7000"
"""
ASK = """
import socket, sys
there = sys.argv[1]
sock = socket.socket(socket.AF_INET6 if ":" in there else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.sendto(b"the first", (there, 5300))
answer, who = sock.recvfrom(100)
print(who[0])
"""


@pytest.fixture
def booted(
    root: Path, release: str, deb: Package, tmp_path: Path
) -> Iterator[Callable[[], Machine]]:
    """Boots the same machine again and again: its disk is a copy of the root."""
    disk = tmp_path / "disk"
    subprocess.run(["cp", "--archive", "--reflink=auto", root, disk], check=True)
    with Machine(disk, f"{release}-first", lasting=True) as machine:
        install(machine, deb)
        machine.write("/etc/udp-proxy/late.toml", CONFIG.format(*LATE))
        machine.write("/opt/ask.py", ASK)
        machine.run("systemctl", "enable", "udp-proxy@late")
        assert machine.run("ls", "/run/udp-proxy", check=False).stdout == ""
    yield lambda: Machine(disk, f"{release}-again", lasting=True)
    subprocess.run(["rm", "-rf", "--one-file-system", disk], check=True)


def network_comes(machine: Machine) -> None:
    """An interface to another host, and addresses on it."""
    for command in (
        "ip netns add far",
        "ip link add late type veth peer name eth0 netns far",
        *(f"ip -n far addr add {each}/{bits} dev eth0 {more}"
          for each, bits, more in zip(FAR, (24, 64), ("", "nodad"), strict=True)),
        "ip -n far link set eth0 up",
        "ip link set late up",
        *(f"ip addr add {each}/{bits} dev late {more}"
          for each, bits, more in zip(LATE, (24, 64), ("", "nodad"), strict=True)),
    ):  # fmt: skip
        machine.run(*command.split())


def test_cold_boot_long_before_the_network(booted: Callable[[], Machine]) -> None:
    with booted() as machine:
        up = time.monotonic()
        late = Instance(machine, "late")
        assert machine.state == "running"
        assert {late.state(role) for role in ROLES} == {"active"}
        assert late.show("NRestarts") == "0"
        pids = {role: late.pid(role) for role in ROLES}
        serve_echo(machine)

        until(lambda: time.monotonic() - up > WAIT - machine.boot_seconds, WAIT + 10)
        warned = late.messages("UDPS-126-W")
        assert [sum(address in text for text in warned) for address in LATE] == [1, 1]
        assert machine.run("systemctl", "--failed", "--quiet").stdout == ""
        network_comes(machine)
        for address in LATE:
            asked = machine.run("ip", "netns", "exec", "far", "python3", "/opt/ask.py", address)
            assert asked.stdout == f"{address}\n"

        assert {role: late.pid(role) for role in ROLES} == pids
        assert late.show("NRestarts") == "0"
        assert len(late.messages("UDPS-126-W")) == 2
        assert late.messages("UDPS-520-E") == []
        assert machine.run("systemctl", "--failed", "--quiet").stdout == ""


def test_a_host_that_shuts_down_ends_the_sessions_in_order(booted: Callable[[], Machine]) -> None:
    with booted() as machine:
        machine.run("mkdir", "-p", "/var/log/journal")
        machine.run("journalctl", "--flush")
        serve_echo(machine)
        network_comes(machine)
        for address in LATE:
            machine.run("ip", "netns", "exec", "far", "python3", "/opt/ask.py", address)
        os.kill(machine.leader, signal.SIGRTMIN + 4)  # as the power button does (systemd(1))
        until(lambda: machine.off, 90)
    with booted() as machine:
        late = Instance(machine, "late")
        assert {late.state(role) for role in ROLES} == {"active"}
        before = machine.journal("--boot=-1", "SYSLOG_IDENTIFIER=udp-proxy/late")
        said = [(entry.get("UDP_PROXY_ID"), entry.get("REASON")) for entry in before]
        assert said.count(("UDPP-888-I", "terminated")) == 2
        assert said[-1] == ("UDPS-104-I", None), before[-1]
        assert before[-1]["MESSAGE"].endswith("stopped with 2 sessions ended")
        of_units = (f"UNIT={unit}.service" for unit in late.units().values())
        ends = [entry["MESSAGE"] for entry in machine.journal("--boot=-1", "_PID=1", *of_units)]
        assert any("Deactivated successfully" in text for text in ends)
        assert not [text for text in ends if "timed out" in text or "Failed" in text]
