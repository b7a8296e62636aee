"""Addresses and routes that change, which no datagram tells of: the kernel does (SPEC 3)."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import without_netlink
from built import NAMES
from echo import Echo, exchange, udp
from field.network import Host
from host import free_port, tool
from namespaces import Network
from proxy import Proxy, config, until

LENGTH = {4: 24, 6: 64}
FIRST = {4: "10.74.0.1", 6: "fd74::1"}
SECOND = {4: "10.75.0.1", 6: "fd75::1"}
"""The proxy's addresses, each of one uplink."""
GATEWAYS = {4: ("10.74.0.254", "10.75.0.254"), 6: ("fd74::fe", "fd75::fe")}
BEYOND = {4: ("10.77.0.254", "10.77.0.253"), 6: ("fd77::fe", "fd77::fd")}
SERVER = {4: "10.77.0.2", 6: "fd77::2"}
NETWORKS = {4: ("10.74.0.0/24", "10.75.0.0/24"), 6: ("fd74::/64", "fd75::/64")}
ROUTERS = ("one", "two")
SYSCTLS = (
    "ipv4.ip_forward=1",
    "ipv6.conf.all.forwarding=1",
    "ipv4.conf.all.send_redirects=0",
    "ipv4.conf.eth0.send_redirects=0",
)
CLIENTS = ("127.0.0.1", 5000)
RUNS = [
    (engine, workers)
    for engine in NAMES
    for workers in (1, 2)
    if engine != "python" or workers == 1
]


def _net(ip: int, address: str) -> str:
    return f"{address}/{LENGTH[ip]}"


@pytest.fixture(scope="module")
def uplinks() -> Iterator[Network]:
    """The proxy, whose clients are on its own host, two routers, of which the second lets no
    foreign address through, and the server behind both."""
    with Network() as net:
        hosts: dict[str, list[dict[int, str]]] = {"proxy": [FIRST, SECOND], "server": [SERVER]}
        for number, router in enumerate(ROUTERS):
            hosts[router] = [{ip: each[ip][number] for ip in (4, 6)} for each in (GATEWAYS, BEYOND)]
        for name, each in hosts.items():
            net.add(name, *(_net(ip, one[ip]) for one in each for ip in (4, 6)))
        for number, router in enumerate(ROUTERS):
            for word in SYSCTLS:
                Host(net, router).run(tool("sysctl"), "-q", "-w", f"net.{word}")
            for ip in (4, 6):
                Host(net, "server").add_route(NETWORKS[ip][number], BEYOND[ip][number])
        guard = "add chain inet guard pass { type filter hook forward priority 0; }"
        for ip, family in ((4, "ip"), (6, "ip6")):
            guard += f"; add rule inet guard pass {family} saddr {NETWORKS[ip][0]} drop"
        Host(net, ROUTERS[1]).run(tool("nft"), f"add table inet guard; {guard}")
        yield net


@pytest.fixture
def here(uplinks: Network) -> Iterator[Host]:
    """The proxy's host, on its first uplink."""
    host = Host(uplinks, "proxy")
    for ip in (4, 6):
        _route(host, ip, FIRST[ip])
    yield host
    for ip in (4, 6):
        if _net(ip, FIRST[ip]) not in host.ip("addr", "show", "dev", "eth0"):
            host.add_address(_net(ip, FIRST[ip]))


def _route(host: Host, ip: int, source: str) -> None:
    """To the server by the first uplink, with that address of it; "": as the system likes."""
    host.add_route(_alone(ip), GATEWAYS[ip][0], source)


def _move(host: Host, ip: int) -> None:
    """To the other uplink; the address of the first stays."""
    host.add_route(_alone(ip), GATEWAYS[ip][1], SECOND[ip])


def _alone(ip: int) -> str:
    return f"{SERVER[ip]}/{32 if ip == 4 else 128}"


def _source(proxy: Proxy) -> str:
    (source,) = _sources(proxy).values()
    return source


def _text(
    server: object, engine: str, workers: int = 1, *, kind: str = "normal", more: str = ""
) -> str:
    top = f'max-sessions = 20\nengine = "{engine}"\nworkers = {workers}'
    return config(5000, str(server), top=top, acl=f'type = "{kind}"\n{more}')


