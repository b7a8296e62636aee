"""A new configuration into a running proxy: whole or not at all, and the rest goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, clients, exchange, silent, udp
from host import free_port
from proxy import Endpoint, Proxy, command, config, reloaded, until


def file_text(
    listen: list[int], rules: list[tuple[str, str, str]], top: str = "max-sessions = 50"
) -> str:
    """Listeners by port, rules by name, client's address and server."""
    parts = [top]
    parts += [f'[[listen]]\naddress = "127.0.0.1"\nport = {port}' for port in listen]
    parts += [
        f'[[session-acl]]\nname = "{name}"\nfrom = ["{client}"]\nplug-to = "{server}"'
        for name, client, server in rules
    ]
    return "\n".join(parts)


@dataclass
class Lab:
    """Two rules, each for one client, and ports for two listeners, of which the first is used."""

    proxy: Proxy
    echo: Echo
    ports: list[int]
    rules: list[tuple[str, str, str]]
    socks: list[socket.socket]

    def at(self, number: int) -> Endpoint:
        return "127.0.0.1", self.ports[number]

    def reload(self, listen: list[int], rules: list[tuple[str, str, str]]) -> int:
        """How many sessions that ended."""
        self.proxy.write(file_text(listen, rules))
        ended: int = self.proxy.ask("reload")["sessions-ended"]
        return ended

    def refused(self, text: str) -> str:
        """A reload that must fail, and what it says on stderr."""
        before = self.proxy.sessions()
        self.proxy.write(text)
        done = self.proxy.ctl("reload")
        assert (done.returncode, done.stdout) == (1, "")
        assert self.proxy.said("UDPS-304-W")
        after = self.proxy.sessions()
        assert [row["session"] for row in after] == [row["session"] for row in before]
        exchange(self.socks[0], self.at(0), b"one goes on")
        exchange(self.socks[1], self.at(0), b"two goes on")
        assert len(self.echo.sources) == 2
        return done.stderr


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Echo() as echo, clients(1, "127.0.0.1") as one, clients(1, "127.0.0.2") as two:
        ports = [free_port(), free_port()]
        rules = [("one", "127.0.0.1", str(echo)), ("two", "127.0.0.2", str(echo))]
        with Proxy(tmp_path, file_text(ports[:1], rules)) as proxy:
            lab = Lab(proxy, echo, ports, rules, one + two)
            exchange(one[0], lab.at(0), b"one begins")
            exchange(two[0], lab.at(0), b"two begins")
            yield lab


def test_bad_file_changes_nothing(lab: Lab) -> None:
    said = lab.refused(file_text([lab.ports[1]], lab.rules) + '\ncolour = "blue"')
    assert f"{lab.proxy.file}:" in said
    assert "colour: unknown key" in said
    assert len(lab.proxy.log) == len([line for line in lab.proxy.log if "UDPS-" in line])


def test_file_that_is_gone_changes_nothing(lab: Lab) -> None:
    text = lab.proxy.file.read_text()
    lab.proxy.file.unlink()
    assert lab.proxy.ctl("reload").returncode == 1
    lab.proxy.write(text)
    assert lab.proxy.ask("reload") == reloaded(0)


def test_listener_that_cannot_be_had_changes_nothing(lab: Lab) -> None:
    taken = lab.echo.endpoint[1]
    rules = [(name, client, "127.0.0.9:9") for name, client, _ in lab.rules]
    said = lab.refused(file_text([lab.ports[1], taken], rules))
    comm = Path("/proc/self/comm").read_text().strip()
    who = f"{comm} (process {os.getpid()}, user root)"
    assert f"listen on 127.0.0.1 port {taken}: Address already in use: {who} has it" in said
    lab.socks[0].sendto(b"anybody?", lab.at(1))
    assert silent(lab.socks[0]), "of two new listeners none stays when one fails"


def test_who_keeps_a_wildcard_away(lab: Lab) -> None:
    """Ours on the single address is not in the way of it."""
    text, port = lab.proxy.file.read_text(), lab.ports[0]
    with udp("127.0.0.53", port):
        said = lab.refused(text.replace('address = "127.0.0.1"', 'address = "0.0.0.0"'))
    assert "has 127.0.0.53, so 0.0.0.0 cannot be had: name the addresses" in said


