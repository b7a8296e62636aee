"""From which port servers are written to, by the whole product (SPEC 12): the client's, or a
number; and what becomes of the sockets, which cannot give such a port back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from built import NAMES, WITHOUT
from echo import Echo, clients, exchange, udp
from host import free_port
from namespaces import Network
from proxy import Proxy, command, config, until
from router import redirect, routed
from stored import Units
from udpproxy.proxy.engine.pool import BATCH, peek_carrier

ENGINES = [(name, 1) for name in NAMES] + [("native", 2)] * (not WITHOUT)
"""With their workers."""
SIDES = {4: ("10.1.0.", "10.2.0."), 6: ("fd01::", "fd02::")}
PORT, SERVER = 5004, 5005
ONCE = "[session-acl.limits]\ndownload-datagrams = 1"
"""A session ends with its answer."""


@pytest.fixture
def network() -> Iterator[Network]:
    with routed() as net:
        yield net


def written(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def top(engine: str, workers: int = 1, most: int = 100) -> str:
    return f'max-sessions = {most}\nengine = "{engine}"\nworkers = {workers}'


@pytest.mark.parametrize("sources", ["", '"{near}1"', '"client", "no-fallback"'])
@pytest.mark.parametrize("version", SIDES)
@pytest.mark.parametrize(("engine", "workers"), ENGINES)
def test_the_server_sees_the_clients_port(
    network: Network, tmp_path: Path, engine: str, workers: int, version: int, sources: str
) -> None:
    """Over a killed REG, too."""
    far, near = SIDES[version]
    acl = 'source-port = "client"'
    if sources:
        acl += f"\nsource-address = [{sources.format(near=near)}]"
    text = config(PORT, f"{written(near + '2')}:{SERVER}", listen=far + "1", acl=acl,
                  top=top(engine, workers))  # fmt: skip
    proxy = Proxy(tmp_path, text, prefix=network.prefix("router"))
    if "client" in sources:
        redirect(network, "router", proxy.file)
    with ExitStack() as stack:
        stack.enter_context(proxy)
        echo = network.on("server", lambda: stack.enter_context(Echo(near + "2", SERVER)))
        socks = network.on(
            "client", lambda: [stack.enter_context(udp(far + "5")) for _ in range(5)]
        )
        seen = far + "5" if "client" in sources else near + "1"
        for data in (b"before", b"after"):
            for sock in socks:
                exchange(sock, (far + "1", PORT), data)
            ends = {(seen, sock.getsockname()[1]) for sock in socks}
            assert echo.sources == ends
            rows = proxy.sessions()
            shown = written(seen) if version == 6 else seen
            assert {row["source"] for row in rows} == {f"{shown}:{port}" for _, port in ends}
            if data == b"before":
                proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
                until(proxy.ready)
        assert proxy.info()["sessions"] == 5
        assert proxy.info()["refused-no-port"] == 0


@pytest.mark.parametrize(("start", "works"), [(1024, False), (53, True)])
@pytest.mark.parametrize("engine", NAMES)
def test_a_port_below_1024(
    network: Network,
    tmp_path: Path,
    engine: str,
    start: int,
    works: bool,  # noqa: FBT001
) -> None:
    """The namespace in which the sockets were made decides: that of the parent."""
    key = "net/ipv4/ip_unprivileged_port_start"
    words = f"echo {start} >/proc/sys/{key}"
    subprocess.run([*network.prefix("router"), "sh", "-c", words], check=True)
    text = config(PORT, f"10.2.0.2:{SERVER}", listen="10.1.0.1", acl="source-port = 123",
                  top=top(engine))  # fmt: skip
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(tmp_path, text, prefix=network.prefix("router")))
        echo = network.on("server", lambda: stack.enter_context(Echo("10.2.0.2", SERVER)))
        client = network.on("client", lambda: stack.enter_context(udp("10.1.0.5")))
        if works:
            exchange(client, ("10.1.0.1", PORT), b"question")
            assert echo.sources == {("10.2.0.1", 123)}
        else:
            client.sendto(b"question", ("10.1.0.1", PORT))
            until(lambda: proxy.info()["refused-no-port"] == 1)
            assert proxy.said("Permission denied (source-port below net.ipv4.ip_unprivileged_port")
            assert proxy.said("set net.ipv4.ip_unprivileged_port_start = 123")


def ask_many(units: Units, port: int, count: int, sock: socket.socket) -> None:
    """One session after the other, each of which ends with its answer."""
    for number in range(count):
        data = b"%d" % number
        units.listen()
        assert exchange(sock, ("127.0.0.1", port), data) == ("127.0.0.1", port)


def rebuilt(units: Units) -> int:
    """How often a carrier was made anew, by the versions in the store."""
    units.listen()
    names = [name for name, _ in units.store if name.startswith("carrier-")]
    return sum(int(name.split("-")[4]) for name in names if name.count("-") == 4)


@pytest.mark.parametrize(("engine", "workers"), ENGINES)
def test_more_sessions_than_there_are_slots(tmp_path: Path, engine: str, workers: int) -> None:
    """One after the other: nothing is lost, and REG does not tell of each."""
    port, count = free_port(), 3000
    with Echo() as echo, udp("127.0.0.9") as client, ExitStack() as stack:
        acl = f'source-port = "client"\nsource-address = ["127.0.0.5"]\n{ONCE}'
        text = config(port, str(echo), acl=acl, top=top(engine, workers, BATCH))
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        ask_many(units, port, count, client)
        assert echo.sources == {("127.0.0.5", client.getsockname()[1])}
        assert len(echo.received) == count
        until(lambda: (units.listen(), count // BATCH - 1 <= rebuilt(units))[1])
        assert rebuilt(units) <= 8 * count // BATCH
        units.listen()
        assert len([name for name, _ in units.store if name.startswith("carrier-")]) == 1
        assert units.said("-W") == units.said("-E") == []
        units.terminate()


@pytest.mark.parametrize("what", ["reg", "parent"])
@pytest.mark.parametrize("engine", NAMES)
def test_a_crash_with_spent_slots(tmp_path: Path, engine: str, what: str) -> None:
    """Sessions go on, and what was spent is replaced after it."""
    port = free_port()
    with Echo() as echo, clients(3, "127.0.0.9") as socks, ExitStack() as stack:
        acl = 'source-port = "client"\nsource-address = ["127.0.0.5"]'
        more = f"""[[session-acl]]
