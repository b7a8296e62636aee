"""How many sessions there can be, and what happens when there are no more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from crowd import Crowd
from echo import Echo, arrived, clients, exchange, silent
from host import free_port, tool
from proxy import Endpoint, Proxy, config, until

MOST = 5
MANY = 10_000


@contextmanager
def a_proxy(directory: Path, echo: Echo, top: str = "") -> Iterator[tuple[Proxy, Endpoint]]:
    port = free_port()
    text = config(port, str(echo), top=f"max-sessions = {MOST}\n{top}")
    with Proxy(directory, text) as proxy:
        yield proxy, ("127.0.0.1", port)


def test_known_sessions_go_on_when_the_table_is_full(tmp_path: Path) -> None:
    with (
        Echo() as echo,
        a_proxy(tmp_path, echo) as (proxy, at),
        clients(MOST) as known,
        clients(20) as strangers,
    ):
        for sock in known:
            exchange(sock, at, b"first")
        begun = time.monotonic()
        for _ in range(20):
            for stranger in strangers:
                stranger.sendto(b"me, too", at)
        until(lambda: proxy.info()["refused-table-full"] == 400, step=0.05)
        took = time.monotonic() - begun
        for sock in known:
            exchange(sock, at, b"still here")
        assert all(silent(stranger, 0.01) for stranger in strangers)
        assert len(echo.sources) == MOST
        assert 1 <= len(proxy.said("UDPS-640-W")) <= took + 1
        assert proxy.records() == []

        proxy.ask("kill", proxy.sessions()[0]["session"])
        exchange(strangers[0], at, b"there is room again")


def test_held_back_lines_are_counted(tmp_path: Path) -> None:
    with (
        Echo() as echo,
        a_proxy(tmp_path, echo) as (proxy, at),
        clients(MOST) as known,
        clients(1) as strangers,
    ):
        for sock in known:
            exchange(sock, at, b"first")

        def told() -> list[str]:
            strangers[0].sendto(b"me, too", at)
            return proxy.said("more held back)")

        until(told)
        assert "refused: all sessions are in use (max-sessions)" in proxy.said("UDPS-640-W")[0]


def test_evict_idlest_takes_the_oldest_without_an_answer(tmp_path: Path) -> None:
    with (
        Echo(answers=lambda data: data == b"answer me") as echo,
        a_proxy(tmp_path, echo, 'overflow = "evict-idlest"') as (proxy, at),
        clients(MOST) as known,
        clients(4) as strangers,
    ):
        for number, sock in enumerate(known):
            sock.sendto(b"quiet" if number % 2 == 0 else b"answer me", at)
            arrived(echo, number + 1)
        answered = [known[1], known[3]]
        for sock in answered:
            sock.recv(100)
        for stranger in strangers[:3]:
            exchange(stranger, at, b"answer me")
        records = until(lambda: found if len(found := proxy.records()) >= 3 else [])
        ports = [int(record["CLIENT_PORT"]) for record in records]
        assert ports == [sock.getsockname()[1] for sock in known[::2]]
        assert {record["REASON"] for record in records} == {"evicted"}

        # Now all have had their answers: nobody goes for a newcomer.
        strangers[3].sendto(b"answer me", at)
        until(lambda: proxy.info()["refused-table-full"] == 1, step=0.05)
        for sock in (*answered, *strangers[:3]):
            exchange(sock, at, b"answer me")
        assert len(proxy.records()) == 3
        assert proxy.info()["evicted"] == 3


def test_max_sessions_per_client(tmp_path: Path) -> None:
    with (
        Echo() as echo,
        a_proxy(tmp_path, echo, "max-sessions-per-client = 2") as (proxy, at),
        clients(3, "127.0.0.2") as greedy,
        clients(1, "127.0.0.3") as modest,
    ):
        for sock in greedy[:2]:
            exchange(sock, at, b"mine")
        greedy[2].sendto(b"mine, too", at)
        until(lambda: proxy.info()["refused-per-client"] == 1, step=0.05)
        exchange(modest[0], at, b"and me?")
        exchange(greedy[1], at, b"still mine")


def limits(pid: int) -> list[str]:
    """The soft and the hard limit of descriptors."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[3:5] for line in lines if line.startswith("Max open files"))


def test_ten_thousand_sessions_at_once(tmp_path: Path) -> None:
    """The soft limit of descriptors is no limit: both processes raise it to the hard one."""
    port = free_port()
    with ExitStack() as stack:
        echo = stack.enter_context(Echo())
        text = config(port, str(echo), listen="0.0.0.0", top=f"max-sessions = {MANY}")
        prefix = [tool("prlimit"), "--nofile=1024:20000"]
        proxy = stack.enter_context(Proxy(tmp_path, text, prefix=prefix))
        crowd = Crowd(port, stack.enter_context(clients(10)), MANY)
        for pid in (proxy.pid, proxy.reg_pid):
            assert limits(pid) == ["20000", "20000"]
        crowd.all_answered(b"first")
        assert proxy.info()["sessions"] == MANY
        assert len(echo.sources) == MANY, "a port for each"
        crowd.all_answered(b"second")
        assert len(echo.sources) == MANY
        assert len(proxy.sessions()) == MANY
        assert proxy.stop() == 0
        records = proxy.records()
        assert len(records) == MANY
        assert {(r["REASON"], r["DATAGRAMS_CIN"]) for r in records} == {("terminated", "2")}


@pytest.mark.parametrize(("most", "limit"), [(1_000_000, 20000), (65535, 20000), (1000, 500)])
def test_too_few_descriptors(tmp_path: Path, most: int, limit: int) -> None:
    proxy = Proxy(
        tmp_path,
        config(free_port(), "127.0.0.1:9", top=f"max-sessions = {most}"),
        prefix=[tool("prlimit"), f"--nofile={min(limit, 1024)}:{limit}"],
    )
    with proxy.launched():
        assert proxy.wait() == 71
    (line,) = proxy.said("UDPS-520-E cannot start: descriptors:")
    assert f"max-sessions = {most} needs" in line
    assert f"the limit is {limit}:" in line
    assert not proxy.runtime.exists()


def test_the_numbers_are_exact(tmp_path: Path) -> None:
    """As many descriptors as it says it needs are enough for all sessions."""
    port, most, limit = free_port(), 435, 500
    prefix = [tool("prlimit"), f"--nofile={limit}:{limit}"]
    with Echo() as echo, clients(1) as socks:
        text = config(port, str(echo), listen="0.0.0.0", top=f"max-sessions = {most}")
        with Proxy(tmp_path, text, prefix=prefix) as proxy:
            Crowd(port, socks, most).all_answered(b"all of us")
            assert proxy.info()["sessions"] == most
