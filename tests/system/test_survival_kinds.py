"""The survival table once more, with every kind of listener and source: on an interface, wildcard,
lists of ports, multicast, what the firewall redirects, behind PROXY headers; from whatever address,
from a given one and from the client's own.

A guest on one side and a server on the other are networks of their own; the host between them
forwards nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from system import losses
from system.machine import Machine
from system.package import Package
from system.service import INSIDE, Instance, Load, clients_of, install
from system.test_survival import IN_HAND
from system.waiting import until

SESSIONS, RATE = 10, 100
DROP_IN = "/usr/share/doc/udp-proxy/examples/transparent.conf"
HEADER = "0d0a0d0a000d0a515549540a2112000cc6336407c00002011f9014b5"
"""A client 198.51.100.7:8080 that wrote to 192.0.2.1:5301."""
HOSTS = """\
set -e
for host in guest far; do
    ip netns add $host
    ip -n $host link set lo up
done
ip link add dmz type veth peer name eth0 netns guest
ip link add wan type veth peer name eth0 netns far
ip addr add 10.9.0.1/24 dev dmz
ip addr add fd09::1/64 dev dmz nodad
ip addr add fe80::9:1/64 dev dmz nodad
ip addr add 10.8.0.1/24 dev wan
ip addr add 10.8.0.2/24 dev wan
ip -n guest addr add 10.9.0.5/24 dev eth0
ip -n guest addr add fd09::5/64 dev eth0 nodad
ip -n guest addr add fe80::9:5/64 dev eth0 nodad
ip -n far addr add 10.8.0.7/24 dev eth0
ip link set dmz up
ip link set wan up
ip route add 224.0.0.0/4 dev dmz
ip -n guest link set eth0 up
ip -n far link set eth0 up
ip -n guest route add default via 10.9.0.1
ip -n far route add default via 10.8.0.1
"""
CONFIG = """\
max-sessions = 500
crash-limit = 1000
[[listen]]
address = "0.0.0.0"
port = 5401
[[listen]]
interface = "dmz"
port = 5402
[[listen]]
address = "10.9.0.1"
port = [5403, "5404-5405", 5410]
[[listen]]
address = "fe80::9:1%dmz"
port = 5406
[[listen]]
address = "0.0.0.0"
port = 5407
multicast = ["239.9.0.1"]
[[listen]]
address = "0.0.0.0"
port = 5408
transparent = true
[[listen]]
address = "10.9.0.1"
port = 5409
proxy-protocol = "v2"
proxy-protocol-from = ["10.9.0.0/24"]
[[session-acl]]
name = "redirected"
transparent = true
from = ["10.9.0.0/24"]
source-address = ["client"]
[[session-acl]]
name = "as the client"
from = ["10.9.0.0/24"]
to = [":5403"]
plug-to = "10.8.0.7:7000"
source-address = ["client"]
[[session-acl]]
name = "from a given one"
to = [":5402", ":5404-5405"]
plug-to = "10.8.0.7:7000"
source-address = ["10.8.0.2", "no-fallback"]
[[session-acl]]
name = "from the client's port"
to = [":5410"]
plug-to = "10.8.0.7:7000"
source-port = "client"
[[session-acl]]
name = "others"
plug-to = "10.8.0.7:7000"
"""


@dataclass(frozen=True)
class Kind:
    """Clients of a listener: where they write to, and from where; each with ports of its own."""

    name: str
    port: int
    first: int
    target: str = "10.9.0.1"
    source: str = "10.9.0.5"
    header: str = ""

    def words(self) -> list[str]:
        """For inside/load.py."""
        numbers = [str(self.port), str(SESSIONS), str(RATE), self.source]
        return [*numbers, self.target, str(self.first), self.header]


KINDS = [
    Kind("wildcard", 5401, 20_000),
    Kind("interface, given source", 5402, 20_100),
    Kind("interface, IPv6", 5402, 20_200, "fd09::1", "fd09::5"),
    Kind("one of a list, client's source", 5403, 20_300),
    Kind("one of a range, given source", 5405, 20_400),
    Kind("one of a list, client's port", 5410, 20_900),
    Kind("link-local with a zone", 5406, 20_500, "fe80::9:1%eth0", "fe80::9:5%eth0"),
    Kind("multicast", 5407, 20_600, "239.9.0.1"),
    Kind("redirected, client's source", 5408, 20_700, "10.8.0.7"),
]
"""Behind a PROXY header all datagrams of a client are one session: see below."""
BEHIND = Kind("behind PROXY headers", 5409, 20_800, header=HEADER)


@pytest.fixture(scope="module")
def kinds(root: Path, release: str, deb: Package) -> Iterator[Instance]:
    """A host between a guest and a server, and an instance with all of it."""
    with Machine(root, f"{release}-kinds") as machine:
        install(machine, deb)
        machine.write("/opt/hosts.sh", HOSTS)
        machine.run("sh", "/opt/hosts.sh")
        machine.put(INSIDE / "echo.py", "/opt/echo.py")
        for port in (7000, 5408):
            far = ["ip", "netns", "exec", "far", "python3", "/opt/echo.py", "10.8.0.7"]
            kind = ["Type=notify", "NotifyAccess=all"]
            machine.unit_start(f"far-{port}", *far, str(port), properties=kind)
        instance = Instance(machine, "kinds")
        instance.write(CONFIG)
        instance.drop_in("[Unit]\nStartLimitIntervalSec=0\n")
        place = f"/etc/systemd/system/{instance.unit}.service.d"
        machine.run("cp", DROP_IN, f"{place}/transparent.conf")
        instance.systemctl("daemon-reload")
        machine.run("sh", "-c", "udp-proxy transparent kinds | sh -e")
        instance.start()
        yield instance


@contextlib.contextmanager
def loads(instance: Instance) -> Iterator[dict[str, Load]]:
    """Clients of every kind at once."""
    with contextlib.ExitStack() as stack:
        yield {
            kind.name: stack.enter_context(
                clients_of(instance.machine, kind.words(), ["ip", "netns", "exec", "guest"])
            )
            for kind in KINDS
        }


EVENTS: dict[str, Callable[[Instance], object]] = {
    "SIGKILL of parent": lambda one: killed(one, "parent"),
    "SIGKILL of reg": lambda one: killed(one, "reg"),
    "systemctl restart": lambda one: one.systemctl("restart", one.unit),
    "systemctl restart of reg": lambda one: one.systemctl("restart", one.units()["reg"]),
    "systemctl reload": lambda one: one.systemctl("reload", one.unit),
}


def killed(instance: Instance, role: str) -> None:
    """And another one works."""
    old = instance.pid(role)
    instance.kill(role)
    instance.replaced(role, old)


@pytest.mark.parametrize("event", EVENTS)
def test_every_kind(kinds: Instance, release: str, event: str) -> None:
    with loads(kinds) as clients:
        EVENTS[event](kinds)
        until(lambda: kinds.on_bus() and kinds.state() == "active")
        for each in clients.values():
            each.answered()
        allowed = IN_HAND if event == "SIGKILL of reg" else 0
        for name, each in clients.items():
            report = each.report()
            losses.note(release, f"{event}: {name}", report)
            assert report.moved == [], f"{event}: sessions ({name}) have changed their ports"
            assert report.lost <= allowed, f"{event} ({name}): {report.lost} lost"
            assert (report.twice, report.refused) == (0, 0)


def test_behind_headers(kinds: Instance, release: str) -> None:
    """One client behind two senders: a session of each, over a restart."""
    words = BEHIND.words()
    words[1] = "2"
    prefix = ["ip", "netns", "exec", "guest"]
    with clients_of(kinds.machine, words, prefix) as clients:
        kinds.systemctl("restart", kinds.unit)
        clients.answered()
        killed(kinds, "reg")
        clients.answered()
        report = clients.report()
        losses.note(release, BEHIND.name, report)
        assert report.moved == []
        assert report.lost <= IN_HAND
        assert (report.twice, report.refused) == (0, 0)
    rows = [row for row in kinds.sessions() if row["client"] == "198.51.100.7:8080"]
    assert len(rows) == 2
