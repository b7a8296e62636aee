"""A running proxy that probes the servers of its groups, as `info` of ACR tells it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnsserver import dnsmasq_process
from echo import Echo, exchange, udp
from host import free_port, tool
from nameserver import NameServer
from namespaces import Network
from proxy import Proxy, config, reloaded, until

SEND = 'send = "text:ping", expect = "text:ping"'


def group(name: str, *members: str, probe: str = SEND, timeout: str = "0.5s") -> str:
    """Asked every second."""
    listed = ", ".join(f'"{member}"' for member in members)
    words = f'{probe}, interval = "1s", timeout = "{timeout}"'
    return (
        f'[[servers]]\nname = "{name}"\nmembers = [{listed}]\n'
        f"[servers.health]\nprobe = {{ {words} }}\n"
    )


def failing(proxy: Proxy) -> str:
    """Which servers, and why."""
    return str(proxy.info("acr").get("servers-failing"))


def acr(proxy: Proxy) -> int:
    """Its process."""
    return next(pid for pid, role in proxy.processes().items() if role == "acr")


def probed_again(proxy: Proxy, times: int = 2) -> None:
    """Every server, so many times."""
    info = proxy.info("acr")
    wanted = int(info["probes-sent"]) + times * int(info["probes"])
    until(lambda: proxy.info("acr")["probes-sent"] >= wanted)


def test_a_name_server_that_hangs_goes_on_and_dies(tmp_path: Path) -> None:
    probe = 'dns = "host.example.test A"'
    with dnsmasq_process() as (port, process):
        server = f"127.0.0.1:{port}"
        text = config(free_port(), "@dns", more=group("dns", server, probe=probe))
        with Proxy(tmp_path, text) as proxy:
            assert set(proxy.processes().values()) == {"parent", "reg", "acr"}
            assert proxy.info("acr")["state"] == "probing"
            probed_again(proxy)
            assert failing(proxy) == ""
            process.send_signal(signal.SIGSTOP)
            until(lambda: failing(proxy) == f"dns {server}: no answer")
            process.send_signal(signal.SIGCONT)
            until(lambda: failing(proxy) == "")
            process.kill()
            process.wait()
            until(lambda: failing(proxy) == f"dns {server}: port unreachable")
            assert proxy.info("reg")["names-ignored"] == 0
            assert proxy.ctl("resolve-now").returncode == 1
            assert not proxy.said("UDPP-840-W")  # nobody asks for name servers


def test_an_acr_that_is_stopped_or_killed(tmp_path: Path) -> None:
    with Echo() as echo, Echo(elsewhere=True) as other:
        text = config(free_port(), "@two", more=group("two", str(echo), str(other)))
        with Proxy(tmp_path, text) as proxy:
            probed_again(proxy)
            told = f"two {other}: no answer"
            assert failing(proxy) == told
            os.kill(acr(proxy), signal.SIGSTOP)
            time.sleep(2.5)
            os.kill(acr(proxy), signal.SIGCONT)
            for _ in range(20):
                assert failing(proxy) == told
                time.sleep(0.05)
            before = acr(proxy)
            os.kill(before, signal.SIGKILL)
            until(lambda: before not in proxy.processes())
            until(lambda: proxy.ctl("--process", "acr", "info").returncode == 0)
            until(lambda: failing(proxy) == told)
            proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
            until(lambda: proxy.ctl("--process", "reg", "info").returncode == 0)
            probed_again(proxy)
            assert proxy.info("reg")["names-ignored"] == 0


def test_what_a_reload_brings_and_takes_away(tmp_path: Path) -> None:
    port = free_port()
    with Echo() as echo, Echo() as other, Proxy(tmp_path, config(port, str(echo))) as proxy:
        assert set(proxy.processes().values()) == {"parent", "reg"}
        proxy.write(config(port, "@one", more=group("one", str(echo), str(other))))
        assert proxy.ask("reload") == reloaded(0)
        until(lambda: echo.received and other.received)
        probed_again(proxy)
        for _ in range(3):
            proxy.write(config(port, "@one", more=group("one", str(echo))))
            proxy.ask("reload")
            until(lambda: proxy.info("acr")["probes"] == 1)
            proxy.write(config(port, "@one", more=group("one", str(echo), str(other))))
            proxy.ask("reload")
            until(lambda: proxy.info("acr")["probes"] == 2)
        # No probe is sent to whom no rule leads.
        proxy.write(config(port, str(echo), more=group("one", str(echo), str(other))))
        proxy.ask("reload")
        until(lambda: proxy.info("acr")["state"] == "idle")
        count = len(other.received)
        with udp() as client:
            exchange(client, ("127.0.0.1", port), b"goes on")
        time.sleep(1.5)
        assert len(other.received) == count
        assert not proxy.said("UDPP-841-W")


def test_a_server_by_name(tmp_path: Path) -> None:
    with NameServer(ttl=1) as zone, Echo() as echo:
        zone.host("srv.lab.test", "127.0.0.1")
        member = f"srv.lab.test:{echo.endpoint[1]}"
        text = config(free_port(), "@one", more=group("one", member) + zone.section)
        with Proxy(tmp_path, text) as proxy:
            until(lambda: echo.received)
            probed_again(proxy)
            assert failing(proxy) == ""
            zone.gone("srv.lab.test")
            until(lambda: failing(proxy) == f"one {member}: not resolved")
            zone.host("srv.lab.test", "127.0.0.1")
            until(lambda: failing(proxy) == "")


@pytest.mark.parametrize("by_file", [False, True], ids=["option", "file"])
def test_a_single_process_says_that_it_sends_none(tmp_path: Path, *, by_file: bool) -> None:
    top = f"max-sessions = 10\nsingleproc = {str(by_file).lower()}"
    port = free_port()
    with Echo() as echo:
        text = config(port, "@one", top=top, more=group("one", str(echo)))
        with Proxy(tmp_path, text, single=not by_file) as proxy, udp() as client:
            (line,) = proxy.said("sends no probes")
            assert "UDPS-110-W" in line
            exchange(client, ("127.0.0.1", port), b"served")
            time.sleep(1.2)
            assert {data for data, _ in echo.received} == {b"served"}
            proxy.ask("reload")
            assert len(proxy.said("sends no probes")) == 2


def test_a_way_that_swallows_everything(tmp_path: Path) -> None:
    """The server lives, and a firewall drops what is for it."""
    with Network() as network:
        network.add("proxy", "192.0.2.1/24", "2001:db8::1/64")
        network.add("server", "192.0.2.2/24", "2001:db8::2/64")
        nft = [*network.prefix("server"), tool("nft")]
        four = network.on("server", lambda: Echo("192.0.2.2"))
        six = network.on("server", lambda: Echo("2001:db8::2"))
        nobody = "192.0.2.77:9"
        with four, six:
            text = config(4000, "@two", more=group("two", str(four), str(six), nobody))
            with Proxy(tmp_path, text, prefix=network.prefix("proxy")) as proxy:
                until(lambda: failing(proxy) == f"two {nobody}: no answer")
                rules = "table inet t { chain c { type filter hook input priority 0; drop; }; }"
                subprocess.run([*nft, rules], check=True)
                until(lambda: proxy.info("acr")["probes-failing"] == 3)
                assert f"two {four}: no answer, two {six}: no answer" in failing(proxy)
                subprocess.run([*nft, "delete table inet t"], check=True)
                until(lambda: proxy.info("acr")["probes-failing"] == 1)


class Crowd:
    """64 servers in one thread that answer what they get; a context manager."""

    def __init__(self, count: int = 64) -> None:
        self.sockets = [udp() for _ in range(count)]
        self._poll = select.epoll()
        self._by_number = {sock.fileno(): sock for sock in self.sockets}
        for sock in self.sockets:
            sock.settimeout(0)
            self._poll.register(sock, select.EPOLLIN)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> list[str]:
        self._thread.start()
        return [f"127.0.0.1:{sock.getsockname()[1]}" for sock in self.sockets]

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._thread.join()
        self._poll.close()
        for sock in self.sockets:
            sock.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            for number, _ in self._poll.poll(0.05):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        data, client = self._by_number[number].recvfrom(9999)
                        self._by_number[number].sendto(data, client)


def processor_time(pid: int) -> float:
    """Seconds that it has had."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def zone() -> Iterator[NameServer]:
    with NameServer(ttl=1) as server:
        yield server


