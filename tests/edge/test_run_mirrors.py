"""Copies to other receivers and the DSCP, as a proxy that runs has them."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, clients, exchange, udp
from host import free_port
from proxy import Endpoint, Proxy, config, until
from router import redirect, routed
from udpproxy.proxy.engine import dscp

WAYS = [*((name, 1) for name in NAMES), ("native", 2)]
HOSTS = {"127.0.0.1": "127.0.0.2", "::1": "::1"}
DATAGRAMS = [b"%04d" % number + bytes(number % 1200) for number in range(400)]


def top(engine: str, workers: int) -> str:
    return f'max-sessions = 100\ncrash-limit = 20\nengine = "{engine}"\nworkers = {workers}'


def mirrors(*receivers: object) -> str:
    return f"mirror-to = {[str(receiver) for receiver in receivers]}"


def silent(address: str) -> Echo:
    """A server that only listens."""
    return Echo(address, answers=lambda data: False)


def payloads(server: Echo, who: int) -> list[bytes]:
    """What it got of that client, in order."""
    mark = b"%d " % who
    return [data for data, _ in list(server.received) if data.startswith(mark)]


def written(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@pytest.mark.parametrize("address", HOSTS)
@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_one_is_dead_and_one_does_not_read(
    tmp_path: Path, engine: str, workers: int, address: str
) -> None:
    """The server and the other receiver get all of it, in order."""
    host, port = HOSTS[address], free_port(address)
    dead = written(host, free_port(host))
    with Echo(address) as echo, silent(host) as good, udp(host) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        receivers = mirrors(dead, written(*deaf.getsockname()[:2]), good)
        text = config(port, str(echo), listen=address, top=top(engine, workers), acl=receivers)
        with Proxy(tmp_path, text) as proxy, clients(6, address) as socks:
            for data in DATAGRAMS:
                for who, sock in enumerate(socks):
                    assert exchange(sock, (address, port), b"%d " % who + data)
            count = len(DATAGRAMS) * len(socks)
            until(lambda: len(good.received) == count)
            for who in range(len(socks)):
                wanted = [b"%d " % who + data for data in DATAGRAMS]
                assert payloads(echo, who) == payloads(good, who) == wanted
            assert len(good.sources) == 1
            info = proxy.info("reg")
            assert (info["mirrored"], info["mirror-errors"]) == (3 * count, 0)
            assert (info["send-errors"], info["icmp-errors"], info["stray-replies"]) == (0, 0, 0)


@pytest.mark.parametrize("address", HOSTS)
@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_receivers_come_and_go(tmp_path: Path, engine: str, workers: int, address: str) -> None:
    """With a reload, for the sessions that there are; over the death of REG they stay, and so does
    the port that copies leave from."""
    port, host = free_port(address), HOSTS[address]
    with Echo(address) as echo, silent(host) as one, silent(host) as two, udp(address) as client:

        def text(*receivers: object) -> str:
            acl = mirrors(*receivers) if receivers else ""
            return config(port, str(echo), listen=address, top=top(engine, workers), acl=acl)

        with Proxy(tmp_path, text()) as proxy:

            def goes_to(*receivers: Echo, number: int) -> None:
                data = b"%d" % number
                assert exchange(client, (address, port), data)
                until(lambda: all(data in map(_payload, each.received) for each in receivers))
                for receiver in {one, two} - set(receivers):
                    assert data not in map(_payload, receiver.received)

            goes_to(number=1)
            for number, receivers in enumerate([[one], [one, two], [two], [], [one, two]], 2):
                proxy.write(text(*receivers))
                proxy.ask("reload")
                goes_to(*receivers, number=number)
            before = one.received[-1][1]
            for number in (10, 11):
                proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
                until(proxy.ready)
                goes_to(one, two, number=number)
                assert one.received[-1][1] == before
            assert len(proxy.sessions()) == 1
            assert len(echo.sources) == 1


def _payload(received: tuple[bytes, Endpoint]) -> bytes:
    return received[0]


@pytest.mark.parametrize("engine", NAMES)
def test_what_cannot_be_sent_is_said(tmp_path: Path, engine: str) -> None:
    """One line a second, and nothing is lost by it."""
    port = free_port()
    with Echo() as echo, silent("127.0.0.2") as good, udp() as client:
        # Without SO_BROADCAST the system refuses it.
        receivers = mirrors("127.255.255.255:9", good)
        text = config(port, str(echo), top=top(engine, 1), acl=receivers)
        with Proxy(tmp_path, text) as proxy:
            for data in DATAGRAMS:
                assert exchange(client, ("127.0.0.1", port), data)
            until(lambda: proxy.info("reg")["mirror-errors"] == len(DATAGRAMS))
            assert proxy.info("reg")["mirrored"] == len(DATAGRAMS)
            assert [data for data, _ in good.received] == DATAGRAMS
            (said, *more) = until(lambda: proxy.said("UDPS-602-W"))
            assert said.split("UDPS-602-W ")[1].startswith(
                "cannot send a copy to 127.255.255.255:9, rule all: Permission denied"
            )
            assert len(more) <= 4


@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_dead_neighbours_cost_the_others_nothing(tmp_path: Path, engine: str, workers: int) -> None:
    """What waits for their addresses on the wire takes nobody else's room."""
    with routed() as net:
        server = net.on("server", lambda: silent("10.2.0.2"))
        other = net.on("server", lambda: silent("10.2.0.2"))
        dead = [f"10.2.0.{number}:9" for number in (71, 72, 73)]
        acl = mirrors(*dead, other) + '\ntype = "one-way"'
        text = config(5003, str(server), listen="10.1.0.1", top=top(engine, workers), acl=acl)
        proxy = Proxy(tmp_path, text, prefix=net.prefix("router"))
        with proxy, server, other, net.on("client", lambda: udp("10.1.0.5")) as client:
            for number in range(4000):
                client.sendto(b"%04d" % number + bytes(1000), ("10.1.0.1", 5003))
                if number % 20 == 0:
                    until(lambda: len(server.received) > number - 40)  # noqa: B023
            until(lambda: len(other.received) == len(server.received) == 4000)
            wanted = [b"%04d" % number for number in range(4000)]
            assert [data[:4] for data, _ in server.received] == wanted
            assert [data[:4] for data, _ in other.received] == wanted


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("engine", NAMES)
def test_copies_from_the_clients_own_address(tmp_path: Path, engine: str, version: int) -> None:
    there, here = ("10.2.0.2", "10.1.0.1") if version == 4 else ("fd02::2", "fd01::1")
    client_address = "10.1.0.5" if version == 4 else "fd01::5"
    with routed() as net:
        server = net.on("server", lambda: silent(there))
        other = net.on("server", lambda: silent(there))
        acl = mirrors(other) + '\nsource-address = ["client", "no-fallback"]\ntype = "one-way"'
        text = config(5003, str(server), listen=here, top=top(engine, 1), acl=acl)
        proxy = Proxy(tmp_path, text, prefix=net.prefix("router"))
        redirect(net, "router", proxy.file)
        with proxy, server, other, net.on("client", lambda: udp(client_address)) as client:
            for number in (1, 2):
                client.sendto(b"datagram", (here, 5003))
                until(lambda: len(other.received) == len(server.received) == number)  # noqa: B023
                for each in (server, other):
                    assert {source[0] for source in each.sources} == {client_address}
                    assert {data for data, _ in each.received} == {b"datagram"}
                proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
                until(proxy.ready)