name = "short"
from = ["127.0.0.10"]
plug-to = "{echo}"
{acl}
{ONCE}
"""
        text = config(port, str(echo), acl=f'from = ["127.0.0.9"]\n{acl}', more=more,
                      top=top(engine, 1, 20))  # fmt: skip
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        other = stack.enter_context(udp("127.0.0.10"))
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"before")
        ask_many(units, port, 3, other)
        if what == "reg":
            units.reg.kill()
            units.reg.wait()
            units.start_reg()
        else:
            units.stop(signal.SIGKILL)
            units.start()
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"after")
        ask_many(units, port, 60, other)
        ends = {("127.0.0.5", sock.getsockname()[1]) for sock in (*socks, other)}
        assert echo.sources == ends
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"at last")
        units.terminate()


@pytest.mark.parametrize("engine", NAMES)
def test_killed_between_two_versions_of_a_carrier(tmp_path: Path, engine: str) -> None:
    """The store has both: the later one is it, with the sockets of the sessions that there are."""
    port = free_port()
    with Echo() as echo, clients(2, "127.0.0.9") as socks, ExitStack() as stack:
        acl = 'source-port = "client"\nsource-address = ["127.0.0.5"]'
        text = config(port, str(echo), acl=acl, top=top(engine, 1, 20))
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        exchange(socks[0], ("127.0.0.1", port), b"before")
        old = os.dup(units.stored("carrier-2-0-20"))
        stack.callback(os.close, old)
        kill = command("ctl", "one", "--runtime-dir", units.runtime, "kill", 1)
        subprocess.run(kill, check=True, capture_output=True)
        until(lambda: (units.listen(), rebuilt(units) == 1)[1])
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"between")
        units.stop(signal.SIGKILL)
        units.keep("carrier-2-0-20", old)
        units.start()
        assert [name for name, _ in units.store if name.startswith("carrier-")] == [
            "carrier-2-0-20-1"
        ]
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 2
        with socket.socket(fileno=os.dup(units.stored("carrier-2-0-20-1"))) as carrier:
            batch = peek_carrier(carrier)
            assert len({sock.getsockname()[1] for sock in batch} - {0}) == 2
            for sock in batch:
                sock.close()
        units.terminate()


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("engine", NAMES)
def test_a_reload_brings_it_and_takes_it_away(tmp_path: Path, engine: str, single: bool) -> None:  # noqa: FBT001
    """Sessions that there are keep the port that they have."""
    port, number = free_port(), free_port()
    with Echo() as echo, clients(3) as socks, ExitStack() as stack:
        where = ("127.0.0.1", port)
        plain = config(port, str(echo), top=top(engine, 1, 20))
        proxy = stack.enter_context(Proxy(tmp_path, plain, single=single))
        exchange(socks[0], where, b"plain")
        proxy.write(config(port, str(echo), top=top(engine, 1, 20), acl=f"source-port = {number}"))
        proxy.ask("reload")
        exchange(socks[0], where, b"plain")
        exchange(socks[1], where, b"fixed")
        socks[2].sendto(b"too many", where)
        until(lambda: proxy.info()["refused-no-port"] == 1)
        proxy.write(plain)
        proxy.ask("reload")
        exchange(socks[1], where, b"fixed")
        exchange(socks[2], where, b"another")
        assert len(echo.sources_of(b"plain")) == len(echo.sources_of(b"fixed")) == 1
        assert echo.sources_of(b"fixed") == {("127.0.0.1", number)}
        assert ("127.0.0.1", number) not in echo.sources_of(b"another")
        # What was used up is replaced, for any rule.
        assert proxy.ctl("kill", 2).returncode == 0
        for _ in range(3):
            for sock in socks:
                exchange(sock, where, b"at last")
        assert ("127.0.0.1", number) not in echo.sources_of(b"at last")
