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

COUNT = int(os.environ.get("UDPPROXY_LIES", "3000"))
"""Random messages of each child; 100,000 take some minutes."""
SLACK = 2.0
"""Seconds beyond the promised one: the machine may be busy, with the liar first of all."""
ROLES = ("reg", "acr", "apr")


class Stage:
    """A proxy with work for every process, one of which lies."""

    def __init__(
        self, directory: Path, zone: NameServer, echo: Echo, role: str, **how: str
    ) -> None:
        self.role = role
        self.port, self.named = free_port(), free_port()
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
{zone.section}
"""
        top = f'max-sessions = 500\ncrash-limit = 1000\nengine = "{how.pop("engine", "auto")}"'
        acl = f'to = [":{self.port}"]'
        text = config(self.port, str(echo), top=top, acl=acl, more=more)
        self.proxy = Proxy(directory, text)
        seed = hash_of(role)
        path = liar.come_in(self.lies, role, count=COUNT, seed=seed, **how)
        self.proxy.environment["PYTHONPATH"] = str(path)

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


def hash_of(role: str) -> int:
    """The same each time."""
    return ROLES.index(role) + 1


@pytest.fixture
def zone() -> Iterator[NameServer]:
    with NameServer(ttl=1) as server:
        yield server


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo(forgets=True) as server:
        yield server


def ends_in_order(proxy: Proxy) -> None:
    """At once, and nobody made a mistake of his own."""
    begun = time.monotonic()
    status = proxy.stop(signal.SIGTERM)
    print(*proxy.log[-20:], sep="\n")
    assert status == 0
    assert time.monotonic() - begun < 1 + SLACK
    for sign in ("internal error", "Traceback", "UDPS-530-C", "UDPS-202-E", "UDPS-203-E"):
        assert not proxy.said(sign)


@pytest.mark.parametrize("role", ROLES)
def test_a_child_that_lies(tmp_path: Path, zone: NameServer, echo: Echo, role: str) -> None:
    stage = Stage(tmp_path, zone, echo, role)
    proxy, slowest = stage.proxy, 0.0
    with proxy.launched(), udp() as kept:
        until(lambda: (proxy.runtime / "control.sock").exists())
        while liar.told(stage.lies) >= 0:
            assert proxy.process.poll() is None
            slowest = max(slowest, stage.asked())
            if role != "reg" and liar.told(stage.lies):
                exchange(kept, ("127.0.0.1", stage.port), b"goes on")
                with udp() as new:
                    exchange(new, ("127.0.0.1", stage.port), b"begins")
                with udp(f"127.0.0.{time.monotonic_ns() % 250 + 2}") as unknown:
                    unknown.sendto(b"who am I?", ("127.0.0.1", stage.named))
            time.sleep(0.01)
        print(f"info took at most {slowest:.2f} s")
        assert slowest < 1 + SLACK
        # The real one has its place again, and knows nothing of what was told.
        until(lambda: proxy.ctl("info", "--process", role).returncode == 0)
        until(lambda: proxy.info("reg")["names-known"] == 1)
        exchange(kept, ("127.0.0.1", stage.port), b"goes on")
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
    *(("acr", "names"), ("reg", "questions")),
]


@pytest.mark.parametrize(("role", "kind"), FLOODS)
def test_a_child_that_floods(
    tmp_path: Path, zone: NameServer, echo: Echo, role: str, kind: str
) -> None:
    """It does not stop; the parent is told to, in the middle of it."""
    stage = Stage(tmp_path, zone, echo, role, ever=kind)
    proxy = stage.proxy
    with proxy.launched(), udp() as kept:
        until(lambda: liar.told(stage.lies) > 0)
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            assert proxy.process.poll() is None
            assert stage.asked() < 1 + SLACK
            if role != "reg":
                exchange(kept, ("127.0.0.1", stage.port), b"goes on")
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
def test_a_way_that_was_broken_is_made_anew(
    tmp_path: Path, zone: NameServer, echo: Echo, role: str
) -> None:
    """Both sides live, and know nothing of each other any more."""
    stage = Stage(tmp_path, zone, echo, role)
    (stage.lies / "sitecustomize.py").write_text(BROKEN.format(role=role))
    with stage.proxy as proxy:
        until(lambda: proxy.said(f"link to {role}: closed: not a message"))
        until(lambda: answered(stage.named))
        zone.host("x.test", "127.0.0.2")
        until(lambda: proxy.said("x.test: 127.0.0.2, before 127.0.0.1"))
        assert stage.ends() == {"reg": 0, "acr": 0, "apr": 0}
        ends_in_order(proxy)
