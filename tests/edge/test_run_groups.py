"""Groups of servers in a running proxy: who gets sessions, who is down, what operators do."""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from built import NAMES
from echo import Echo, clients, exchange
from host import free_port
from proxy import Proxy, Row, command, reloaded, until
from stored import Units
from udpproxy.proxy.config.model import BALANCES

TEXT = """max-sessions = 500
engine = "{engine}"
workers = {workers}
[[listen]]
address = "{host}"
port = {port}
[[servers]]
name = "pool"
members = [{members}]
{more}
[servers.health]
{health}
[[session-acl]]
name = "all"
plug-to = "@pool"
reload-policy = "{policy}"
"""


class Stage:
    """Servers, and a configuration of one group of them."""

    def __init__(self, directory: Path, engine: str, *, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = free_port(host)
        self.engine = engine
        self.stack = ExitStack()
        self.servers = [self.stack.enter_context(Echo(host)) for _ in range(3)]
        self.proxy = Proxy(directory, self.text())

    def text(
        self,
        count: int = 3,
        *,
        balance: str = "least-sessions",
        more: str = "",
        health: str = "",
        policy: str = "close",
    ) -> str:
        """With the first so many servers."""
        members = ", ".join(f'"{server}"' for server in self.servers[:count])
        return TEXT.format(
            engine=self.engine,
            workers=2 if self.engine == "native" else 1,
            host=self.host,
            port=self.port,
            members=members,
            more=f'balance = "{balance}"\n{more}',
            health=health,
            policy=policy,
        )

    @property
    def where(self) -> tuple[str, int]:
        """Where clients write to."""
        return self.host, self.port

    def by_server(self) -> list[int]:
        """Sessions of each server, by `ctl servers`."""
        return [int(row["sessions"]) for row in self.rows()]

    def rows(self) -> list[Row]:
        """What `ctl servers` says, in the order of the file."""
        rows: list[Row] = self.proxy.ask("servers")
        return rows

    def states(self) -> list[str]:
        """Of each server."""
        return [row["state"] for row in self.rows()]


def ask(units: Units, *words: object) -> Any:
    """`udp-proxy ctl one ... --json`."""
    line = command("ctl", "one", "--runtime-dir", units.runtime, *words, "--json")
    done = subprocess.run(line, check=True, capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout) if done.stdout.strip() else None


@pytest.fixture(params=NAMES)
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(tmp_path, request.param)
    with stage.stack:
        yield stage


def test_what_operators_see_and_do(stage: Stage) -> None:
    proxy = stage.proxy
    with proxy, clients(30) as socks:
        for sock in socks[:15]:
            exchange(sock, stage.where, b"one")
        assert stage.by_server() == [5, 5, 5]
        assert stage.states() == ["up", "up", "up"]
        member = str(stage.servers[0])
        assert proxy.ctl("drain", member).returncode == 0
        assert stage.states() == ["up drained", "up", "up"]
        assert member in proxy.said("UDPS-637-N")[0]
        for sock in socks[15:]:
            exchange(sock, stage.where, b"two")
        assert stage.by_server()[0] == 5
        for sock in socks[:15]:  # the old ones go on
            exchange(sock, stage.where, b"three")
        assert proxy.info()["servers-drained"] == 1
        for word, told in ((member, "drained already"), ("192.0.2.1:9", "no group has")):
            answer = proxy.ctl("drain", word)
            assert (answer.returncode, told in answer.stderr) == (1, True)
        assert proxy.ctl("undrain", f"pool/{member}").returncode == 0
        assert stage.states() == ["up", "up", "up"]
        table = proxy.ctl("servers").stdout.splitlines()
        assert len(table) == 4
        assert "pool" in table[1]
        assert proxy.stop() == 0


def test_a_dead_server_is_avoided_and_comes_back(stage: Stage) -> None:
    """By ICMP alone: no probe, and nobody is told anything."""
    proxy = stage.proxy
    proxy.write(stage.text(health='fall = 2\nrise = 1\nretry = "300ms"'))
    with proxy, clients(60) as socks:
        for sock in socks[:6]:
            exchange(sock, stage.where, b"one")
        dead, port = stage.servers[0], stage.servers[0].endpoint[1]
        dead.__exit__()
        deadline = time.monotonic() + 20
        while "down" not in stage.states()[0]:
            assert time.monotonic() < deadline
            for sock in socks[:6]:
                sock.sendto(b"two", stage.where)
            time.sleep(0.05)
        assert proxy.said("UDPS-634-W")
        before = stage.by_server()[0]
        opened = socks[6:40]
        for sock in opened:
            sock.sendto(b"three", stage.where)
        until(lambda: proxy.info()["sessions"] == 40)
        # But for a trial now and then, it gets none.
        assert stage.by_server()[0] - before <= 3
        with Echo(stage.host, port=port):
            for sock in socks[40:50]:
                sock.sendto(b"four", stage.where)

            def back() -> bool:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"five", stage.where)
                    time.sleep(0.05)
                return stage.states()[0] == "up"

            until(back)
            assert proxy.said("UDPS-635-N")
        assert proxy.stop() == 0


