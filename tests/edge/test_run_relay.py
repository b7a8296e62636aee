"""Datagrams there and back through a running proxy, in four processes and in one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import SO_BROADCAST, SOL_SOCKET

import pytest

from built import NAMES
from echo import LARGEST, Echo, arrived, clients, exchange, silent, udp
from host import free_port
from namespaces import Network
from proxy import Endpoint, Proxy, config, until


@pytest.fixture(params=[False, True], ids=["fork", "single"])
def single(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@contextmanager
def a_proxy(
    directory: Path, echo: Echo, *, single: bool, listen: str = "127.0.0.1", acl: str = ""
) -> Iterator[tuple[Proxy, Endpoint]]:
    port = free_port(listen)
    with Proxy(directory, config(port, str(echo), listen=listen, acl=acl), single=single) as proxy:
        yield proxy, (listen, port)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_there_and_back(tmp_path: Path, *, single: bool, address: str) -> None:
    with (
        Echo(address) as echo,
        a_proxy(tmp_path, echo, single=single, listen=address) as (proxy, at),
        clients(10, address) as socks,
    ):
        for turn in range(20):
            for number, sock in enumerate(socks):
                assert exchange(sock, at, b"%d of %d" % (turn, number)) == at
        assert len(echo.sources) == 10
        assert {row["datagrams-down"] for row in proxy.sessions()} == {20}


@pytest.mark.parametrize(("client", "server"), [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
def test_from_one_family_to_the_other(tmp_path: Path, client: str, server: str) -> None:
    with (
        Echo(server) as echo,
        a_proxy(tmp_path, echo, single=False, listen=client) as (_, at),
        clients(2, client) as socks,
    ):
        for sock in socks:
            exchange(sock, at, b"over the border")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", ["normal", "any-port", "any-sock"])
def test_every_size_passes_whole(tmp_path: Path, *, single: bool, address: str, kind: str) -> None:
    with (
        Echo(address) as echo,
        a_proxy(tmp_path, echo, single=single, listen=address, acl=f'type = "{kind}"') as (
            proxy,
            at,
        ),
        udp(address) as client,
    ):
        for size in (LARGEST, 0, 1, 1472, 1473, 9000, LARGEST - 1, LARGEST):
            exchange(client, at, os.urandom(size))
        assert proxy.info()["send-errors"] == 0
        assert len(proxy.sessions()) == 1


def test_wildcard_answers_from_the_address_written_to(tmp_path: Path, *, single: bool) -> None:
    with (
        Echo() as echo,
        a_proxy(tmp_path, echo, single=single, listen="0.0.0.0") as (proxy, (_, port)),
        udp() as client,
    ):
        written = [("127.0.0.1", port), ("127.5.6.7", port), ("127.255.255.254", port)]
        for to in written * 2:
            assert exchange(client, to, b"from there, please") == to
        assert len(echo.sources) == len(written), "each is a session of its own"
        listeners = {row["listener"] for row in proxy.sessions()}
        assert listeners == {f"{address}:{port}" for address, port in written}


def test_wildcard_on_a_host_with_several_addresses(tmp_path: Path) -> None:
    """Both families, and a broadcast: that is answered from the interface's own address."""
    port = 5353
    with Network() as network:
        network.add("proxy", "10.98.0.1/24", "10.98.0.7/24", "fd98::1/64", "fd98::7/64")
        network.add("client", "10.98.0.2/24", "fd98::2/64")
        prefix = network.prefix("proxy")
        with network.on("proxy", lambda: Echo("127.0.0.1", 7)) as echo:
            text = config(port, str(echo), listen="0.0.0.0")
            text += f'[[listen]]\naddress = "::"\nport = {port}\n'
            with Proxy(tmp_path, text, prefix=prefix):
                with network.on("client", lambda: udp("10.98.0.2")) as four:
                    for address in ("10.98.0.1", "10.98.0.7"):
                        assert exchange(four, (address, port), b"four") == (address, port)
                    four.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)
                    assert exchange(four, ("10.98.0.255", port), b"all") == ("10.98.0.1", port)
                with network.on("client", lambda: udp("fd98::2")) as six:
                    for address in ("fd98::1", "fd98::7"):
                        assert exchange(six, (address, port), b"six") == (address, port)


def test_any_port_follows_the_first_answer(tmp_path: Path, *, single: bool) -> None:
    with (
        Echo(elsewhere=True) as echo,
        a_proxy(tmp_path, echo, single=single, acl='type = "any-port"') as (proxy, at),
        udp() as client,
    ):
        assert exchange(client, at, b"first") == at
        (row,) = proxy.sessions()
        assert row["server"] != str(echo)
        client.sendto(b"to the other port", at)
        until(lambda: proxy.sessions()[0]["datagrams-up"] == 2, step=0.05)
        assert [data for data, _ in echo.received] == [b"first"]


