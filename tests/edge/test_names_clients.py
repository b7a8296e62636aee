"""Clients by their names: looked up, confirmed, within bounds, and never in the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, exchange, silent, udp
from host import free_port
from nameserver import NameServer
from proxy import Proxy, config, reloaded, until

pytestmark = pytest.mark.alone

CLIENT = "127.9.0.1"


@pytest.fixture
def zone() -> Iterator[NameServer]:
    with NameServer() as server:
        server.reverse(CLIENT, "pc.lab.test")
        server.host("pc.lab.test", "192.0.2.1", CLIENT)
        yield server


def rules(port: int, echo: Echo, zone: NameServer, more: str = "", *, rest: str = "") -> str:
    """Clients of the laboratory go to the server; `rest` are further rules."""
    return config(port, str(echo), acl='from = ["*.lab.test"]', more=rest + zone.section + more)


def test_a_client_by_its_name(tmp_path: Path, zone: NameServer) -> None:
    port = free_port()
    with Echo() as echo, Proxy(tmp_path, rules(port, echo, zone)) as proxy:
        assert set(proxy.processes().values()) == {"parent", "reg", "apr"}
        with udp(CLIENT) as client, udp(CLIENT) as again:
            exchange(client, ("127.0.0.1", port), b"hello")
            exchange(again, ("127.0.0.1", port), b"known by now")
        assert zone.asked["1.0.9.127.in-addr.arpa PTR"] == 1
        assert zone.asked["pc.lab.test A"] == 1
        figures = proxy.info("apr")
        assert (figures["answered"], figures["in-flight"]) == (1, 0)
        assert proxy.info("reg")["client-names-kept"] == 1
        proxy.ask("resolve-now")
        with udp(CLIENT) as client:
            exchange(client, ("127.0.0.1", port), b"asked again")
        assert zone.asked["1.0.9.127.in-addr.arpa PTR"] == 2


@pytest.mark.parametrize("lie", ["other address", "no such name", "no reverse name", "other name"])
def test_a_name_that_is_not_the_client_s(tmp_path: Path, zone: NameServer, lie: str) -> None:
    match lie:
        case "other address":
            zone.host("pc.lab.test", "192.0.2.1")
        case "no such name":
            zone.gone("pc.lab.test")
        case "no reverse name":
            zone.reverse(CLIENT)
        case "other name":
            zone.reverse(CLIENT, "pc.lab.test.evil.test")
            zone.host("pc.lab.test.evil.test", CLIENT)
    port = free_port()
    with Echo() as echo, Proxy(tmp_path, rules(port, echo, zone)) as proxy, udp(CLIENT) as client:
        client.sendto(b"let me in", ("127.0.0.1", port))
        until(lambda: proxy.said("UDPP-821-I"))
        assert silent(client, 0.1)
        assert not echo.received


def test_no_answer_counts_as_no_match(tmp_path: Path, zone: NameServer) -> None:
    """The datagrams wait, then the next rule has them, in their order."""
    zone.silent = True
    port = free_port()
    with Echo() as echo, Echo() as other:
        rest = f'[[session-acl]]\nname = "rest"\nplug-to = "{other}"\n'
        text = rules(port, echo, zone, "initial-timeout = 0.5", rest=rest)
        with Proxy(tmp_path, text) as proxy, udp(CLIENT) as client:
            began = time.monotonic()
            for number in range(9):
                client.sendto(b"%d" % number, ("127.0.0.1", port))
            assert [client.recv(9) for _ in range(8)] == [b"%d" % each for each in range(1, 9)]
            assert 0.45 < time.monotonic() - began < 1.5
            assert [row["acl"] for row in proxy.sessions()] == ["rest"]
            assert not echo.received
            # Its next session need not wait: no answer holds for a while, too.
            with udp(CLIENT) as again:
                began = time.monotonic()
                exchange(again, ("127.0.0.1", port), b"at once")
                assert time.monotonic() - began < 0.3


def test_a_reload_does_not_end_sessions_whose_client_is_not_known_now(
    tmp_path: Path, zone: NameServer
) -> None:
    port = free_port()
    with Echo() as echo, Proxy(tmp_path, rules(port, echo, zone)) as proxy, udp(CLIENT) as client:
        exchange(client, ("127.0.0.1", port), b"in")
        proxy.ask("resolve-now")
        zone.silent = True
        proxy.write(rules(port, echo, zone, "negative-ttl = 10"))
        assert proxy.ask("reload") == reloaded(0)
        exchange(client, ("127.0.0.1", port), b"still in")


def test_single_mode_looks_clients_up_at_once(tmp_path: Path, zone: NameServer) -> None:
    port = free_port()
    with (
        Echo() as echo,
        Proxy(tmp_path, rules(port, echo, zone), single=True) as proxy,
        udp(CLIENT) as client,
        udp() as stranger,
    ):
        exchange(client, ("127.0.0.1", port), b"hello")
        stranger.sendto(b"me too", ("127.0.0.1", port))
        until(lambda: proxy.said("UDPP-821-I"))
        assert silent(stranger, 0.1)


def test_late_answers_are_said(tmp_path: Path, zone: NameServer) -> None:
    port = free_port()
    more = "initial-timeout = 0.5"
    with Echo() as echo, Proxy(tmp_path, rules(port, echo, zone, more)) as proxy:
        # One that is still starting may hang for longer than REG wants to know.
        until(lambda: proxy.info()["apr-state"] == "ready")
        os.kill(proxy.info()["apr-pid"], signal.SIGSTOP)
        with udp(CLIENT) as client:
            client.sendto(b"anybody?", ("127.0.0.1", port))
            until(lambda: proxy.said("UDPP-821-I"))
            until(lambda: proxy.said("answers of APR are late: 1 look-ups wait"))
            until(lambda: proxy.said("APR answers in time again"), 15)
            exchange(client, ("127.0.0.1", port), b"known by now")


class Traffic:
    """A session that is known before, and counts what it loses; a context manager."""

    def __init__(self, port: int) -> None:
        self.sent = self.lost = 0
        self.waits: list[float] = []
        self._to = ("127.0.0.1", port)
        self._socket = udp()
        self._socket.settimeout(1.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Traffic:
        exchange(self._socket, self._to, b"first")
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.perf_counter()
            self.sent += 1
            try:
                exchange(self._socket, self._to, b"%d" % self.sent)
            except (TimeoutError, AssertionError):
                self.lost += 1
            self.waits.append(time.perf_counter() - began)
            time.sleep(0.001)

    def report(self, what: str) -> tuple[float, float]:
        """Median and 99th percentile in ms since the last report."""
        waits, self.waits = sorted(self.waits), []
        median, p99 = (1e3 * waits[int(len(waits) * part)] for part in (0.5, 0.99))
        print(f"{what}: {len(waits)} exchanges, median {median:.3f} ms, p99 {p99:.3f} ms")
        return median, p99


def plain(port: int, echo: Echo, zone: NameServer, more: str = "", *, engine: str = "auto") -> str:
    """Rules by address and by name on two ports; a name in the configuration, so ACR runs."""
    named = f"""