# ---- the DSCP ----


class Marked:
    """A socket that gives what it sends a DSCP and tells that of what it gets."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.sock = udp(address, port)
        dscp.tell(self.sock, on=True)

    def __enter__(self) -> Marked:
        return self

    def __exit__(self, *problem: object) -> None:
        self.sock.close()

    def send(self, data: bytes, to: tuple[str, int], mark: int) -> None:
        dscp.set_tos(self.sock, dscp.byte_of(mark))
        self.sock.sendto(data, to)

    def take(self) -> tuple[bytes, int, tuple[str, int]]:
        data, control, _, sender = self.sock.recvmsg(65535, 128)
        return data, dscp.told(control) >> 2, sender[:2]


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize(("engine", "workers"), WAYS)
def test_dscp_over_everything(tmp_path: Path, engine: str, workers: int, listen: str) -> None:
    """None, a number, kept, and back, by reloads; and each over the death of REG."""
    host = "::1" if ":" in listen else "127.0.0.1"
    port = free_port(host)
    with Marked(host) as server, Marked(host) as client:
        where = written(*server.sock.getsockname()[:2])

        def text(acl: str) -> str:
            return config(port, where, listen=listen, top=top(engine, workers), acl=acl)

        def seen(up: int, down: int) -> tuple[int, int]:
            client.send(b"question", (host, port), up)
            data, mark, source = server.take()
            assert data == b"question"
            server.send(b"answer", source, down)
            data, back, _ = client.take()
            assert data == b"answer"
            return mark, back

        steps = [("", (0, 0)), ("dscp = 46", (46, 46)), ('dscp = "keep"', (10, 34))]
        steps += [*steps[1::-1], steps[2], steps[0]]
        with Proxy(tmp_path, text("")) as proxy:
            for acl, wanted in steps:
                proxy.write(text(acl))
                proxy.ask("reload")
                assert [seen(10, 34) for _ in range(3)] == [wanted] * 3
                proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
                until(proxy.ready)
                assert [seen(10, 34) for _ in range(3)] == [wanted] * 3
            assert len(proxy.sessions()) == 1
            assert proxy.info("reg")["sessions-opened"] == 1


@pytest.mark.parametrize("engine", NAMES)
def test_dscp_of_what_is_redirected(tmp_path: Path, engine: str) -> None:
    text = f"""{top(engine, 1)}
[[listen]]
transparent = true
port = 5003
[[session-acl]]
name = "out"
transparent = true
source-address = ["client"]
dscp = "keep"
"""
    with routed() as net:
        proxy = Proxy(tmp_path, text, prefix=net.prefix("router"))
        redirect(net, "router", proxy.file)
        with (
            proxy,
            net.on("server", lambda: Marked("10.2.0.2", 5003)) as server,
            net.on("client", lambda: Marked("10.1.0.5")) as client,
        ):
            for up, down in ((46, 8), (0, 0), (8, 46)):
                client.send(b"question", ("10.2.0.2", 5003), up)
                data, mark, source = server.take()
                assert (data, mark, source[0]) == (b"question", up, "10.1.0.5")
                server.send(b"answer", source, down)
                assert client.take() == (b"answer", down, ("10.2.0.2", 5003))