@pytest.mark.parametrize("key", ['target = "file"\nfile', "records"])
def test_log_that_cannot_be_had_changes_nothing(lab: Lab, key: str) -> None:
    text = file_text([lab.ports[1]], lab.rules)
    said = lab.refused(f'{text}\n[log]\n{key} = "/nonexistent/log"')
    assert "/nonexistent/log: No such file or directory" in said


def test_what_needs_a_restart(lab: Lab) -> None:
    for change in ('user = "nobody"', "singleproc = true", 'engine = "python"'):
        text = file_text(lab.ports[:1], lab.rules, f"max-sessions = 50\n{change}")
        assert f"{change.split()[0]}: a change needs a restart" in lab.refused(text)
    text = file_text(lab.ports[:1], lab.rules, "max-sessions = 60")
    assert "max-sessions: a change needs a restart" in lab.refused(text)
    assert lab.proxy.info()["max-sessions"] == 50


def test_listener_added_and_removed(lab: Lab) -> None:
    assert lab.reload(lab.ports, lab.rules) == 0
    with clients(1) as (third,):
        exchange(third, lab.at(1), b"by the new door")
        exchange(lab.socks[0], lab.at(0), b"by the old one")
        assert lab.proxy.info()["listening"] == 2

        assert lab.reload(lab.ports[:1], lab.rules) == 1
        (record,) = lab.proxy.records()
        assert record["REASON"] == "policy"
        assert record["CLIENT_PORT"] == str(third.getsockname()[1])
        third.sendto(b"still there?", lab.at(1))
        assert silent(third)
        # The port is free again, and can be had again.
        assert lab.reload(lab.ports, lab.rules) == 0
        exchange(third, lab.at(1), b"and again")
    for number, sock in enumerate(lab.socks):
        exchange(sock, lab.at(0), b"never touched %d" % number)
    assert len(lab.echo.sources) == 4
    assert len(lab.proxy.records()) == 1


def test_withdrawn_rule_ends_its_sessions(lab: Lab) -> None:
    assert lab.reload(lab.ports[:1], lab.rules[1:]) == 1
    (record,) = lab.proxy.records()
    assert (record["REASON"], record["RESULT"]) == ("policy", "ABORTED")
    assert record["CLIENT"] == "127.0.0.1"
    exchange(lab.socks[1], lab.at(0), b"two goes on")
    lab.socks[0].sendto(b"may I?", lab.at(0))
    assert silent(lab.socks[0])
    assert until(lambda: lab.proxy.info()["refused-by-acl"], step=0.05)
    assert [row["acl"] for row in lab.proxy.sessions()] == ["two"]
    assert len(lab.proxy.said("UDPS-305-I 1 sessions ended")) == 1


@pytest.mark.parametrize("engine", NAMES)
def test_sessions_that_come_and_go_meanwhile(tmp_path: Path, engine: str) -> None:
    """They are none that the reload ended, and their number is never below 0."""
    port = free_port()
    acl = "[session-acl.limits]\ndownload-datagrams = 1"
    top = f'max-sessions = 50\nengine = "{engine}"'
    with Echo() as echo, Proxy(tmp_path, config(port, str(echo), top=top, acl=acl)) as proxy:
        over = threading.Event()

        def busy() -> None:
            with udp() as client:
                while not over.is_set():
                    exchange(client, ("127.0.0.1", port), b"opens and ends one")

        with ThreadPoolExecutor() as pool:
            done = pool.submit(busy)
            try:
                ended = [proxy.ask("reload")["sessions-ended"] for _ in range(30)]
            finally:
                over.set()
            done.result()
        assert ended == [0] * 30
        assert proxy.info()["reg-ends"] == 0
        assert proxy.said("UDPS-212-E") == []


def test_session_that_another_rule_takes_goes_on(lab: Lab) -> None:
    everybody = [("all", "127.0.0.0/8", str(lab.echo))]
    assert lab.reload(lab.ports[:1], everybody) == 0
    assert [row["acl"] for row in lab.proxy.sessions()] == ["all", "all"]
    for sock in lab.socks:
        exchange(sock, lab.at(0), b"as before")
    assert len(lab.echo.sources) == 2