[[listen]]
address = "127.0.0.1"
port = {port + 1}
[[session-acl]]
name = "lab"
from = ["*.lab.test", "gw.lab.test"]
to = [":{port + 1}"]
plug-to = "{echo}"
[[session-acl]]
name = "server"
from = ["127.8.0.0/16"]
to = [":{port + 1}"]
plug-to = "nowhere.lab.test:9"
"""
    top = f'max-sessions = 5000\nengine = "{engine}"'
    acl = f'to = [":{port}"]'
    return config(port, str(echo), top=top, acl=acl, more=named + zone.section + more)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_crashes_of_acr_and_apr_touch_no_session(
    tmp_path: Path, zone: NameServer, how: signal.Signals
) -> None:
    """They are replaced (a stopped one after the watchdog's 5 s), what was asked is asked again."""
    port = free_port()
    with Echo() as echo:
        text = plain(port, echo, zone, "initial-timeout = 20")
        with Proxy(tmp_path, text) as proxy, Traffic(port) as traffic, udp(CLIENT) as client:
            before = {role: pid for pid, role in proxy.processes().items()}
            until(lambda: proxy.info("acr")["state"] == "resolving")
            zone.silent = True
            client.sendto(b"who am I", ("127.0.0.1", port + 1))
            until(lambda: zone.asked["1.0.9.127.in-addr.arpa PTR"])
            for role in ("acr", "apr"):
                os.kill(before[role], how)
            zone.silent = False
            assert client.recv(99) == b"who am I"
            until(lambda: len(proxy.processes()) == 4, 15)
            after = {role: pid for pid, role in proxy.processes().items()}
            assert (after["reg"], after["parent"]) == (before["reg"], before["parent"])
            assert after["acr"] != before["acr"]
            assert after["apr"] != before["apr"]
            assert proxy.info()["apr-ends"] == 1
            zone.host("gw.lab.test", "127.7.0.1")
            until(lambda: proxy.said("name gw.lab.test: 127.7.0.1, before none"))
        assert traffic.lost == 0, f"{traffic.lost} of {traffic.sent} lost"
        traffic.report(f"{how.name} of ACR and APR")


@pytest.mark.parametrize("engine", NAMES)
def test_dead_name_servers_slow_nothing_down(tmp_path: Path, zone: NameServer, engine: str) -> None:
    """Known sessions and rules by address are as quick as ever while others wait in vain."""
    port = free_port()
    with (
        Echo() as echo,
        Proxy(tmp_path, plain(port, echo, zone, engine=engine)) as proxy,
        Traffic(port) as traffic,
    ):
        until(lambda: len(traffic.waits) > 1000, 20)
        quiet, _ = traffic.report("undisturbed")
        zone.silent = True
        clients = [udp(f"127.8.{number}.1") for number in range(20)]
        try:
            for _ in range(60):
                for client in clients:
                    client.sendto(b"any news?", ("127.0.0.1", port + 1))
                time.sleep(0.05)
        finally:
            for client in clients:
                client.close()
        disturbed, _ = traffic.report("name servers dead")
        assert disturbed < 2 * quiet + 2
        # Each had no name, so the second rule was asked, whose server has none either.
        ended = until(lambda: [each for each in proxy.records() if each["SERVER"] != "127.0.0.1"])
        assert {each["REASON"] for each in ended} == {"unresolved"}
        assert proxy.info("reg")["sessions-waiting-dropped"] > 0
        until(lambda: proxy.info("reg")["sessions-waiting"] == 0)
        assert traffic.lost == 0


def memory(pid: int) -> int:
    """Resident kB."""
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
    )


