"""A proxy behind a proxy, both of them ours: the second one serves the first one's clients."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, clients, exchange, udp
from host import free_port
from proxy import Proxy, reloaded, until
from stored import Units
from udpproxy.proxy.session.proxy_header import parse

WAYS = [*((name, 1) for name in NAMES), ("native", 2)]
FAMILIES = {"127.0.0.1": "127.0.0.0/8", "::1": "::1"}


def top(engine: str, workers: int) -> str:
    return f'max-sessions = 100\nengine = "{engine}"\nworkers = {workers}'


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def front(port: int, to: str, address: str, what: str) -> str:
    """The first of both, which tells the other whose datagrams it sends."""
    return f"""{what}
[[listen]]
address = "{address}"
port = {port}
[[session-acl]]
name = "front"
plug-to = "{to}"
proxy-protocol = "v2"
"""


def back(port: int, to: str, address: str, what: str, rule: str = "", listen: str = "") -> str:
    """The second, which believes it."""
    expects = f'proxy-protocol = "v2"\nproxy-protocol-from = ["{FAMILIES[address]}"]'
    return f"""{what}
[[listen]]
address = "{address}"
port = {port}
{listen or expects}
[[session-acl]]
name = "known"
from = ["127.0.0.2", "::1"]
plug-to = "{to}"
{rule}
"""


@contextlib.contextmanager
def chain(
    tmp_path: Path, address: str, engine: str, workers: int, rule: str = ""
) -> Iterator[tuple[int, Proxy, Proxy, Echo]]:
    """Where clients write to, the two proxies and the server."""
    inner, outer = free_port(address), free_port(address)
    what = top(engine, workers)
    with (
        Echo(address) as echo,
        Proxy(tmp_path / "b", back(inner, str(echo), address, what, rule), name="back") as second,
        Proxy(
            tmp_path / "f", front(outer, endpoint(address, inner), address, what), name="front"
        ) as first,
    ):
        yield outer, first, second, echo


@pytest.mark.parametrize("address", FAMILIES)
@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_the_first_client_is_seen_behind_two(
    tmp_path: Path, address: str, engine: str, workers: int
) -> None:
    """In rules, lists and records; the server can be told of it in turn."""
    rule = 'proxy-protocol = "v2"'
    client = "::1" if ":" in address else "127.0.0.2"
    with chain(tmp_path, address, engine, workers, rule) as (port, first, second, echo):
        with clients(8, client) as socks:
            for sock, size in itertools.product(socks, (5, 1000)):
                sock.sendto(bytes(size), (address, port))
            ends = {sock.getsockname()[:2] for sock in socks}
            until(lambda: len(echo.received) == 16)
            found = [parse(data) for data, _ in list(echo.received)]
            assert {
                (each.client[1], each.addressed[1])
                for each in found
                if each and each.client and each.addressed
            } == {(end[1], port) for end in ends}
            rows = second.sessions()
            assert {row["client"] for row in rows} == {endpoint(*end) for end in ends}
            assert {row["listener"] for row in rows} == {endpoint(address, port)}
            assert {row["via"] for row in rows} == {row["source"] for row in first.sessions()}
            assert {row["acl"] for row in rows} == {"known"}
            assert [row["via"] for row in first.sessions()] == [""] * 8
        first.stop()
        second.stop()
        records = second.records()
        sources = {(each["SOURCE_ADDR"], each["SOURCE_PORT"]) for each in first.records()}
        assert {(each["VIA_ADDR"], each["VIA_PORT"]) for each in records} == sources
        assert {(each["CLIENT_ADDR"], int(each["CLIENT_PORT"])) for each in records} == ends
        assert not [each for each in first.records() if "VIA_ADDR" in each]


@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_answers_go_back_all_the_way(tmp_path: Path, engine: str, workers: int) -> None:
    """Whom no rule knows is refused by his own address."""
    with (
        chain(tmp_path, "127.0.0.1", engine, workers) as (port, _, second, echo),
        clients(8, "127.0.0.2") as socks,
        udp("127.0.0.3") as stranger,
    ):
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"a question")
        assert len(echo.sources) == 8
        stranger.sendto(b"a question", ("127.0.0.1", port))
        until(lambda: second.said("session of 127.0.0.3 to 127.0.0.1 port"))
        assert second.info("reg")["refused-by-acl"] == 1


@pytest.mark.parametrize("engine", NAMES)
def test_who_is_not_believed_is_said(tmp_path: Path, engine: str) -> None:
    port = free_port()
    with Echo() as echo, udp("127.0.0.1") as sender:
        text = back(port, str(echo), "127.0.0.1", top(engine, 1))
        with Proxy(tmp_path, text) as proxy:
            for _ in range(30):
                sender.sendto(b"no header", ("127.0.0.1", port))
            until(lambda: proxy.info("reg")["bad-header"] == 30)
            said = proxy.said("UDPS-643-W")
            assert 1 <= len(said) <= 4
            where = f"datagram of 127.0.0.1 port {sender.getsockname()[1]} dropped: it does not"
            assert where in said[0]
            proxy.write(text.replace("127.0.0.0/8", "192.0.2.1"))
            proxy.ask("reload")
            until(lambda: _says(proxy, sender, port, "none of proxy-protocol-from"))
            assert not echo.received


def _says(proxy: Proxy, sender: object, port: int, what: str) -> bool:
    sender.sendto(b"no header", ("127.0.0.1", port))  # type: ignore[attr-defined]
    return bool(proxy.said(what))


@pytest.mark.parametrize("engine", NAMES)
def test_what_does_not_fit_is_counted_and_said(tmp_path: Path, engine: str) -> None:
    port = free_port()
    with Echo() as echo, udp() as client:
        text = front(port, str(echo), "127.0.0.1", top(engine, 1))
        with Proxy(tmp_path, text) as proxy:
            client.sendto(bytes(65_507), ("127.0.0.1", port))
            until(lambda: proxy.info("reg")["too-long"] == 1)
            (said,) = until(lambda: proxy.said("UDPS-600-W"))
            assert "cannot put a PROXY header before a datagram: Message too long, session" in said
            assert not echo.received


@pytest.mark.parametrize("engine", NAMES)
def test_a_reload_ends_what_would_not_be_heard_any_more(tmp_path: Path, engine: str) -> None:
    inner, outer = free_port(), free_port()
    what = top(engine, 1)
    with Echo() as echo, clients(3, "127.0.0.2") as socks:
        text = back(inner, str(echo), "127.0.0.1", what)
        with (
            Proxy(tmp_path / "b", text, name="back") as second,
            Proxy(tmp_path / "f", front(outer, f"127.0.0.1:{inner}", "127.0.0.1", what)),
        ):
            for sock in socks:
                exchange(sock, ("127.0.0.1", outer), b"before")
            assert second.ask("reload") == reloaded(0)
            second.write(text.replace("127.0.0.0/8", "127.0.0.0/16"))
            assert second.ask("reload") == reloaded(0)
            for sock in socks:
                exchange(sock, ("127.0.0.1", outer), b"still the same")
            assert len(echo.sources) == 3
            second.write(back(inner, str(echo), "127.0.0.1", what, listen="\n"))
            assert second.ask("reload") == reloaded(3)
            assert {each["REASON"] for each in second.records()} == {"policy"}


@pytest.mark.parametrize("address", FAMILIES)
@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_such_sessions_outlive_a_restart(
    tmp_path: Path, address: str, engine: str, workers: int
) -> None:
    """Replies go to the sender still, from the address that it wrote to."""
    inner, outer = free_port(address), free_port(address)
    what = top(engine, workers)
    client = "::1" if ":" in address else "127.0.0.2"
    there = address, outer
    with Echo(address) as echo, clients(8, client) as socks:
        text = front(outer, endpoint(address, inner), address, what)
        with (
            Proxy(tmp_path / "f", text, name="front"),
            Units(tmp_path / "b", back(inner, str(echo), address, what)) as units,
        ):
            units.start()
            for sock in socks:
                exchange(sock, there, b"before")
            assert units.stop() == 0
            for sock in socks:
                sock.sendto(b"meanwhile", there)
            units.start()
            for sock in socks:
                assert sock.recvfrom(100)[0] == b"meanwhile"
                exchange(sock, there, b"after")
            assert len(echo.sources) == 8
            units.terminate()


@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_such_sessions_outlive_the_relay(tmp_path: Path, engine: str, workers: int) -> None:
    with (
        chain(tmp_path, "127.0.0.1", engine, workers) as (port, _, second, echo),
        clients(8, "127.0.0.2") as socks,
    ):
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"before")
        second.next_reg(second.kill(signal.SIGKILL, "reg"))
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 8
        assert len(second.sessions()) == 8