@pytest.mark.alone
@pytest.mark.parametrize("state", ["live", "dead", "silent"])
def test_thousands_of_servers_and_names(tmp_path: Path, zone: NameServer, state: str) -> None:
    """62 groups of 64, each of them asked every 5 s; names are looked up every second."""
    names = [f"host{number}.lab.test" for number in range(30)]
    for name in names:
        zone.host(name, "127.0.0.1")
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(Crowd())
        if state == "dead":
            servers = [f"127.0.0.1:{free_port()}" for _ in range(64)]
        elif state == "silent":
            silent = [stack.enter_context(udp()) for _ in range(64)]
            servers = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in silent]
        port = free_port()
        many = "".join(
            f'[[session-acl]]\nname = "r{number}"\nplug-to = "@g{number}"\n'
            + group(f"g{number}", *servers, timeout="1s").replace('"1s", t', '"5s", t')
            for number in range(62)
        )
        listed = ", ".join(f'"{name}"' for name in names)
        text = config(port, servers[0], acl=f"from = [{listed}]", more=many + zone.section)
        with Proxy(tmp_path, text) as proxy:
            count = 62 * 64
            until(lambda: proxy.info("acr")["probes"] == count, 30)
            until(lambda: proxy.info("acr")["known"] == len(names))
            time.sleep(6)
            pid, begun, info = acr(proxy), time.monotonic(), proxy.info("acr")
            spent, asked = processor_time(pid), sum(zone.asked.values())
            slowest = 0.0
            while time.monotonic() < begun + 10:
                before = time.monotonic()
                for process in ("acr", "reg"):
                    proxy.info(process)
                slowest = max(slowest, time.monotonic() - before)
                time.sleep(0.2)
            took = time.monotonic() - begun
            share = (processor_time(pid) - spent) / took
            later = proxy.info("acr")
            sent = later["probes-sent"] - info["probes-sent"]
            looked_up = (sum(zone.asked.values()) - asked) / 2
            print(
                f"{state}: {sent / took:.0f} probes, {looked_up / took:.0f} look-ups a second, "
                f"{share:.0%} of a core, info took at most {slowest:.2f} s, "
                f"late {later['probes-late']}, slowest {later['slowest']}"
            )
            expected = 0 if state == "live" else count
            until(lambda: proxy.info("acr")["probes-failing"] == expected)
            assert sent / took > count / 5 * 0.6
            assert looked_up / took > len(names) * 0.5
            assert later["known"] == len(names)
            assert share < 0.6
            assert proxy.info("reg")["names-ignored"] == 0
            assert later["probe-results-dropped"] == 0


