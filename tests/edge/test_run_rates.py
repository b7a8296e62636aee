"""Rates and amplification of a proxy as its users start it: over all workers, families and restarts
of the relay; what they read of it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, arrived, clients, exchange, silent, udp
from host import free_port
from namespaces import Network
from proxy import Endpoint, Proxy, command, config, until

ENGINES = [("python", 1), ("native", 1), ("native", 2)]
pytestmark = pytest.mark.parametrize(
    ("engine", "workers"), [one for one in ENGINES if one[0] in NAMES]
)


def top(engine: str, workers: int, more: str = "") -> str:
    return f'max-sessions = 200\nengine = "{engine}"\nworkers = {workers}\n{more}'


@contextlib.contextmanager
def a_proxy(
    directory: Path, engine: str, workers: int, *, limits: str = "", more: str = ""
) -> Iterator[tuple[Proxy, Echo, Endpoint]]:
    port = free_port()
    with Echo() as echo:
        text = config(port, str(echo), top=top(engine, workers, more), acl=f"limits = {{{limits}}}")
        with Proxy(directory, text) as proxy:
            yield proxy, echo, ("127.0.0.1", port)


def test_a_client_opens_so_many_whichever_workers_have_it(
    tmp_path: Path, engine: str, workers: int
) -> None:
    limits = 'new-sessions-per-client = "60/min"'
    with (
        a_proxy(tmp_path, engine, workers, limits=limits) as (proxy, echo, at),
        clients(20, "127.0.0.2") as greedy,
        clients(1, "127.0.0.3") as modest,
    ):
        begin = time.monotonic()
        for sock in greedy:
            sock.sendto(b"greedy", at)
        exchange(modest[0], at, b"modest")
        until(lambda: proxy.info()["refused-rate"] + len(echo.sources_of(b"greedy")) == 20)
        took = time.monotonic() - begin
        assert 1 <= len(echo.sources_of(b"greedy")) <= 1 + took
        (line, *_) = until(lambda: proxy.said("UDPS-640-W"))
        assert "127.0.0.2 refused: too many open in too short a time" in line
        assert len(proxy.said("UDPS-640-W")) <= 2 + took


def test_the_excess_alone_is_lost(tmp_path: Path, engine: str, workers: int) -> None:
    limits = 'datagrams-per-client = "1/h", idle = "1s"'
    with (
        a_proxy(tmp_path, engine, workers, limits=limits) as (proxy, echo, at),
        clients(1, "127.0.0.2") as one,
        clients(5, "127.0.0.3") as many,
    ):
        exchange(one[0], at, b"first")
        for number in range(30):
            one[0].sendto(b"more %d" % number, at)
        until(lambda: proxy.info()["dropped-rate"] == 30, step=0.1)
        assert len(echo.received) == 1
        for sock in many:
            sock.sendto(b"many", at)
        until(lambda: proxy.info()["refused-rate"] == 4, step=0.1)
        arrived(echo, 2)
        records = until(lambda: found if len(found := proxy.records()) == 2 else [])
        dropped = {one["CLIENT_ADDR"]: one.get("DATAGRAMS_DROPPED") for one in records}
        assert dropped == {"127.0.0.2": "30", "127.0.0.3": None}


def test_bursts_of_a_second(tmp_path: Path, engine: str, workers: int) -> None:
    limits = 'datagrams-per-client = "50/s"'
    with (
        a_proxy(tmp_path, engine, workers, limits=limits) as (proxy, echo, at),
        clients(3, "127.0.0.2") as socks,
    ):
        for turn in range(3):
            before, begin = len(echo.received), time.monotonic()
            for number in range(90):
                socks[number % 3].sendto(b"%d %d" % (turn, number), at)
            sent = time.monotonic() - begin
            until(
                lambda turn=turn: (  # type: ignore[misc]
                    len(echo.received) + proxy.info()["dropped-rate"] + proxy.info()["refused-rate"]
                    == 90 * (turn + 1)
                ),
                step=0.2,
            )
            took = time.monotonic() - begin
            assert 50 <= len(echo.received) - before <= 50 + 50 * min(took, sent + 0.5) + 1
            time.sleep(1.1)


@pytest.mark.parametrize(("prefix6", "passed"), [(64, 2), (128, 4), (48, 1)])
def test_clients_of_ipv6(
    tmp_path: Path, engine: str, workers: int, prefix6: int, passed: int
) -> None:
    """Three of one /64 and one of the next."""
    hosts = ["fd71::2", "fd71::3", "fd71::4", "fd71:0:0:1::2"]
    limits = 'limits = { new-sessions-per-client = "1/h" }'
    with Network() as net, contextlib.ExitStack() as stack:
        net.add("proxy", "fd71::1/48", *(f"{host}/48" for host in hosts))
        echo = stack.enter_context(net.on("proxy", lambda: Echo("fd71::1", 6000)))
        more = top(engine, workers, f"client-prefix6 = {prefix6}")
        text = config(5000, str(echo), listen="fd71::1", top=more, acl=limits)
        proxy = stack.enter_context(Proxy(tmp_path, text, prefix=net.prefix("proxy")))
        for host in hosts:
            sock = stack.enter_context(net.on("proxy", lambda host=host: udp(host)))  # type: ignore[misc]
            sock.sendto(host.encode(), ("fd71::1", 5000))
        until(lambda: proxy.info()["refused-rate"] == 4 - passed, step=0.1)
        arrived(echo, passed)
        assert len(echo.received) == passed


def test_all_together_and_the_known(tmp_path: Path, engine: str, workers: int) -> None:
    more = 'new-sessions = "10/s"'
    with (
        a_proxy(tmp_path, engine, workers, more=more) as (proxy, echo, at),
        clients(5, "127.0.0.2") as known,
        contextlib.ExitStack() as stack,
    ):
        for sock in known:
            exchange(sock, at, b"known")
        begin = time.monotonic()
        for host in range(3, 53):
            strange = stack.enter_context(clients(1, f"127.0.0.{host}"))
            strange[0].sendto(b"strange", at)
        took = time.monotonic() - begin
        for sock in known * 20:
            exchange(sock, at, b"still known")
        until(lambda: proxy.info()["refused-rate"] + len(echo.sources_of(b"strange")) == 50)
        assert len(echo.sources_of(b"strange")) <= 11 + 10 * (took + 0.5)
        proxy.write(proxy.file.read_text().replace(more, ""))
        assert proxy.ctl("reload").returncode == 0
        with clients(20, "127.0.0.99") as others:
            for sock in others:
                exchange(sock, at, b"welcome")


def test_amplification(tmp_path: Path, engine: str, workers: int) -> None:
    port = free_port()
    with udp() as server, clients(1) as (client,):
        to = f"127.0.0.1:{server.getsockname()[1]}"
        limits = 'limits = { amplification = 2, idle = "1s" }'
        text = config(port, to, top=top(engine, workers), acl=limits)
        with Proxy(tmp_path, text) as proxy:
            client.sendto(bytes(100), ("127.0.0.1", port))
            _, source = server.recvfrom(1000)
            for size in (713, 700, 13):
                server.sendto(bytes(size), source)
            assert len(client.recv(1000)) == 700
            assert silent(client)
            server.sendto(bytes(12), source)
            assert len(client.recv(1000)) == 12
            until(lambda: proxy.info()["dropped-amplification"] == 2, step=0.1)
            (record,) = until(proxy.records)
            assert (record["BYTES_COUT"], record["DATAGRAMS_DROPPED"]) == ("712", "2")


def test_a_session_goes_on_under_its_rate(tmp_path: Path, engine: str, workers: int) -> None:
    """The relay ends, and is started again: it begins anew, and the totals go on."""
    limits = 'datagrams-per-client = "1/h"'
    with a_proxy(tmp_path, engine, workers, limits=limits) as (proxy, _, at), clients(1) as (one,):
        exchange(one, at, b"first")
        one.sendto(b"too much", at)
        until(lambda: proxy.info()["dropped-rate"] == 1, step=0.1)
        old = proxy.kill(signal.SIGKILL, "reg")
        proxy.next_reg(old)
        until(lambda: proxy.info("reg").get("state") == "relaying")
        exchange(one, at, b"again")
        one.sendto(b"too much again", at)
        until(lambda: proxy.info()["dropped-rate"] == 2, step=0.1)
        assert len(proxy.sessions()) == 1


def test_what_people_see(tmp_path: Path, engine: str, workers: int) -> None:
    limits = 'new-sessions-per-client = "20/s", amplification = 10'
    with a_proxy(tmp_path, engine, workers, limits=limits) as (proxy, _, at):
        words = ["explain", proxy.file, "--from", "192.0.2.1", "--to", f"127.0.0.1:{at[1]}"]
        told = subprocess.run(command(*words), capture_output=True, text=True, check=True).stdout
        assert "\nlimits: idle 1m, new-sessions-per-client 20/s, amplification 10\n" in told
        info = proxy.info("reg")
        counters = ("refused-rate", "dropped-rate", "dropped-amplification")
        assert [info[name] for name in counters] == [0, 0, 0]
        proxy.write(proxy.file.read_text().replace("max-", "client-prefix6 = 56\nmax-", 1))
        refused = proxy.ctl("reload")
        assert "client-prefix6" in refused.stderr
        assert "restart" in refused.stderr
