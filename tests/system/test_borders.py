"""What the units see of the kernel, of each other and of the bus, and what they are kept from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from system.machine import Machine
from system.package import Package
from system.service import Instance, install, serve_echo

RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


@pytest.fixture(scope="module")
def bordered(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    with Machine(root, f"{release}-borders") as machine:
        install(machine, deb)
        serve_echo(machine)
        yield machine


@pytest.fixture
def ports(bordered: Machine) -> Iterator[Callable[[str], object]]:
    """Sets the machine's range of ephemeral ports; as it was afterwards."""
    before = bordered.run("cat", RANGE).stdout

    def put(text: str) -> None:
        bordered.run("tee", RANGE, stdin=text)

    yield put
    put(before)


def test_check_and_unit_read_the_same_ports(
    bordered: Machine, ports: Callable[[str], object]
) -> None:
    """A file that `check` calls good starts, and one that it refuses does not."""
    tftp = Instance(bordered, "tftp")
    listens = 'max-sessions = 10\n[[listen]]\naddress = "127.0.0.1"\nport = "{}"\n'
    tftp.write(listens.format("33000-33010"))
    ports("50000 60999")
    bordered.run("udp-proxy", "check", "/etc/udp-proxy/tftp.toml")
    tftp.start()
    assert tftp.state() == "active"
    assert not [each for each in tftp.messages("UDPS-110-W") if "cannot read" in each]
    tftp.stop()

    tftp.write(listens.format("12000-12010"))
    ports("10000 65000")
    checked = bordered.run("udp-proxy", "check", "/etc/udp-proxy/tftp.toml", check=False)
    assert checked.returncode == 78
    tftp.systemctl("start", tftp.unit, check=False)
    assert tftp.show("ExecMainStatus") == "78"
    tftp.stop()