def test_new_limits_hold_for_old_sessions(lab: Lab) -> None:
    text = file_text(lab.ports[:1], lab.rules) + "\n[limits]\nidle = 0.2"
    lab.proxy.write(text)
    lab.proxy.ask("reload")
    records = until(lambda: found if len(found := lab.proxy.records()) == 2 else [])
    assert {record["REASON"] for record in records} == {"idle"}


def test_what_was_reloaded_holds_for_the_next_reg(lab: Lab) -> None:
    assert lab.reload(lab.ports, lab.rules[1:]) == 1
    lab.proxy.next_reg(lab.proxy.kill(signal.SIGKILL, "reg"))
    exchange(lab.socks[1], lab.at(0), b"two goes on")
    exchange(lab.socks[1], lab.at(1), b"by the new door")
    lab.socks[0].sendto(b"may I?", lab.at(0))
    assert silent(lab.socks[0])
    assert [record["CLIENT"] for record in lab.proxy.records()] == ["127.0.0.1"]


def test_level_of_the_file(lab: Lab) -> None:
    text = file_text(lab.ports[:1], lab.rules)
    lab.proxy.ask("loglevel", "debug")
    lab.proxy.write(text)
    lab.proxy.ask("reload")
    assert lab.proxy.info()["log-level"] == "debug (7)", "the file does not say otherwise"
    lab.proxy.write(text + "\n[log]\nlevel = 5")
    lab.proxy.ask("reload")
    for process in ("parent", "reg"):
        assert lab.proxy.info(process)["log-level"] == "notice (5)"


def test_reload_is_for_the_parent_only(lab: Lab) -> None:
    done = lab.proxy.ctl("reload", "--process", "reg")
    assert done.returncode == 1
    assert "knows no verb" in done.stderr


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Hears what an instance tells systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "supervisor"))
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "supervisor"))
        yield sock


def told(supervisor: socket.socket) -> str:
    """The next thing that is no mere status: READY, or RELOADING with the moment left out."""
    while True:
        state = dict(line.split("=", 1) for line in supervisor.recv(4096).decode().split("\n"))
        if "RELOADING" in state:
            assert 0 < int(state["MONOTONIC_USEC"]) < time.monotonic() * 1e6
            return "RELOADING"
        if "READY" in state:
            assert state["STATUS"].startswith(("running: listening ", "degraded: relay is down "))
            return "READY"


def test_systemd_hears_of_it_and_of_its_end(tmp_path: Path, supervisor: socket.socket) -> None:
    """Also where the file has a mistake or REG is being replaced: never one without the other."""
    port = free_port()
    good = file_text([port], [("one", "127.0.0.1", "127.0.0.1:9")])
    with Proxy(tmp_path / "proxy", good) as proxy:
        assert told(supervisor) == "READY"
        for text, status in ((good, 0), ("colour = 1", 1), (good.replace("50", "60"), 1)):
            proxy.write(text)
            assert proxy.ctl("reload").returncode == status
            assert [told(supervisor), told(supervisor)] == ["RELOADING", "READY"]
        proxy.write(good)
        reg = proxy.kill(signal.SIGSTOP, "reg")
        asked = subprocess.Popen(command("ctl", "one", "--runtime-dir", proxy.runtime, "reload"))
        assert told(supervisor) == "RELOADING"
        os.kill(reg, signal.SIGKILL)
        assert told(supervisor) == "READY"
        assert asked.wait(30) == 0
        assert proxy.next_reg(reg)


def test_terminated_in_the_middle(lab: Lab) -> None:
    """A reload that waits for REG brings the first name: no helper is started any more, everything
    ends in order and within its limit."""
    reg = lab.proxy.kill(signal.SIGSTOP, "reg")
    lab.proxy.write(file_text(lab.ports[:1], [("one", "127.0.0.1", "localhost:9")]))
    asked = subprocess.Popen(lab.proxy.ctl_words("reload"), stderr=subprocess.PIPE)
    try:
        until(lambda: lab.proxy.info()["rules"] == 1)
        lab.proxy.kill(signal.SIGTERM)
        until(lambda: lab.proxy.said("UDPS-103-I"))
        os.kill(reg, signal.SIGCONT)
        assert lab.proxy.wait() == 0
    finally:
        asked.kill()
        asked.communicate()
    for unwanted in ("UDPS-201-W", "UDPS-203-E", "UDPS-207-E", "acr"):
        assert not lab.proxy.said(unwanted)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("engine", ["python", "native"])