@pytest.mark.parametrize("kind", ["normal", "any-port"])
@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize(("engine", "workers"), RUNS)
def test_renumbered(
    uplinks: Network, here: Host, tmp_path: Path, engine: str, workers: int, ip: int, kind: str
) -> None:
    """Nobody has to send anything: the first datagram after the change passes, with IPv6 too, where
    the system would go on to send from an address that is gone."""
    echo = uplinks.on("server", lambda: Echo(SERVER[ip]))
    text = _text(echo, engine, workers, kind=kind)
    new = "10.74.0.9" if ip == 4 else "fd74::9"
    with echo, Proxy(tmp_path, text, prefix=uplinks.prefix("proxy")) as proxy:
        with uplinks.on("proxy", udp) as client:
            exchange(client, CLIENTS, b"before")
            here.renumber(_net(ip, FIRST[ip]), _net(ip, new))
            _route(here, ip, new)
            until(lambda: _source(proxy) == new, 5.0)
            for number in range(3):
                exchange(client, CLIENTS, b"after %d" % number)
            assert {where for where, _ in echo.sources_of(b"after")} == {new}
            assert sorted(data for data, _ in echo.received if data.startswith(b"after")) == [
                b"after %d" % number for number in range(3)
            ]
            (said,) = proxy.said("UDPS-601-N")
            assert f"session 1 from 127.0.0.1:{client.getsockname()[1]} to {echo}, rule all" in said
            info = proxy.info("reg")
            assert (info["send-errors"], info["sessions"]) == (0, 1)
        here.renumber(_net(ip, new), _net(ip, FIRST[ip]))


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize(("engine", "workers"), RUNS)
def test_another_uplink(
    uplinks: Network, here: Host, tmp_path: Path, engine: str, workers: int, ip: int
) -> None:
    """The old address is still there, but nobody takes it there: no send fails."""
    echo = uplinks.on("server", lambda: Echo(SERVER[ip]))
    text = _text(echo, engine, workers)
    with (
        echo,
        Proxy(tmp_path, text, prefix=uplinks.prefix("proxy")) as proxy,
        uplinks.on("proxy", udp) as client,
    ):
        exchange(client, CLIENTS, b"before")
        assert _source(proxy) == FIRST[ip]
        _move(here, ip)
        until(lambda: _source(proxy) == SECOND[ip], 5.0)
        exchange(client, CLIENTS, b"after")
        assert {where for where, _ in echo.sources_of(b"after")} == {SECOND[ip]}
        assert len(proxy.said("UDPS-601-N")) == 1
        assert proxy.said("UDPS-127-N") == []
        # Back again, while no relay is there to be told of it.
        old = proxy.reg_pid
        os.kill(old, 9)
        _route(here, ip, FIRST[ip])
        proxy.next_reg(old)
        until(lambda: _source(proxy) == FIRST[ip], 5.0)
        exchange(client, CLIENTS, b"back")
        (row,) = proxy.sessions()
        assert row["session"] == 1


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize("engine", NAMES)
def test_where_nobody_may_tell(
    uplinks: Network, here: Host, tmp_path: Path, engine: str, ip: int
) -> None:
    """The limit `silent` finds out, and the notice at start says that it has to."""
    echo = uplinks.on("server", lambda: Echo(SERVER[ip]))
    text = _text(echo, engine, more='limits = { silent = "1s" }')
    prefix = [*uplinks.prefix("proxy"), *without_netlink.words()]
    with (
        echo,
        Proxy(tmp_path, text, prefix=prefix) as proxy,
        uplinks.on("proxy", udp) as client,
    ):
        (said,) = proxy.said("UDPS-127-N")
        assert "Address family not supported by protocol" in said
        exchange(client, CLIENTS, b"before")
        _move(here, ip)
        client.settimeout(0.1)
        begun = time.monotonic()
        until(lambda: _answered(client, b"after"), 10.0)
        assert 0.8 < time.monotonic() - begun < 5.0
        assert {where for where, _ in echo.sources_of(b"after")} == {SECOND[ip]}
        (said,) = proxy.said("UDPS-633-N")
        assert f"server {echo} of rule all does not answer client 127.0.0.1:" in said
        assert ": session 1 is connected afresh, from " in said
        assert proxy.said("UDPS-601-N") == []
        (row,) = proxy.sessions()
        assert row["session"] == 1


