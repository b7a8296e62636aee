"""Several servers for one rule: two of Debian's unbound behind a DNS probe, asked by dnsperf, while
one of them dies, hangs or is cut off."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from field.network import Host
from host import tool
from namespaces import Network
from proxy import Proxy, until

SECONDS, RATE = 9, 1000
PORT, PORTS = 5353, (5301, 5302)
HOST = "here"
UNBOUND = """server:
    interface: 127.0.0.1@{port}
    port: {port}
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    use-syslog: no
    logfile: "{directory}/unbound.log"
    do-tcp: no
    access-control: 127.0.0.0/8 allow
    local-zone: "example.test." redirect
    local-data: "example.test. 60 IN A 192.0.2.7"
remote-control:
    control-enable: no
"""
TEXT = """max-sessions = 4000
[[listen]]
address = "127.0.0.1"
port = {port}
[[servers]]
name = "dns"
members = ["127.0.0.1:{first}", "127.0.0.1:{second}"]
balance = "least-sessions"
[servers.health]
fall = 2
rise = 2
probe = {{ dns = "probe.example.test A", interval = "200ms", timeout = "150ms" }}
[[session-acl]]
name = "dns"
plug-to = "@dns"
limits = {{ idle = "3s", upload-datagrams = 1, download-datagrams = 1 }}
"""


@dataclass
class Server:
    """One unbound, which may be started again."""

    network: Network
    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """As an administrator would."""
        self.directory.mkdir(exist_ok=True)
        file = self.directory / "unbound.conf"
        file.write_text(UNBOUND.format(port=self.port, directory=self.directory))
        words = [*self.network.prefix(HOST), tool("unbound"), "-d", "-c", str(file)]
        self.process = subprocess.Popen(words)

    def signal(self, number: int) -> None:
        """Kill it, stop it, let it go on."""
        assert self.process
        self.process.send_signal(number)

    def close(self) -> None:
        """It is gone."""
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as net:
        net.add(HOST, "10.1.0.1/24")  # dnsperf wants one that is not loopback
        yield net


@contextlib.contextmanager
def unbound(network: Network, directory: Path, port: int) -> Iterator[Server]:
    """With every name below example.test."""
    server = Server(network, directory, port)
    server.start()
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def killed(server: Server) -> Iterator[None]:
    """And started again."""
    server.close()
    yield
    server.start()


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """It hangs."""
    server.signal(signal.SIGSTOP)
    yield
    server.signal(signal.SIGCONT)


@contextlib.contextmanager
def cut_off(server: Server) -> Iterator[None]:
    """Nothing gets there, and nobody is told."""
    with Host(server.network, HOST).black_hole(server.port):
        yield


@pytest.mark.parametrize("ill", [killed, stopped, cut_off], ids=lambda ill: ill.__name__)
def test_no_question_is_lost_but_in_the_dead_one(
    network: Network,
    tmp_path: Path,
    ill: Callable[[Server], contextlib.AbstractContextManager[None]],
) -> None:
    questions = tmp_path / "questions"
    questions.write_text("".join(f"q{number}.example.test A\n" for number in range(500)))
    prefix = network.prefix(HOST)
    with (
        unbound(network, tmp_path / "one", PORTS[0]) as one,
        unbound(network, tmp_path / "two", PORTS[1]) as two,
    ):
        text = TEXT.format(port=PORT, first=one.port, second=two.port)
        with Proxy(tmp_path, text, prefix=prefix) as proxy:
            until(lambda: proxy.info("acr")["probes-sent"] >= 4)
            until(lambda: [row["state"] for row in proxy.ask("servers")] == ["up", "up"])
            words = [
                *(*prefix, tool("dnsperf"), "-f", "inet", "-s", "127.0.0.1", "-p", str(PORT)),
                *("-d", str(questions), "-l", str(SECONDS), "-Q", str(RATE)),
                *("-c", "20", "-t", "2", "-q", "2000"),
            ]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as dnsperf:
                time.sleep(2)
                with ill(one):
                    until(lambda: proxy.ask("servers")[0]["state"] == "down")
                    time.sleep(1)
                until(lambda: proxy.ask("servers")[0]["state"] == "up")
                report, _ = dnsperf.communicate(timeout=60)
            found = {key: int(n) for key, n in re.findall(r"Queries (\w+):\s+(\d+)", report)}
            assert found["sent"] >= 0.8 * SECONDS * RATE, report
            until(lambda: proxy.info()["sessions"] == 0)
            dead = [
                record
                for record in proxy.records()
                if record["SERVER_PORT"] == str(one.port) and record["DATAGRAMS_COUT"] == "0"
            ]
            unanswered = len(dead) + proxy.unrecorded()
            assert found["lost"] <= unanswered, report
            others = [
                record
                for record in proxy.records()
                if record["SERVER_PORT"] == str(two.port) and record["DATAGRAMS_COUT"] == "0"
            ]
            assert others == []
            # Found out within a second: two probes, 200 ms apart.
            assert found["lost"] < RATE
            by_server = [record["SERVER_PORT"] for record in proxy.records()]
            assert min(by_server.count(str(each.port)) for each in (one, two)) > RATE