@pytest.mark.parametrize(("one", "wildcard"), [("127.0.0.1", "0.0.0.0"), ("::1", "::")])
def test_an_address_and_the_wildcard_change_places(
    tmp_path: Path, one: str, wildcard: str, engine: str, workers: int
) -> None:
    """On the same port; afterwards nobody else can have it."""
    if (engine, workers) == ("python", 2):
        pytest.skip("the Python engine has one worker")
    top = f'max-sessions = 10\nengine = "{engine}"\nworkers = {workers}'
    with Echo() as echo, clients(1, one) as (client,):
        there = one, free_port(one)
        with Proxy(tmp_path, config(there[1], str(echo), listen=one, top=top)) as proxy:
            exchange(client, there, b"first")
            for address in (wildcard, one, wildcard):
                proxy.write(config(there[1], str(echo), listen=address, top=top))
                assert proxy.ask("reload") == reloaded(1)
                exchange(client, there, b"again")
                with socket.socket(client.family, socket.SOCK_DGRAM) as thief:
                    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    with pytest.raises(OSError, match="in use"):
                        thief.bind(there)


@pytest.mark.parametrize("how", ["reload", "restart of REG later"])
@pytest.mark.parametrize("policy", ["close", "follow", "keep"])
@pytest.mark.parametrize("engine", NAMES)
def test_a_rule_that_leads_to_another_server(
    tmp_path: Path, engine: str, policy: str, how: str
) -> None:
    """What the list, the record and `explain` say of a session is what it does."""
    port = free_port()
    top = f'max-sessions = 20\nengine = "{engine}"'
    acl = f'reload-policy = "{policy}"' if policy != "close" else ""
    with Echo() as old, Echo() as new, clients(2) as (client, other):
        with Proxy(tmp_path, config(port, str(old), top=top, acl=acl)) as proxy:
            exchange(client, ("127.0.0.1", port), b"before")
            proxy.write(config(port, str(new), top=top, acl=f'{acl}\nunreachable = "close"'))
            assert proxy.ask("reload") == reloaded(
                policy == "close", policy == "follow", policy == "keep"
            )
            if how != "reload":
                proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
            for _ in range(3):
                exchange(client, ("127.0.0.1", port), b"after")
                exchange(other, ("127.0.0.1", port), b"new")
            servers = {row["client"]: row["server"] for row in proxy.sessions()}
            mine = f"127.0.0.1:{client.getsockname()[1]}"
            stays = str(old) if policy == "keep" else str(new)
            assert servers == {
                mine: stays,
                f"127.0.0.1:{other.getsockname()[1]}": str(new),
            }
            assert (len(old.sources_of(b"after")) > 0) is (policy == "keep")
            assert (len(new.sources_of(b"after")) > 0) is (policy != "keep")
            # The same file once more: nobody goes anywhere.
            assert proxy.ask("reload") == reloaded(0)
            exchange(client, ("127.0.0.1", port), b"once more")
        ended = [(row["REASON"], row["SERVER_PORT"]) for row in proxy.records()
                 if row["CLIENT_PORT"] == mine.split(":")[1]]  # fmt: skip
        if policy == "close":
            assert ended == [
                ("policy", str(old.endpoint[1])), ("terminated", str(new.endpoint[1])),
            ]  # fmt: skip
        else:
            assert ended == [("terminated", stays.split(":")[1])]


def test_another_port_of_the_same_rule_is_another_server(tmp_path: Path) -> None:
    """Without a port in plug-to it is the client's, and the same as before."""
    port = free_port()
    with Echo("127.0.0.2", port) as echo, clients(1) as (client,):
        with Proxy(tmp_path, config(port, "127.0.0.2")) as proxy:
            exchange(client, ("127.0.0.1", port), b"before")
            proxy.write(config(port, f"127.0.0.2:{port}"))
            assert proxy.ask("reload") == reloaded(0)
            exchange(client, ("127.0.0.1", port), b"after")
            proxy.write(config(port, "127.0.0.2:9"))
            assert proxy.ask("reload") == reloaded(1)
        assert len(echo.sources) == 1