def _answered(client: socket.socket, data: bytes) -> bool:
    client.sendto(data, CLIENTS)
    try:
        return client.recv(100) == data
    except TimeoutError:
        return False


@pytest.mark.parametrize("engine", NAMES)
def test_a_way_that_is_as_good(uplinks: Network, here: Host, tmp_path: Path, engine: str) -> None:
    """IPv6 addresses of one network take each other's place, as temporary ones do: a session stays
    with its own until that is gone. The session over IPv4 shows that everything was looked at."""
    four, six = (uplinks.on("server", partial(Echo, SERVER[ip])) for ip in (4, 6))
    more = f'''[[session-acl]]
name = "six"
plug-to = "{six}"
[[listen]]
address = "127.0.0.1"
port = 5006
'''
    top = f'max-sessions = 20\nengine = "{engine}"'
    text = config(5000, str(four), top=top, acl='to = [":5000"]', more=more)
    ends = {4: CLIENTS, 6: ("127.0.0.1", 5006)}
    with (
        four,
        six,
        Proxy(tmp_path, text, prefix=uplinks.prefix("proxy")) as proxy,
        uplinks.on("proxy", udp) as client,
    ):
        for end in ends.values():
            exchange(client, end, b"before")
        before = _sources(proxy)
        assert before == {"1": FIRST[4], "2": FIRST[6]}
        here.add_address("10.74.0.20/24")
        here.add_address("fd74::20/64")
        _route(here, 6, "")
        here.drop_address("fd75::1/64")
        here.ip("addr", "change", "fd74::1/64", "dev", "eth0", "preferred_lft", "0")
        assert "src fd74::20" in here.ip("route", "get", SERVER[6])
        _move(here, 4)
        until(lambda: _sources(proxy)["1"] == SECOND[4], 5.0)
        assert _sources(proxy)["2"] == FIRST[6]
        here.drop_address("fd74::1/64")
        until(lambda: _sources(proxy)["2"] == "fd74::20", 5.0)
        for end in ends.values():
            exchange(client, end, b"after")
        here.add_address("fd74::1/64")
        here.add_address("fd75::1/64")
        here.drop_address("fd74::20/64")
        here.drop_address("10.74.0.20/24")


def _sources(proxy: Proxy) -> dict[str, str]:
    """By the session's number, without ports."""
    return {
        str(row["session"]): str(row["source"]).rpartition(":")[0].strip("[]")
        for row in proxy.sessions()
    }


ROUTES = 20_000


