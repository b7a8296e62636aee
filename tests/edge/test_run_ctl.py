"""`udp-proxy ctl` as people and programs use it (SPEC 9)."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, clients, exchange, udp
from host import free_port
from proxy import Proxy, config, until
from udpproxy.proxy.parent.commands import MOST_KILLED

KEYS = {
    "session": int,
    "client": str,
    "server": str,
    "listener": str,
    "acl": str,
    "type": str,
    "state": str,
    "source": str,
    "age": float,
    "idle": float,
    "datagrams-up": int,
    "datagrams-down": int,
    "bytes-up": int,
    "bytes-down": int,
}


class Lab:
    """An IPv4 and an IPv6 listener, a rule for each of three clients."""

    def __init__(self, directory: Path, echo: Echo, echo6: Echo, socks: list[socket.socket]):
        self.port = free_port()
        self.servers = {"one": str(echo), "two": str(echo), "six": str(echo6)}
        self.clients = dict(zip(self.servers, socks, strict=True))
        sources = {"one": "127.0.0.1", "two": "127.0.0.2", "six": "::1"}
        listeners = [
            f'[[listen]]\naddress = "{address}"\nport = {self.port}'
            for address in ("127.0.0.1", "::1")
        ]
        rules = [
            f'[[session-acl]]\nname = "{name}"\nfrom = ["{sources[name]}"]\nplug-to = "{server}"'
            for name, server in self.servers.items()
        ]
        self.proxy = Proxy(directory, "\n".join(["max-sessions = 20", *listeners, *rules]))

    def listener(self, name: str) -> str:
        return f"[::1]:{self.port}" if name == "six" else f"127.0.0.1:{self.port}"

    def client(self, name: str) -> str:
        address, port = self.clients[name].getsockname()[:2]
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def begin(self) -> None:
        for name, sock in self.clients.items():
            exchange(sock, ("::1" if name == "six" else "127.0.0.1", self.port), b"four")

    def acls(self, *filters: str) -> list[str]:
        """Whose sessions those are."""
        return [row["acl"] for row in self.proxy.sessions(*filters)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with (
        Echo() as echo,
        Echo("::1") as echo6,
        udp("127.0.0.1") as one,
        udp("127.0.0.2") as two,
        udp("::1") as six,
    ):
        lab = Lab(tmp_path, echo, echo6, [one, two, six])
        with lab.proxy:
            lab.begin()
            yield lab


def test_sessions_as_json(lab: Lab) -> None:
    rows = {row["acl"]: row for row in lab.proxy.sessions()}
    assert list(rows) == ["one", "two", "six"]
    for name, row in rows.items():
        for key, kind in KEYS.items():
            assert isinstance(row[key], kind), key
        assert row["client"] == lab.client(name)
        assert row["server"] == lab.servers[name]
        assert row["listener"] == lab.listener(name)
        assert (row["type"], row["state"]) == ("normal", "open")
        assert (row["datagrams-up"], row["datagrams-down"]) == (1, 1)
        assert (row["bytes-up"], row["bytes-down"]) == (4, 4)
        assert 0 <= row["idle"] <= row["age"] < 30
    assert sorted(row["session"] for row in rows.values()) == [1, 2, 3]


def test_sessions_for_people(lab: Lab) -> None:
    head, *lines = lab.proxy.ctl("sessions").stdout.splitlines()
    assert sorted(head.split()) == sorted(KEYS)
    place = head.split().index("acl")
    assert [line.split()[place] for line in lines] == ["one", "two", "six"]
    assert all(len(line.split()) == len(KEYS) for line in lines)
    assert lab.proxy.ctl("sessions", "client=192.0.2.1").stdout.splitlines()[1:] == []


def test_filters(lab: Lab) -> None:
    assert lab.acls("acl=two") == ["two"]
    assert lab.acls(f"client={lab.client('one')}") == ["one"]
    assert lab.acls("client=127.0.0.2") == ["two"]
    assert lab.acls("client=::1") == ["six"]
    assert lab.acls(f"server={lab.servers['one']}") == ["one", "two"]
    assert lab.acls(f"listener={lab.listener('six')}") == ["six"]
    assert lab.acls("listener=127.0.0.1", "acl=one") == ["one"]
    assert lab.acls("listener=127.0.0.1", "acl=six") == []
    assert lab.acls("rule=two") == ["two"]


def test_networks(lab: Lab) -> None:
    assert lab.acls("client=127.0.0.0/8") == ["one", "two"]
    assert lab.acls("client=127.0.0.2/31") == ["two"]
    assert lab.acls("client=::/0") == ["six"]
    assert lab.acls("server=::1/128") == ["six"]
    assert lab.acls("listener=127.0.0.0/8") == ["one", "two"]
    port = lab.clients["two"].getsockname()[1]
    assert lab.acls(f"client=127.0.0.0/8:{port}") == ["two"]
    assert lab.acls("client=10.0.0.0/8") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("acl=tow", 'there is no rule "tow": two?'),
        ("rule=x", 'there is no rule "x": give one of one, two, six'),
        ("client=localhost", "not a host's name"),
        ("client=127.0.0", "client=127.0.0 can match no session: give an address"),
        ("server=127.0.0.1:99999", "can match no session"),
        ("client=", "can match no session"),
        ("listener=127.0.0.9", "nothing listens there"),
        ("listener=127.0.0.1:9", "nothing listens there"),
    ],
)
def test_filters_that_match_nothing(lab: Lab, words: str, said: str) -> None:
    for verb in ("sessions", "kill"):
        done = lab.proxy.ctl(verb, words)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert said in done.stderr
    assert len(lab.acls()) == 3


def test_a_filter_that_says_two_things(lab: Lab) -> None:
    for words in (("acl=one", "acl=two"), ("acl=one", "rule=two")):
        done = lab.proxy.ctl("kill", *words)
        assert done.returncode == 1
        assert "given twice" in done.stderr
    assert len(lab.acls()) == 3


def test_filters_that_there_are_not(lab: Lab) -> None:
    for words in ("state=open", "nonsense", "=", "session=1"):
        done = lab.proxy.ctl("sessions", words)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert "client, server, rule, listener" in done.stderr


def test_kill(lab: Lab) -> None:
    (row,) = lab.proxy.sessions("acl=two")
    done = lab.proxy.ctl("kill", row["session"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (record,) = until(lab.proxy.records)
    assert (record["REASON"], record["RULE"]) == ("killed", "two")
    assert record["SESSION"] == str(row["session"])
    assert lab.acls() == ["one", "six"]
    lab.begin()
    assert len(lab.acls("acl=two")) == 1
    assert lab.proxy.sessions("acl=two")[0]["session"] == 4, "numbers are not used again"


def test_kill_of_many(lab: Lab) -> None:
    done = lab.proxy.ctl("kill", "client=127.0.0.0/8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "sessions-ended  2\n", "")
    assert lab.acls() == ["six"]
    assert {one["REASON"] for one in lab.proxy.records()} == {"killed"}
    assert lab.proxy.ask("kill", "client=127.0.0.0/8") == {"sessions-ended": 0}
    assert lab.proxy.ask("kill", "rule=six", "listener=::1") == {"sessions-ended": 1}
    lab.begin()
    assert len(lab.acls()) == 3


def test_kill_wants_to_know_which(lab: Lab) -> None:
    for words in (["acl=one", "7"], ["1", "2"]):
        assert lab.proxy.ctl("kill", *words).returncode == 1
    assert lab.proxy.ctl("kill").returncode == 2
    assert len(lab.acls()) == 3


@pytest.mark.parametrize("engine", NAMES)
def test_kill_of_very_many(tmp_path: Path, engine: str) -> None:
    port, count = free_port(), 3 * MOST_KILLED + 1
    top = f'max-sessions = 1000\nengine = "{engine}"'
    with (
        udp() as server,
        Proxy(tmp_path, config(port, f"127.0.0.1:{server.getsockname()[1]}", top=top)) as proxy,
        clients(count) as socks,
    ):
        for sock in socks:
            sock.sendto(b"hello", ("127.0.0.1", port))
        until(lambda: len(proxy.sessions()) == count)
        assert proxy.ask("kill", "rule=all") == {"sessions-ended": count}
        assert proxy.sessions() == []
        assert proxy.info()["sessions-ended"] == count


def test_kill_of_nothing(lab: Lab) -> None:
    for number in ("99", "0", "two", "1.5", "9" * 19, "9" * 5000):
        done = lab.proxy.ctl("kill", number)
        assert (done.returncode, done.stdout) == (1, ""), number
        assert number[:400] in done.stderr, "cut, but to be known"
    assert len(lab.acls()) == 3
    assert len(lab.proxy.said("UDPS-310-W")) == 6


def test_info(lab: Lab) -> None:
    info = lab.proxy.info()
    assert (info["state"], info["instance"], info["role"]) == ("running", "one", "parent")
    assert (info["sessions"], info["max-sessions"], info["listening"]) == (3, 20, 2)
    assert (info["upload-datagrams"], info["download-bytes"]) == (3, 12)
    assert (info["pid"], info["reg-pid"]) == (lab.proxy.pid, lab.proxy.reg_pid)
    reg = lab.proxy.info("reg")
    assert (reg["state"], reg["role"], reg["pid"]) == ("relaying", "reg", lab.proxy.reg_pid)
    assert reg["sessions"] == 3
    lines = lab.proxy.ctl("info").stdout.splitlines()
    assert "sessions" in [line.split()[0] for line in lines]


def test_processes_that_there_are_not(lab: Lab) -> None:
    for process in ("acr", "apr", "nobody"):
        done = lab.proxy.ctl("--process", process, "info")
        assert done.returncode == 1, process
        assert process in done.stderr


def test_nothing_to_resolve(lab: Lab) -> None:
    done = lab.proxy.ctl("resolve-now")
    assert done.returncode == 1
    assert "no names" in done.stderr


def test_state_while_the_upload_is_closed(tmp_path: Path) -> None:
    port = free_port()
    with Echo() as echo, clients(1) as (client,):
        text = config(port, str(echo), acl="limits = { upload-datagrams = 1 }")
        with Proxy(tmp_path, text) as proxy:
            exchange(client, ("127.0.0.1", port), b"first")
            exchange(client, ("127.0.0.1", port), b"second")
            rows = proxy.sessions()
            assert [row["state"] for row in rows] == ["upload-closed"] * 2
            assert len(echo.sources) == 2


def test_answers_of_any_length(tmp_path: Path) -> None:
    """A list of sessions is more than one message can carry."""
    port, count, name = free_port(), 1500, "x" * 60
    with Echo() as echo, clients(1) as (client,):
        text = config(port, str(echo), listen="0.0.0.0", top=f"max-sessions = {count}")
        with Proxy(tmp_path, text.replace('"all"', f'"{name}"')) as proxy:
            for number in range(count):
                to = (f"127.1.{number // 250}.{number % 250 + 1}", port)
                assert exchange(client, to, b"hello") == to
            rows = proxy.sessions()
            assert len({row["session"] for row in rows}) == count
            assert len({row["listener"] for row in rows}) == count
            assert {row["acl"] for row in rows} == {name}


@pytest.mark.alone  # it gives the start half a second to take its lock
def test_a_command_right_after_the_start(tmp_path: Path) -> None:
    """There is no socket yet, and at first no lock either."""
    proxy = Proxy(tmp_path, config(free_port(), "127.0.0.1:9"))
    with proxy.launched():
        done = proxy.ctl("info")
        assert (done.returncode, done.stderr) == (0, "")


def test_a_lock_that_somebody_has_is_waited_for(tmp_path: Path) -> None:
    """One that nobody has, of an instance that was killed, is not."""
    proxy = Proxy(tmp_path, config(free_port(), "127.0.0.1:9"))
    proxy.runtime.mkdir()
    lock = os.open(proxy.runtime, os.O_RDONLY)
    try:
        begin = time.monotonic()
        assert proxy.ctl("info").returncode == 3
        assert time.monotonic() - begin < 3.0
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(proxy.ctl_words("info"), stderr=subprocess.DEVNULL) as waits:
            time.sleep(3.0)
            assert waits.poll() is None
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waits.wait(3.0) == 3
    finally:
        os.close(lock)