@pytest.mark.parametrize("how", ["move", "close"])
def test_sessions_of_a_server_that_goes_down(stage: Stage, how: str) -> None:
    proxy = stage.proxy
    more = f'down-sessions = "{how}"'
    proxy.write(stage.text(more=more, health='fall = 1\nrise = 1\nretry = "1h"'))
    with proxy, clients(30) as socks:
        for sock in socks:
            exchange(sock, stage.where, b"one")
        assert stage.by_server() == [10, 10, 10]
        stage.servers[0].__exit__()

        def left() -> bool:
            for sock in socks:
                sock.sendto(b"two", stage.where)
            time.sleep(0.05)
            return stage.by_server()[0] == 0

        until(left)
        if how == "move":
            assert stage.by_server() == [0, 15, 15]
            assert proxy.records() == []
        else:
            reasons = Counter(record["REASON"] for record in proxy.records())
            assert set(reasons) == {"unreachable"}
            assert reasons["unreachable"] >= 10
        for sock in socks:
            sock.settimeout(0)
            while True:
                try:
                    sock.recv(100)
                except BlockingIOError:
                    break
            sock.settimeout(5)
            exchange(sock, stage.where, b"three")
        assert proxy.stop() == 0


def test_all_are_down(stage: Stage) -> None:
    """Then all are used, and it is said once."""
    proxy = stage.proxy
    proxy.write(stage.text(2, health='fall = 1\nrise = 1\nretry = "1h"'))
    with proxy, clients(40) as socks:
        for server in stage.servers[:2]:
            server.__exit__()

        def down() -> bool:
            for sock in socks[:4]:
                sock.sendto(b"one", stage.where)
            time.sleep(0.05)
            return stage.states() == ["down", "down"]

        until(down)
        assert len(proxy.said("UDPS-636-W")) == 1
        before = stage.by_server()
        for sock in socks[10:]:
            sock.sendto(b"two", stage.where)
        until(lambda: sum(stage.by_server()) >= sum(before) + 30)
        assert min(now - then for now, then in zip(stage.by_server(), before, strict=True)) > 5
        assert proxy.stop() == 0


def test_what_is_known_outlives_reg(stage: Stage) -> None:
    proxy = stage.proxy
    proxy.write(stage.text(health='fall = 1\nrise = 1\nretry = "1h"'))
    with proxy, clients(30) as socks:
        stage.servers[0].__exit__()
        proxy.ctl("drain", str(stage.servers[1]))

        def down() -> bool:
            for sock in socks[:6]:
                sock.sendto(b"one", stage.where)
            time.sleep(0.05)
            return stage.states()[0] == "down"

        until(down)
        old = proxy.kill(signal.SIGKILL, "reg")
        proxy.next_reg(old)
        until(lambda: proxy.info()["reg-state"] == "ready")
        assert stage.states() == ["down", "up drained", "up"]
        for sock in socks[10:]:
            exchange(sock, stage.where, b"two")
        assert stage.by_server()[2] >= 20
        assert proxy.stop() == 0


@pytest.mark.parametrize("policy", ["close", "follow", "keep"])
def test_a_member_that_a_reload_takes_away(stage: Stage, policy: str) -> None:
    """Its sessions are led elsewhere, as reload-policy says; nobody else notices."""
    proxy = stage.proxy
    proxy.write(stage.text(policy=policy))
    with proxy, clients(30) as socks:
        for sock in socks:
            exchange(sock, stage.where, b"one")
        assert stage.by_server() == [10, 10, 10]
        proxy.write(stage.text(2, policy=policy))
        said = reloaded(
            10 if policy == "close" else 0,
            10 if policy == "follow" else 0,
            10 if policy == "keep" else 0,
        )
        assert proxy.ask("reload") == said
        wanted = {"close": [10, 10], "follow": [15, 15], "keep": [10, 10]}[policy]
        until(lambda: stage.by_server() == wanted)
        if policy != "close":
            for sock in socks:
                exchange(sock, stage.where, b"two")
        rows = proxy.sessions()
        assert len(rows) == (20 if policy == "close" else 30)
        gone = str(stage.servers[2])
        assert sum(row["server"] == gone for row in rows) == (10 if policy == "keep" else 0)
        assert proxy.stop() == 0