def test_a_storm_of_routes(uplinks: Network, here: Host, tmp_path: Path) -> None:
    """A router has many, and they change all the time: sessions go on, nobody is kept busy by it,
    and what concerns them is seen in the end."""
    echo = uplinks.on("server", lambda: Echo(SERVER[4]))
    batch = tmp_path / "batch"
    routes = [f"10.{100 + n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(ROUTES)]
    batch.write_text(
        "".join(
            f"route {verb} {one}/32 via {GATEWAYS[4][0]}\n"
            for verb in ("add", "del")
            for one in routes
        )
    )
    with (
        echo,
        Proxy(tmp_path, _text(echo, NAMES[-1]), prefix=uplinks.prefix("proxy")) as proxy,
        uplinks.on("proxy", udp) as client,
    ):
        exchange(client, CLIENTS, b"before")
        spent = _cpu(proxy.pid)
        words = [tool("ip"), "-n", uplinks.name("proxy"), "-batch", str(batch)]
        longest, count = 0.0, 0
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as storm:
            while storm.poll() is None:
                begun = time.monotonic()
                exchange(client, CLIENTS, b"meanwhile")
                longest = max(longest, time.monotonic() - begun)
                count += 1
                time.sleep(0.005)
            assert storm.returncode == 0
        begun = time.monotonic()
        proxy.info()
        spent = _cpu(proxy.pid) - spent
        print(
            f"{2 * ROUTES} changes, {count} questions, the slowest {longest:.3f} s, "
            f"{spent:.2f} s of the parent's CPU, info {time.monotonic() - begun:.3f} s"
        )
        assert longest < 1.0
        assert spent < 2.0
        assert proxy.said("UDPS-601-N") == []
        _move(here, 4)
        until(lambda: _source(proxy) == SECOND[4], 10.0)
        exchange(client, CLIENTS, b"after")
        assert proxy.info("reg")["send-errors"] == 0


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("engine", NAMES)
def test_silent_servers_end_and_others_do_not(tmp_path: Path, engine: str) -> None:
    """At twice the limit, and also where the relay is another one by then."""
    quiet, lively = Echo(answers=lambda _: False), Echo()
    listen = '[[listen]]\naddress = "127.0.0.1"\nport = '
    mute, talking, told = (free_port() for _ in range(3))
    rules = "".join(
        f'[[session-acl]]\nname = "{name}"\nto = [":{port}"]\nplug-to = "{server}"\n'
        f'type = "{kind}"\n'
        for name, port, server, kind in (
            ("lively", talking, lively, "normal"),
            ("one-way", told, quiet, "one-way"),
        )
    )
    text = config(
        mute,
        str(quiet),
        top=f'max-sessions = 20\nengine = "{engine}"',
        acl=f'to = [":{mute}"]',
        more=f'{rules}{listen}{talking}\n{listen}{told}\n[limits]\nsilent = "1.5s"\n',
    )
    with quiet, lively, Proxy(tmp_path, text) as proxy, udp() as client, udp() as other:
        begun = time.monotonic()
        client.sendto(b"hello?", ("127.0.0.1", mute))
        other.sendto(b"so it is", ("127.0.0.1", told))
        until(lambda: len(quiet.received) == 2)
        old = proxy.reg_pid
        proxy.kill(9, "reg")
        proxy.next_reg(old)
        while not proxy.records():
            exchange(other, ("127.0.0.1", talking), b"and you?")
            client.sendto(b"hello?", ("127.0.0.1", mute))
            time.sleep(0.05)
        assert 3.0 < time.monotonic() - begun < 5.0
        (record,) = proxy.records()
        ends = ("RULE", "REASON", "RESULT", "DATAGRAMS_COUT")
        assert [record[each] for each in ends] == ["all", "silent", "FAILED", "0"]
        assert len(proxy.said("UDPS-633-N")) == 1
        assert len({port for data, (_, port) in quiet.received if data == b"hello?"}) >= 2
        assert {row["acl"] for row in proxy.sessions()} >= {"lively", "one-way"}


@pytest.mark.parametrize("ip", [4, 6])
@pytest.mark.parametrize("engine", NAMES)
def test_an_address_that_the_rule_names(
    uplinks: Network, here: Host, tmp_path: Path, engine: str, ip: int
) -> None:
    """It stays whatever the routes say, until it is gone; and it is taken again by new sessions."""
    echo = uplinks.on("server", lambda: Echo(SERVER[ip]))
    more = f'''to = [":5000"]
source-address = ["{FIRST[ip]}"]
[[session-acl]]
name = "free"
plug-to = "{echo}"
[[listen]]
address = "127.0.0.1"
port = 5006
'''
    text = _text(echo, engine, more=more)
    with (
        echo,
        Proxy(tmp_path, text, prefix=uplinks.prefix("proxy")) as proxy,
        uplinks.on("proxy", udp) as client,
        uplinks.on("proxy", udp) as other,
    ):
        exchange(client, CLIENTS, b"before")
        exchange(other, ("127.0.0.1", 5006), b"before")
        before = {row["session"]: row["source"] for row in proxy.sessions()}
        # The system would write from the other uplink's address now, as the free session shows.
        _route(here, ip, SECOND[ip])
        until(lambda: _sources(proxy)["2"] == SECOND[ip], 5.0)
        assert {row["session"]: row["source"] for row in proxy.sessions()}[1] == before[1]
        exchange(client, CLIENTS, b"after")
        _move(here, ip)
        here.drop_address(_net(ip, FIRST[ip]))
        until(lambda: _sources(proxy)["1"] == SECOND[ip], 5.0)
        exchange(client, CLIENTS, b"elsewhere")
        here.add_address(_net(ip, FIRST[ip]))
        _route(here, ip, FIRST[ip])
        with uplinks.on("proxy", udp) as newcomer:
            exchange(newcomer, CLIENTS, b"new")
            until(lambda: _sources(proxy)["3"] == FIRST[ip])