@pytest.mark.parametrize("engine", NAMES)
def test_ten_thousand_clients_at_once(tmp_path: Path, zone: NameServer, engine: str) -> None:
    port = free_port()
    zone.silent = True
    with (
        Echo() as echo,
        Proxy(tmp_path, plain(port, echo, zone, engine=engine)) as proxy,
        Traffic(port) as traffic,
    ):
        until(lambda: len(traffic.waits) > 500, 20)
        quiet, _ = traffic.report("undisturbed")
        before = {role: memory(pid) for pid, role in proxy.processes().items()}
        for number in range(10_000):
            with udp(f"127.100.{number // 250}.{number % 250 + 1}") as client:
                client.sendto(bytes(1000), ("127.0.0.1", port + 1))
        figures = proxy.info("reg")
        disturbed, _ = traffic.report("10,000 clients")
        assert figures["look-ups-in-flight"] <= 256
        assert figures["sessions-waiting"] <= 4096
        until(lambda: proxy.info("reg")["sessions-waiting"] == 0, 20)
        until(lambda: proxy.info("apr")["in-flight"] == 0, 20)
        after = {role: memory(pid) for pid, role in proxy.processes().items()}
        print({role: f"{before[role]} -> {after[role]} kB" for role in before})
        assert after["reg"] < before["reg"] + 40_000
        assert after["apr"] < before["apr"] + 40_000
        assert traffic.lost == 0
        assert disturbed < 4 * quiet + 20
        zone.silent = False
        with udp(CLIENT) as client:
            exchange(client, ("127.0.0.1", port + 1), b"and now me")