def test_a_restart_as_units_keeps_what_is_drained(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", NAMES[0])
    with stage.stack, clients(6) as socks, Units(tmp_path, stage.text()) as units:
        units.start()
        for sock in socks[:3]:
            exchange(sock, stage.where, b"one")
        ask(units, "drain", str(stage.servers[0]))
        assert units.stop() == 0
        assert [name for name, _ in units.store].count("servers") == 1
        units.start()
        for sock in socks:
            exchange(sock, stage.where, b"two")
        rows = ask(units, "servers")
        assert [row["state"] for row in rows] == ["up drained", "up", "up"]
        assert rows[0]["sessions"] == 1
        units.terminate()


def test_the_same_client_meets_the_same_server_after_a_restart(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", NAMES[0])
    text = stage.text(balance="client-port")
    with stage.stack, clients(20) as socks, Units(tmp_path, text) as units:
        units.start()
        for sock in socks:
            exchange(sock, stage.where, b"one")
        before = {row["client"]: row["server"] for row in ask(units, "sessions")}
        assert len(set(before.values())) == 3
        assert units.stop() == 0
        units.start()
        for row in ask(units, "sessions"):
            ask(units, "kill", row["session"])
        for sock in socks:
            exchange(sock, stage.where, b"two")
        assert {row["client"]: row["server"] for row in ask(units, "sessions")} == before
        units.terminate()


MANY = 10_000


@pytest.mark.parametrize("balance", BALANCES)
def test_shares_of_ten_thousand_clients(stage: Stage, balance: str) -> None:
    """Each an address of its own; by weight, 3 to 2 to 1, as far as chance goes: the keys of the
    hashes are other ones each time. For one with given keys see unit/test_session_balance.py."""
    proxy = stage.proxy
    text = stage.text(balance=balance).replace("[servers.health]\n", "")
    limits = "[limits]\nupload-datagrams = 1\ndownload-datagrams = 1\n"
    proxy.write(text.replace('balance = "', 'weights = [3, 2, 1]\nbalance = "') + limits)
    with proxy:
        for number in range(MANY):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(20)
                sock.bind((f"127.{number >> 8 & 127}.{number & 255}.9", 0))
                exchange(sock, stage.where, b"one")
        received = [len(server.received) for server in stage.servers]
        assert sum(received) == MANY
        for count, weight in zip(received, (3, 2, 1), strict=True):
            share = weight / 6
            deviation = math.sqrt(MANY * share * (1 - share))
            assert abs(count - MANY * share) <= 5 * deviation, received
        assert proxy.stop() == 0


PROBED = 'fall = 2\nrise = 2\nprobe = { send = "text:ping", interval = "200ms", timeout = "150ms" }'


def new_sessions(stage: Stage, socks: list[socket.socket]) -> list[int]:
    """Of each server, how many of these clients' first datagrams it got."""
    before = [len(server.sources_of(b"new")) for server in stage.servers]
    for sock in socks:
        sock.sendto(b"new", stage.where)
    until(lambda: stage.proxy.info()["upload-datagrams"] >= len(socks))
    time.sleep(0.1)
    after = [len(server.sources_of(b"new")) for server in stage.servers]
    return [now - then for now, then in zip(after, before, strict=True)]


@pytest.mark.parametrize("how", ["dead", "hung", "mute"])
def test_probes_find_out(tmp_path: Path, how: str) -> None:
    """Within `fall` probes, whatever ails it: nobody listens, it reads nothing, it says nothing."""
    stage = Stage(tmp_path, NAMES[-1])
    with stage.stack, clients(60) as socks:
        ill = stage.servers[0]
        proxy = stage.proxy
        proxy.write(stage.text(balance="client-port", health=f"passive = false\n{PROBED}"))
        with proxy:
            until(lambda: proxy.info("acr")["probes"] == 3)
            assert all(new_sessions(stage, socks[:20]))
            begun = time.monotonic()
            port = ill.endpoint[1]
            if how == "dead":
                ill.__exit__()
            elif how == "hung":
                ill.hang()
            else:
                ill.answers = lambda data: False
            until(lambda: stage.states()[0] == "down")
            assert time.monotonic() - begun < 5
            assert "probes in a row failed" in proxy.said("UDPS-634-W")[0]
            got = new_sessions(stage, socks[20:40])
            assert got[1] + got[2] == 20
            if how == "dead":
                stage.servers[0] = stage.stack.enter_context(Echo(stage.host, port=port))
            elif how == "hung":
                ill.go_on()
            else:
                ill.answers = lambda data: True
            until(lambda: stage.states()[0] == "up")
            assert all(new_sessions(stage, socks[40:]))
            assert proxy.stop() == 0
