"""A child that lies: the parent answers and obeys throughout, and the others go on."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import liar
from echo import Echo, exchange, silent, udp
from host import free_port
from nameserver import NameServer
from proxy import Proxy, config, until
from udpproxy.process import wire

pytestmark = pytest.mark.alone

COUNT = int(os.environ.get("UDPPROXY_LIES", "3000"))
"""Random messages of each child; 100,000 take some minutes."""
SECONDS = 2.0 if COUNT == 3000 else 30.0
SLACK = 2.0 if COUNT == 3000 else 0.0
"""Seconds beyond the promised one, but in the long form: the machine may be busy with others."""
ROLES = ("reg", "acr", "apr")
ENGINES = ("native", "python")


Servers = tuple[NameServer, Echo, Echo]
"""Of names, and of datagrams over IPv6 and IPv4."""


class Stage:
    """A proxy with work for every process, one of which lies."""

    def __init__(
        self, directory: Path, servers: Servers, role: str, *, engine: str = "auto", ever: str = ""
    ) -> None:
        """`ever`: the kind of a flood."""
        zone, echo6, echo = servers
        self.role = role
        self.named = free_port()
        self.where = "::1", free_port("::1")
        self.lies = directory / "lies"
        self.lies.mkdir()
        zone.host("x.test", "127.0.0.1")
        zone.host("host.lab.test", "127.0.0.1")
        zone.reverse("127.0.0.1", "host.lab.test")
        more = f"""
[[listen]]
address = "127.0.0.1"
port = {self.named}
[[session-acl]]
name = "named"
from = ["*.lab.test"]
plug-to = "x.test:{echo.endpoint[1]}"
[[session-acl]]
name = "lies"
from = ["192.0.2.0/24"]
plug-to = "@lies"
[[servers]]
name = "lies"
members = ["127.0.0.1:9"]
[servers.health]
probe = {{ ntp = true, interval = "1s" }}
{zone.section}
[limits]
idle = "2s"
"""
        top = f'max-sessions = 500\ncrash-limit = 1000\nengine = "{engine}"'
        acl = f'to = [":{self.where[1]}"]'
        text = config(self.where[1], str(echo6), listen="::1", top=top, acl=acl, more=more)
        self.proxy = Proxy(directory, text)
        seed = ROLES.index(role) + 1
        path = liar.come_in(self.lies, role, count=COUNT, seed=seed, ever=ever)
        self.proxy.environment["PYTHONPATH"] = str(path)

    def listens(self) -> bool:
        """The socket is there a moment before anybody listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            return sock.connect_ex(str(self.proxy.runtime / "control.sock")) == 0

    def asked(self) -> float:
        """Seconds until the parent has answered `info`."""
        begun = time.monotonic()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(10)
            sock.connect(str(self.proxy.runtime / "control.sock"))
            sock.send(wire.encode(wire.Ask(1, "info", {"quiet": True})))
            answer = json.loads(sock.recv(wire.LARGEST))
        assert answer["error"] is None, answer
        return time.monotonic() - begun

    def ends(self) -> dict[str, int]:
        """How often each child ended unasked."""
        info = self.proxy.info()
        return {role: info[f"{role}-ends"] for role in ROLES}


@pytest.fixture
def servers() -> Iterator[Servers]:
    with NameServer(ttl=1) as zone, Echo("::1", forgets=True) as six, Echo(forgets=True) as four:
        yield zone, six, four


def ends_in_order(proxy: Proxy) -> None:
    """At once, and nobody made a mistake of his own."""
    begun = time.monotonic()
    status = proxy.stop(signal.SIGTERM)
    print(*proxy.log[-20:], sep="\n")
    assert status == 0
    assert time.monotonic() - begun < 1 + SLACK
    for sign in ("internal error", "Traceback", "UDPS-530-C", "UDPS-202-E", "UDPS-203-E"):
        assert not proxy.said(sign)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("role", ROLES)
def test_a_child_that_lies(tmp_path: Path, servers: Servers, role: str, engine: str) -> None:
    stage = Stage(tmp_path, servers, role, engine=engine)
    proxy, slowest = stage.proxy, 0.0
    with proxy.launched(), udp("::1") as kept:
        until(stage.listens)
        ends = time.monotonic() + 60 + COUNT / 50
        while liar.told(stage.lies) >= 0:
            assert proxy.process.poll() is None
            assert time.monotonic() < ends, liar.told(stage.lies)
            slowest = max(slowest, stage.asked())
            if role != "reg" and liar.told(stage.lies):
                exchange(kept, stage.where, b"goes on")
                with udp("::1") as new:
                    exchange(new, stage.where, b"begins")
                with udp(f"127.0.0.{time.monotonic_ns() % 250 + 2}") as unknown:
                    unknown.sendto(b"who am I?", ("127.0.0.1", stage.named))
            time.sleep(0.01)
        print(f"info took at most {slowest:.2f} s")
        assert slowest < 1 + SLACK
        # The real one has its place again, and knows nothing of what was told.
        until(lambda: proxy.ctl("info", "--process", role).returncode == 0)
        until(lambda: proxy.info("reg")["names-known"] == 1)
        exchange(kept, stage.where, b"goes on")
        until(lambda: answered(stage.named))
        assert {other: ends for other, ends in stage.ends().items() if ends and other != role} == {}
        assert proxy.said("UDPP-841-W")
        ends_in_order(proxy)


def answered(port: int) -> bool:
    """By name, from client to server."""
    with udp() as client:
        client.sendto(b"by name", ("127.0.0.1", port))
        return not silent(client, 0.5)


FLOODS = [
    *((role, kind) for role in ROLES for kind in ("small", "large", "answers")),
    *(("acr", "names"), ("acr", "probed"), ("reg", "questions")),
]


@pytest.mark.parametrize(("role", "kind"), FLOODS)
def test_a_child_that_floods(tmp_path: Path, servers: Servers, role: str, kind: str) -> None:
    """It does not stop; the parent is told to, in the middle of it."""
    stage = Stage(tmp_path, servers, role, ever=kind)
    proxy = stage.proxy
    with proxy.launched(), udp("::1") as kept:
        until(lambda: liar.told(stage.lies) > 0)
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            assert proxy.process.poll() is None
            assert stage.asked() < 1 + SLACK
            if role != "reg":
                exchange(kept, stage.where, b"goes on")
            time.sleep(0.05)
        ends_in_order(proxy)


BROKEN = """
import sys
if sys.orig_argv[-3:-1] == ["udpproxy.child", {role!r}]:
    from udpproxy.process.link import Link
    real = Link.__init__
    begun = []

    def broken(self, reactor, sock, **others):
        real(self, reactor, sock, **others)
        begun.append(sock)
        if len(begun) == 2:  # the first is the parent's
            sock.send(b"nonsense")

    Link.__init__ = broken
"""


@pytest.mark.parametrize("role", ["acr", "apr"])
def test_a_way_that_was_broken_is_made_anew(tmp_path: Path, servers: Servers, role: str) -> None:
    """Both sides live, and know nothing of each other any more."""
    stage = Stage(tmp_path, servers, role)
    (stage.lies / "sitecustomize.py").write_text(BROKEN.format(role=role))
    with stage.proxy as proxy:
        until(lambda: proxy.said(f"link to {role}: closed: not a message"))
        until(lambda: answered(stage.named))
        servers[0].host("x.test", "127.0.0.2")
        until(lambda: proxy.said("x.test: 127.0.0.2, before 127.0.0.1"))
        assert stage.ends() == {"reg": 0, "acr": 0, "apr": 0}
        ends_in_order(proxy)