def test_normal_refuses_another_port(tmp_path: Path, *, single: bool) -> None:
    with (
        Echo(elsewhere=True) as echo,
        a_proxy(tmp_path, echo, single=single) as (proxy, at),
        udp() as client,
    ):
        client.sendto(b"first", at)
        arrived(echo, 1)
        assert silent(client)
        assert proxy.sessions()[0]["datagrams-down"] == 0


def test_idle_sessions_end(tmp_path: Path, *, single: bool) -> None:
    with (
        Echo() as echo,
        a_proxy(tmp_path, echo, single=single, acl="limits = { idle = 0.3 }") as (proxy, at),
        clients(5) as socks,
    ):
        for sock in socks:
            exchange(sock, at, b"hello")
        records = until(lambda: found if len(found := proxy.records()) == 5 else [])
        assert {record["REASON"] for record in records} == {"idle"}
        assert all(0.3 <= float(record["DURATION"]) < 3 for record in records)
        assert proxy.sessions() == []
        exchange(socks[0], at, b"hello again")


def test_unreachable_server(tmp_path: Path, *, single: bool) -> None:
    """Counted; the session goes on and works as soon as there is a server."""
    server = free_port()
    with udp() as client:
        port = free_port()
        text = config(port, f"127.0.0.1:{server}")
        with Proxy(tmp_path, text, single=single) as proxy:
            client.sendto(b"anybody?", ("127.0.0.1", port))
            until(lambda: proxy.info()["icmp-errors"] == 1, step=0.05)
            with Echo(port=server) as echo:
                exchange(client, ("127.0.0.1", port), b"there you are")
                assert len(echo.sources) == 1
            assert len(proxy.sessions()) == 1


@pytest.mark.parametrize("how", ["ended by REG", "by the parent"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("engine", NAMES)
def test_the_record_says_from_where_the_server_was_written_to(
    tmp_path: Path, engine: str, address: str, how: str
) -> None:
    """Its log knows the client by that alone."""
    limits = 'limits = { idle = "0.2s" }' if how == "ended by REG" else ""
    top = f'max-sessions = 5\nengine = "{engine}"'
    port = free_port(address)
    with Echo(address) as echo, udp(address) as client:
        text = config(port, str(echo), listen=address, top=top, acl=limits)
        with Proxy(tmp_path, text) as proxy:
            exchange(client, (address, port), b"who am I?")
            if limits:
                until(proxy.records)
        (record,) = proxy.records()
        ((where, number),) = echo.sources
        assert (record["SOURCE_ADDR"], record["SOURCE_PORT"]) == (where, str(number))


@pytest.mark.parametrize("idle", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("engine", NAMES)
def test_a_short_idle_limit_is_kept(tmp_path: Path, engine: str, idle: float) -> None:
    """By both engines alike, and from the first session on."""
    port = free_port()
    top = f'max-sessions = 20\nengine = "{engine}"'
    with Echo() as echo, udp() as client, udp() as other:
        text = config(port, str(echo), top=top, acl=f'limits = {{ idle = "{idle}s" }}')
        with Proxy(tmp_path, text) as proxy:
            time.sleep(1.2)  # it has nothing to do, and looks seldom
            exchange(client, ("127.0.0.1", port), b"alone")
            until(proxy.records)
            for _ in range(3):
                exchange(client, ("127.0.0.1", port), b"once more")
                exchange(other, ("127.0.0.1", port), b"another")
                time.sleep(idle / 4)
            until(lambda: len(proxy.records()) == 3)
            for record in proxy.records()[:1]:
                assert idle <= float(record["DURATION"]) < idle + 0.25


@pytest.mark.parametrize("engine", NAMES)
def test_what_cannot_be_sent_is_said_with_both_ends(tmp_path: Path, engine: str) -> None:
    """An IPv6 client can send a little more than IPv4 can carry."""
    port = free_port("::1")
    with Echo() as echo, udp("::1") as client:
        text = config(port, str(echo), listen="::1", top=f'max-sessions = 9\nengine = "{engine}"')
        with Proxy(tmp_path, text) as proxy:
            exchange(client, ("::1", port), b"before")
            client.sendto(bytes(65_527), ("::1", port))
            until(lambda: proxy.said("UDPS-600-W"))
            exchange(client, ("::1", port), b"after")
            (line,) = proxy.said("UDPS-600-W")
            ends = f"session 1 from [::1]:{client.getsockname()[1]} to {echo}"
            assert line.endswith(f"cannot send to a server: Message too long, {ends}")
