"""What a unit meets while the network comes up: an address that is not there yet, and no name
server."""

from __future__ import annotations

import time

from system.machine import Machine
from system.service import ROLES, Instance, load, serve_echo
from system.waiting import until

LATE = "10.99.0.1"
CONFIG = f"""\
max-sessions = 100
[[listen]]
address = "127.0.0.1"
port = 5353
[[listen]]
address = "{LATE}"
port = 5353
[[session-acl]]
name = "named"
to = ["{LATE}"]
from = ["friend.example.org"]
plug-to = "127.0.0.1:9"
[[session-acl]]
name = "all"
plug-to = "127.0.0.1:7000"
"""
ASK = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 0))
sock.settimeout(2)
sock.sendto(b"late", (sys.argv[1], 5353))
print(sock.recv(100).split()[0].decode())
"""
KNOWS_NOTHING = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 53))
while True:
    asked, client = sock.recvfrom(512)
    end = asked.index(b"\\0", 12) + 5
    sock.sendto(asked[:2] + b"\\x81\\x83" + asked[4:6] + bytes(6) + asked[12:end], client)
"""


def test_address_and_name_server_come_late(host: Machine) -> None:
    """Ready at once, and never started again."""
    serve_echo(host)
    host.write("/opt/ask.py", ASK)
    host.run("mv", "/etc/resolv.conf", "/etc/resolv.conf.late", check=False)
    late = Instance(host, "late")
    late.write(CONFIG)
    late.start()
    assert any(f"address {LATE} for now" in text for text in late.messages("UDPS-126-W"))
    until(lambda: bool(late.messages("UDPP-840-W", "acr")))
    pids = {role: late.pid(role) for role in ROLES}
    with load(host, 5, 100, late.port) as clients:
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > 5, 20)
        host.run("ip", "addr", "add", f"{LATE}/32", "dev", "lo")
        assert host.run("python3", "/opt/ask.py", LATE).stdout
        host.write("/opt/names.py", KNOWS_NOTHING)
        host.unit_start("names", "python3", "/opt/names.py")
        host.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
        until(lambda: late.info("acr")["failing"] == "friend.example.org:nxdomain", 15)
        clients.answered()
        assert clients.report().lost == 0
    assert {role: late.pid(role) for role in ROLES} == pids
    assert late.show("NRestarts") == "0"
    late.stop()
    host.run("ip", "addr", "del", f"{LATE}/32", "dev", "lo")


INTERFACE = """\
max-sessions = 100
[[listen]]
interface = "dmz"
port = 5353
[[session-acl]]
name = "all"
plug-to = "127.0.0.1:7000"
"""
FROM_GUEST = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for attempt in range(20):
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(0.5)
        sock.bind((sys.argv[1], 4000))  # not while it is tentative
        sock.sendto(b"guest", (sys.argv[2], 5353))
        print(sock.recv(100).split()[0].decode())
        break
    except OSError:
        sock.close()
        time.sleep(0.2)
else:
    sys.exit(1)
"""


def test_an_interface_comes_goes_and_comes_again(host: Machine) -> None:
    """The relay has no network of its own; also with an IPv6 address that is tentative at first."""
    serve_echo(host)
    host.write("/opt/guest.py", FROM_GUEST)
    host.run("ip", "netns", "add", "guest")
    late = Instance(host, "late")
    late.write(INTERFACE)
    late.start()
    assert any("interface dmz for now" in text for text in late.messages("UDPS-131-W"))
    pids = {role: late.pid(role) for role in ROLES}

    def guest(*words: str) -> str:
        return host.run("ip", "netns", "exec", "guest", *words).stdout

    for turn in (1, 2):
        host.run(
            "ip", "link", "add", "dmz", "type", "veth", "peer", "name", "out", "netns", "guest"
        )
        for address in ("10.98.0.1/24", "fd98::1/64"):
            host.run("ip", "addr", "add", address, "dev", "dmz")
        host.run("ip", "link", "set", "dmz", "up")
        for address in ("10.98.0.2/24", "fd98::2/64"):
            guest("ip", "addr", "add", address, "dev", "out")
        guest("ip", "link", "set", "out", "up")
        for mine, its in (("10.98.0.2", "10.98.0.1"), ("fd98::2", "fd98::1")):
            assert guest("python3", "/opt/guest.py", mine, its)
        assert len(late.messages("UDPS-133-I")) == turn
        assert len(late.sessions()) == 2
        host.run("ip", "link", "del", "dmz")
        until(lambda: len(late.messages("UDPS-132-W")) == turn)  # noqa: B023
    assert {role: late.pid(role) for role in ROLES} == pids
    assert late.show("NRestarts") == "0"
    late.systemctl("restart", late.unit)
    assert len(late.sessions()) == 2
    late.stop()
    assert len(late.records()) == 2
    host.run("ip", "netns", "del", "guest")
