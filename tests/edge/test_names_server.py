"""Servers given by name: resolved at start, followed when they move, waited for when unknown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from echo import Echo, exchange, silent, udp
from host import free_port, tool
from nameserver import NameServer
from proxy import Proxy, config, until
from udpproxy.cli import ctl

NAME = "srv.lab.test"


@pytest.fixture
def zone() -> Iterator[NameServer]:
    with NameServer(ttl=1) as server:
        yield server


def twins() -> tuple[Echo, Echo]:
    """Two servers on the same port, as the same host would have at two addresses."""
    one = Echo("127.0.0.1")
    try:
        return one, Echo("127.0.0.2", one.endpoint[1])
    except BaseException:
        one.__exit__()
        raise


def until_known(proxy: Proxy, count: int = 1) -> None:
    until(lambda: proxy.info("reg")["names-known"] == count)


def test_dnsmasq_changes_an_address_within_its_ttl(tmp_path: Path) -> None:
    """The record's TTL is 5 s: new sessions go to the new address within 6 s."""
    hosts, dns = tmp_path / "hosts", free_port()
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    words = [
        *(tool("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"),
        *("--no-hosts", f"--addn-hosts={hosts}", "--user=root", "--log-facility=-", "--pid-file="),
        *("--bind-interfaces", "--listen-address=127.0.0.1", f"--port={dns}"),
        *("--local=/lab.test/", "--local-ttl=5"),
    ]
    port = free_port()
    old, new = twins()
    resolver = f'[resolver]\nservers = ["127.0.0.1:{dns}"]'
    top = "max-sessions = 1000"
    text = config(port, f"{NAME}:{old.endpoint[1]}", top=top, more=resolver)
    with old, new, subprocess.Popen(words, stderr=subprocess.DEVNULL) as dnsmasq:
        try:
            with Proxy(tmp_path, text) as proxy, udp() as kept:
                until_known(proxy)
                exchange(kept, ("127.0.0.1", port), b"first")
                assert [data for data, _ in old.received] == [b"first"]
                hosts.write_text(f"127.0.0.2 {NAME}\n")
                os.kill(dnsmasq.pid, signal.SIGHUP)
                began = time.monotonic()

                def moved() -> bool:
                    with udp() as client:
                        exchange(client, ("127.0.0.1", port), b"which")
                    return bool(new.received)

                until(moved, 7.0, 0.1)
                took = time.monotonic() - began
                print(f"new address served after {took:.2f} s")
                assert took < 6.0
                exchange(kept, ("127.0.0.1", port), b"pinned")
                assert old.received[-1][0] == b"pinned"
                (line,) = until(lambda: proxy.said("127.0.0.2, before 127.0.0.1"))
                assert "rules all; sessions:" in line
                assert "for 5 s" in line
        finally:
            dnsmasq.terminate()


@pytest.mark.parametrize("policy", ["pin", "follow", "close"])
def test_what_becomes_of_sessions(tmp_path: Path, zone: NameServer, policy: str) -> None:
    zone.host(NAME, "127.0.0.1")
    old, new = twins()
    port = free_port()
    acl = f'resolve-policy = "{policy}"'
    text = config(port, f"{NAME}:{old.endpoint[1]}", acl=acl, more=zone.section)
    with old, new, Proxy(tmp_path, text) as proxy, udp() as client:
        until_known(proxy)
        to = ("127.0.0.1", port)
        exchange(client, to, b"one")
        zone.host(NAME, "127.0.0.2")
        (line,) = until(lambda: proxy.said("127.0.0.2, before 127.0.0.1"))
        counts = {"pin": (1, 0, 0), "follow": (0, 1, 0), "close": (0, 0, 1)}[policy]
        assert line.endswith("sessions: {} stay, {} follow, {} end".format(*counts))
        exchange(client, to, b"two")
        where = {"pin": old, "follow": new, "close": new}[policy]
        assert where.received[-1][0] == b"two"
        rows = proxy.sessions()
        assert [row["session"] for row in rows] == [2 if policy == "close" else 1]
        assert rows[0]["server"] == str(where)
        if policy == "close":
            (record,) = proxy.records()
            assert (record["REASON"], record["SERVER"]) == ("policy", "127.0.0.1")
        else:
            assert (rows[0]["datagrams-up"], rows[0]["datagrams-down"]) == (2, 2)
            assert proxy.records() == []
        # And so it is after a crash of REG.
        proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
        until(lambda: proxy.ctl("info").returncode == 0)
        exchange(client, to, b"three")
        assert where.received[-1][0] == b"three"


def test_an_address_that_is_still_there_is_no_change_for_its_sessions(
    tmp_path: Path, zone: NameServer
) -> None:
    zone.host(NAME, "127.0.0.1")
    old, new = twins()
    port = free_port()
    acl = 'resolve-policy = "close"'
    text = config(port, f"{NAME}:{old.endpoint[1]}", acl=acl, more=zone.section)
    with old, new, Proxy(tmp_path, text) as proxy, udp() as client:
        until_known(proxy)
        exchange(client, ("127.0.0.1", port), b"one")
        zone.host(NAME, "127.0.0.2", "127.0.0.1")
        until(lambda: proxy.said("before 127.0.0.1"))
        exchange(client, ("127.0.0.1", port), b"two")
        assert [row["session"] for row in proxy.sessions()] == [1]
        zone.gone(NAME)
        until(proxy.records)
        assert proxy.records()[0]["REASON"] == "unresolved"
        assert proxy.said(f"name {NAME} is not resolved: nxdomain; it has no address")


def test_datagrams_wait_until_the_name_is_there(tmp_path: Path, zone: NameServer) -> None:
    """Eight of them, the youngest, in their order."""
    zone.host(NAME, "127.0.0.1")
    zone.silent = True
    port = free_port()
    with Echo() as echo:
        more = zone.section + "initial-timeout = 10"
        text = config(port, f"{NAME}:{echo.endpoint[1]}", more=more)
        with Proxy(tmp_path, text) as proxy, udp() as client:
            for number in range(12):
                client.sendto(b"%d" % number, ("127.0.0.1", port))
            until(lambda: proxy.info("reg")["sessions-waiting"] == 1)
            until(lambda: proxy.info("reg")["sessions-waiting-dropped"] == 4)
            assert proxy.sessions() == []
            zone.silent = False
            got = [client.recv(99) for _ in range(8)]
            assert got == [b"%d" % number for number in range(4, 12)]
            exchange(client, ("127.0.0.1", port), b"more")
            assert len(proxy.sessions()) == 1
            assert proxy.info("reg")["sessions-waiting"] == 0


def test_a_session_without_an_address_ends_unresolved(tmp_path: Path, zone: NameServer) -> None:
    port = free_port()
    with Echo() as echo:
        text = config(
            port, f"{NAME}:{echo.endpoint[1]}", more=zone.section + "initial-timeout = 0.5"
        )
        with Proxy(tmp_path, text) as proxy, udp() as client:
            for data in (b"one", b"three"):
                client.sendto(data, ("127.0.0.1", port))
            (record,) = until(proxy.records)
            assert record["REASON"] == "unresolved"
            assert (record["SERVER"], record["SERVER_ADDR"]) == (NAME, "-")
            assert (record["RESULT"], record["RULE"]) == ("FAILED", "all")
            assert (record["DATAGRAMS_CIN"], record["BYTES_CIN"]) == ("2", "8")
            assert (record["DATAGRAMS_SOUT"], record["SESSION"]) == ("0", "0")
            assert 0.4 < float(record["DURATION"]) < 1.0
            assert silent(client, 0.1)
            info = proxy.info()
            assert (info["sessions-opened"], info["sessions-ended"]) == (1, 1)
            # It is there now, and APR need not wait for ACR's next turn.
            zone.host(NAME, "127.0.0.1")
            until(lambda: proxy.ctl("resolve-now").returncode == 0)
            until_known(proxy)
            exchange(client, ("127.0.0.1", port), b"now")


def test_rules_without_names_work_while_nobody_answers(tmp_path: Path, zone: NameServer) -> None:
    zone.silent = True
    port, other = free_port(), free_port()
    with Echo() as echo:
        more = f"""
[[session-acl]]
name = "named"
from = ["host.lab.test"]
to = [":{other}"]
plug-to = "{echo}"
[[session-acl]]
name = "plain"
to = [":{other}"]
plug-to = "{echo}"
[[listen]]
address = "127.0.0.1"
port = {other}
"""
        text = config(port, f"{NAME}:9", acl=f'to = [":{port}"]', more=more + zone.section)
        began = time.monotonic()
        with Proxy(tmp_path, text) as proxy, udp() as client:
            assert time.monotonic() - began < 5.0
            exchange(client, ("127.0.0.1", other), b"at once")
            assert proxy.sessions()[0]["acl"] == "plain"
            zone.host("host.lab.test", "127.0.0.1")
            zone.silent = False
            until_known(proxy)
            with udp() as later:
                exchange(later, ("127.0.0.1", other), b"by name")
            assert [row["acl"] for row in proxy.sessions()] == ["plain", "named"]


def test_the_last_addresses_hold_while_a_refresh_fails(tmp_path: Path, zone: NameServer) -> None:
    zone.host(NAME, "127.0.0.1")
    port = free_port()
    with Echo() as echo:
        more = zone.section + "stale = 4\nconf-timeout = 1"
        text = config(port, f"{NAME}:{echo.endpoint[1]}", more=more)
        with Proxy(tmp_path, text) as proxy:
            until_known(proxy)
            zone.silent = True
            until(lambda: proxy.said(f"{NAME} is not resolved: timeout; it keeps 127.0.0.1 for at"))
            with udp() as client:
                exchange(client, ("127.0.0.1", port), b"still")
            figures = proxy.info("acr")
            assert (figures["names"], figures["known"], figures["failed"]) == (1, 1, 1)
            until(lambda: proxy.said(f"{NAME} could not be resolved for 4 s"), 8)
            until(lambda: proxy.said(f"name {NAME}: none, before 127.0.0.1"))
            zone.silent = False
            until(lambda: proxy.said(f"name {NAME} is resolved again: 127.0.0.1"))


def test_names_that_a_reload_brings(tmp_path: Path, zone: NameServer) -> None:
    zone.host(NAME, "127.0.0.1")
    port = free_port()
    with Echo() as echo, Proxy(tmp_path, config(port, str(echo))) as proxy:
        assert set(proxy.processes().values()) == {"parent", "reg"}
        assert proxy.ctl("resolve-now").returncode == 1
        proxy.write(config(port, f"{NAME}:{echo.endpoint[1]}", more=zone.section))
        proxy.ask("reload")
        assert set(proxy.processes().values()) == {"parent", "reg", "acr", "apr"}
        with udp() as client:
            until_known(proxy)
            exchange(client, ("127.0.0.1", port), b"named")
            proxy.write(config(port, str(echo)))
            proxy.ask("reload")
            assert proxy.info("acr")["state"] == "idle"
            exchange(client, ("127.0.0.1", port), b"goes on")
        assert proxy.info("reg")["names-known"] == 0


def test_single_mode_resolves_once(tmp_path: Path, zone: NameServer) -> None:
    zone.host(NAME, "127.0.0.1")
    port = free_port()
    with Echo() as echo:
        text = config(port, f"{NAME}:{echo.endpoint[1]}", more=zone.section)
        with Proxy(tmp_path, text, single=True) as proxy, udp() as client:
            exchange(client, ("127.0.0.1", port), b"one")
            assert proxy.said("names are looked up once and look-ups block")
            assert sum(zone.asked.values()) == 2
            refused = proxy.ctl("resolve-now")
            assert refused.returncode == 1
            assert "single" in refused.stderr


def test_reg_knows_the_names_at_once_after_a_crash(tmp_path: Path, zone: NameServer) -> None:
    zone.host(NAME, "127.0.0.1")
    port = free_port()
    with Echo() as echo:
        more = zone.section + "initial-timeout = 0.1"
        text = config(port, f"{NAME}:{echo.endpoint[1]}", more=more)
        with Proxy(tmp_path, text) as proxy:
            until_known(proxy)
            zone.silent = True
            pids = proxy.processes()
            for pid, role in pids.items():
                if role != "parent":
                    os.kill(pid, signal.SIGKILL)
            with udp() as client, socket.socket():
                exchange(client, ("127.0.0.1", port), b"known")
            until(lambda: len(proxy.processes()) == 4)
            assert not set(proxy.processes()) & (set(pids) - {proxy.pid})
            assert proxy.info("acr")["known"] == 1


def test_the_family_of_the_client_is_wanted_first(tmp_path: Path, zone: NameServer) -> None:
    """One server of both families on the same port, listeners of both families."""
    zone.host(NAME, "127.0.0.1", "::1")
    port = free_port()
    four = Echo("127.0.0.1")
    with four, Echo("::1", four.endpoint[1]) as six:
        more = f'[[listen]]\naddress = "::1"\nport = {port}\n' + zone.section
        text = config(port, f"{NAME}:{four.endpoint[1]}", more=more)
        with Proxy(tmp_path, text) as proxy, udp() as client, udp("::1") as other:
            until_known(proxy)
            exchange(client, ("127.0.0.1", port), b"four")
            exchange(other, ("::1", port), b"six")
            assert ([data for data, _ in four.received], [data for data, _ in six.received]) == (
                [b"four"],
                [b"six"],
            )
            # Where the family is gone, the other serves.
            zone.host(NAME, "::1")
            until(lambda: proxy.said(f"name {NAME}: ::1, before 127.0.0.1, ::1"))
            with udp() as late:
                exchange(late, ("127.0.0.1", port), b"over six")
            assert six.received[-1][0] == b"over six"


def test_info_of_the_helpers(tmp_path: Path, zone: NameServer) -> None:
    zone.host(NAME, "127.0.0.1")
    text = config(free_port(), f"{NAME}:9", acl='from = ["gone.lab.test"]', more=zone.section)
    with Proxy(tmp_path, text) as proxy:
        until(lambda: proxy.info("acr")["failed"] == 1)
        until_known(proxy)
        figures = proxy.info("acr")
        assert (figures["names"], figures["known"], figures["pending"]) == (2, 1, 0)
        assert figures["failing"] == "gone.lab.test:nxdomain"
        assert figures["slowest"].split()[0] in (NAME, "gone.lab.test")
        for process in ("acr", "apr"):
            obeys_the_four_verbs(proxy, process)
        assert proxy.stop() == 0
        assert proxy.processes() == {}


def test_a_helper_that_is_being_replaced_is_waited_for(tmp_path: Path, zone: NameServer) -> None:
    """Asked without a new process for it, which would take longer than the replacement."""
    text = config(free_port(), f"{NAME}:9", acl='from = ["gone.lab.test"]', more=zone.section)
    with Proxy(tmp_path, text) as proxy:
        for process in ("acr", "apr"):
            before = proxy.info(process)["pid"]
            os.kill(before, signal.SIGKILL)
            until(lambda: before not in proxy.processes())  # noqa: B023 - at once
            answer = ctl.ask(proxy.runtime / "control.sock", "info", {"process": process})
            assert isinstance(answer, dict)
            assert answer["pid"] != before


def test_a_helper_that_dies_when_asked_is_asked_again(tmp_path: Path, zone: NameServer) -> None:
    text = config(free_port(), f"{NAME}:9", more=zone.section)
    with Proxy(tmp_path, text) as proxy, ThreadPoolExecutor() as pool:
        before = proxy.info("acr")["pid"]
        os.kill(before, signal.SIGSTOP)
        path = proxy.runtime / "control.sock"
        answer = pool.submit(ctl.ask, path, "info", {"process": "acr"})
        with pytest.raises(TimeoutError):
            answer.result(0.5)
        os.kill(before, signal.SIGKILL)
        figures = answer.result(20)
        assert isinstance(figures, dict)
        assert figures["pid"] != before


def obeys_the_four_verbs(proxy: Proxy, process: str) -> None:
    def pid() -> int:
        return next((pid for pid, role in proxy.processes().items() if role == process), 0)

    before = pid()
    assert proxy.ask("--process", process, "loglevel", "8") == "trace (8)"
    count = len(proxy.said(f"role={process}"))
    os.kill(before, signal.SIGRTMIN)
    until(lambda: len(proxy.said(f"role={process}")) > count)
    os.kill(before, signal.SIGUSR2)
    until(lambda: proxy.info(process)["log-level"] == "debug (7)")
    assert proxy.ctl("--process", process, "terminate").returncode == 0
    until(lambda: pid() not in (0, before))
    until(lambda: proxy.ctl("--process", process, "info").returncode == 0)