def test_a_reg_that_does_not_read(tmp_path: Path) -> None:
    """What it does not take is dropped and counted, and what comes later is told again."""
    with Echo() as echo:
        members = [f"127.0.0.{number}:{echo.endpoint[1]}" for number in range(1, 64)]
        more = group("one", *members).replace('"1s"', '"0.05s"').replace('"0.5s"', '"0.05s"')
        with Proxy(tmp_path, config(free_port(), "@one", more=more)) as proxy:
            probed_again(proxy)
            reg = proxy.reg_pid
            os.kill(reg, signal.SIGSTOP)
            try:
                until(lambda: proxy.info("acr")["probe-results-dropped"] > 0, 30)
            finally:
                os.kill(reg, signal.SIGCONT)
            until(lambda: proxy.ctl("--process", "reg", "info").returncode == 0)
            assert not proxy.said("does not read")


def test_an_answer_as_the_protocol_of_time_has_it(tmp_path: Path) -> None:
    """A responder of the test's own; the packet was tried with others'."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        sock.settimeout(10)
        server = f"[::1]:{sock.getsockname()[1]}"
        text = config(free_port(), "@time", more=group("time", server, probe="ntp = true"))
        with Proxy(tmp_path, text) as proxy:
            data, client = sock.recvfrom(100)
            assert (len(data), data[0]) == (48, 0x23)
            sock.sendto(b"\x24\x10" + bytes(22) + data[40:48] + bytes(16), client)
            until(lambda: failing(proxy) == f"time {server}: not synchronised")
            data, client = sock.recvfrom(100)
            sock.sendto(b"\x24\x02" + bytes(22) + data[40:48] + bytes(16), client)
            until(lambda: failing(proxy) == "")
