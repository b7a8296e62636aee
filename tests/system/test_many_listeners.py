"""Thousands of ports, as RTP and TURN have them, and sessions on the first and the last of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import losses
from system.machine import Machine
from system.package import Package
from system.service import Instance, Load, install, load, serve_echo
from system.waiting import until

pytestmark = pytest.mark.one_release("d13")

FIRST = 10_000
MANY = """\
max-sessions = 100
crash-limit = 1000
[[listen]]
address = "127.0.0.1"
port = "{first}-{last}"
[[session-acl]]
name = "media"
plug-to = "127.0.0.1:7000"
"""


@pytest.fixture(scope="module")
def media(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    with Machine(root, f"{release}-media") as machine:
        install(machine, deb)
        serve_echo(machine)
        yield machine


@contextlib.contextmanager
def asking(machine: Machine, last: int) -> Iterator[list[Load]]:
    """Clients of the first port and of the last."""
    with (
        load(machine, 5, 100, FIRST, "127.0.0.2") as one,
        load(machine, 5, 100, last, "127.0.0.3") as other,
    ):
        yield [one, other]


@pytest.mark.parametrize("ports", [3001, 10_001])
def test_sessions_survive_with_many_ports(
    media: Machine, deb: Package, release: str, ports: int
) -> None:
    rtp, last = Instance(media, f"rtp-{ports}"), FIRST + ports - 1
    rtp.write(MANY.format(first=FIRST, last=last))
    rtp.start()
    assert rtp.info()["listening"] == ports

    def restart() -> None:
        rtp.systemctl("restart", rtp.unit)

    def kill() -> None:
        old = rtp.pid("parent")
        rtp.kill("parent")
        rtp.replaced("parent", old)

    def upgrade() -> None:
        install(media, deb)

    with asking(media, last) as clients:
        for event in (restart, kill, upgrade):
            event()
            until(lambda: rtp.state() == "active")
            for each in clients:
                each.answered()
        for each in clients:
            report = each.report()
            losses.note(release, f"{ports} ports: restart, SIGKILL of parent, upgrade", report)
            assert (report.lost, report.moved, report.twice) == (0, [], 0)
    assert int(rtp.show("NFileDescriptorStore")) < 60
    assert rtp.messages("UDPS-211-W") == []
    assert rtp.messages("UDPS-125-W") == []
    rtp.stop()


def test_a_store_without_room_is_said(media: Machine) -> None:
    rtp, last = Instance(media, "small"), FIRST + 999
    rtp.write(MANY.format(first=FIRST, last=last))
    rtp.drop_in("FileDescriptorStoreMax=3")
    rtp.start()
    until(lambda: bool(rtp.messages("UDPS-125-W")))
    (said,) = rtp.messages("UDPS-125-W")
    assert "has 3 of the 6 descriptors" in said
    with asking(media, last) as clients:
        rtp.systemctl("restart", rtp.unit)
        for each in clients:
            each.answered()
    # The first shelf had its place, the last had none.
    (said,) = rtp.messages("UDPS-211-W")
    assert "lacks listeners of before: 5 sessions end here" in said
    assert len(rtp.records()) == 5
    rtp.stop()
