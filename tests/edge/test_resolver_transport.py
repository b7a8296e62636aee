"""Look-ups over real loopback sockets, against a server that does as it is told."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from udpproxy.config.model import NameServer, Resolver
from udpproxy.resolver.machine import LookUp
from udpproxy.resolver.result import Failure, Family, Result
from udpproxy.resolver.transport import Transport

GOOD = "198.51.100.1"
EVIL = "198.51.100.66"
TRY = 0.15
T = TypeVar("T")


@dataclass
class Server:
    """One port, UDP and TCP; `do` is called for each query with where to answer."""

    host: str
    do: Callable[[Server, bytes, tuple[str, int]], Awaitable[None]]
    stream: Callable[[bytes], bytes | None] | None
    port: int = 0
    queries: list[bytes] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    over_tcp: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    udp: socket.socket = field(init=False)
    tcp: socket.socket = field(init=False)

    @property
    def address(self) -> NameServer:
        return NameServer(address=ip_address(self.host), port=self.port)

    def reply(self, data: bytes, client: tuple[str, int]) -> None:
        self.udp.sendto(data, client)

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, client = await loop.sock_recvfrom(self.udp, 4096)
            self.queries.append(data)
            self.ports.append(client[1])
            self.tasks.append(loop.create_task(self._do(data, client)))

    async def _do(self, data: bytes, client: tuple[str, int]) -> None:
        await self.do(self, data, client)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.over_tcp += 1
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            query = await reader.readexactly(size)
            data = self.stream(query) if self.stream is not None else None
            if data is None:
                await reader.read()
            else:
                # In two parts, as a stream may arrive.
                writer.write(data[:7])
                await writer.drain()
                writer.write(data[7:])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def bound(host: str) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on the same free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        udp.bind((host, 0))
        try:
            tcp.bind((host, udp.getsockname()[1]))
        except OSError as error:
            udp.close()
            tcp.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        return udp, tcp


@asynccontextmanager
async def serving(
    do: Callable[[Server, bytes, tuple[str, int]], Awaitable[None]],
    stream: Callable[[bytes], bytes | None] | None = None,
    *,
    host: str = "127.0.0.1",
) -> AsyncIterator[Server]:
    server = Server(host, do, stream)
    server.udp, server.tcp = bound(host)
    server.port = server.udp.getsockname()[1]
    streams = None
    if stream is not None:
        streams = await asyncio.start_server(server.converse, sock=server.tcp)
    listener = asyncio.create_task(server.listen())
    try:
        yield server
    finally:
        for task in (listener, *server.tasks):
            task.cancel()
        await asyncio.gather(listener, *server.tasks, return_exceptions=True)
        server.udp.close()
        if streams is not None:
            streams.close()
            await streams.wait_closed()
        server.tcp.close()


def transport(*servers: Server | NameServer, in_flight: int = 50) -> Transport:
    names = tuple(server.address if isinstance(server, Server) else server for server in servers)
    resolver = Resolver(servers=names, timeout=TRY, attempts=2, tcp_connect_timeout=TRY)
    return Transport(resolver, in_flight=in_flight)


async def look_up(*servers: Server | NameServer, total: float = 1.0) -> Result:
    return await transport(*servers).look_up("www.example.org", Family.V4, total)


def run(story: Coroutine[None, None, T]) -> T:
    """Fails when a task or a descriptor is left."""

    async def whole() -> T:
        before = descriptors()
        async with asyncio.timeout(30.0):
            result = await story
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert descriptors() == before
        return result

    return asyncio.run(whole())


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def answer(
    query: bytes, address: str = GOOD, *, ttl: int = 77, rcode: int = 0, tc: bool = False
) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(query))
    message.set_rcode(dns.rcode.Rcode(rcode))
    if tc:
        message.flags |= dns.flags.TC
    elif not rcode:
        owner = message.question[0].name
        message.answer.append(dns.rrset.from_text(owner, ttl, "IN", "A", address))
    return message.to_wire()


def framed(query: bytes) -> bytes:
    data = answer(query, "198.51.100.99")
    return len(data).to_bytes(2, "big") + data


def lowered(query: bytes) -> bytes:
    data = answer(query)
    end = data.index(b"\0", 12)
    return data[:12] + data[12:end].lower() + data[end:]


async def ok(server: Server, query: bytes, client: tuple[str, int]) -> None:
    server.reply(answer(query), client)


async def hole(server: Server, query: bytes, client: tuple[str, int]) -> None:
    pass


async def truncating(server: Server, query: bytes, client: tuple[str, int]) -> None:
    server.reply(answer(query, tc=True), client)


async def folding(server: Server, query: bytes, client: tuple[str, int]) -> None:
    server.reply(lowered(query), client)


def first(make: Callable[[bytes], bytes]) -> Callable[..., Awaitable[None]]:
    """Something else, and the true answer a moment later."""

    async def do(server: Server, query: bytes, client: tuple[str, int]) -> None:
        server.reply(make(query), client)
        await asyncio.sleep(0.02)
        server.reply(answer(query), client)

    return do


def other_question(query: bytes) -> bytes:
    data = answer(query, EVIL)
    return data.replace(query[12:29], b"\4evil\4test\0\0\1\0\1", 1)


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "five octets": lambda query: bytes(5),
    "garbage with our ID": lambda query: query[:2] + b"\xff" * 40,
    "empty": lambda query: b"",
    "wrong ID": lambda query: bytes([query[0] ^ 1]) + answer(query, EVIL)[1:],
    "wrong question": other_question,
    "the query itself": lambda query: query,
    "1,300 octets": lambda query: answer(query, EVIL) + bytes(1300),
    "cut short": lambda query: answer(query, EVIL)[:-1],
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
def test_what_is_no_answer_is_ignored(forgery: Callable[[bytes], bytes]) -> None:
    async def story() -> Result:
        async with serving(first(forgery)) as server:
            return await look_up(server)

    result = run(story())
    assert (result.addresses, result.ignored) == ((ip_address(GOOD),), 1)
    assert result.duration < TRY


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer(host: str) -> None:
    async def story() -> tuple[Result, Server]:
        async with serving(ok, host=host) as server:
            return await look_up(server), server

    result, server = run(story())
    assert (result.addresses, result.ttl) == ((ip_address(GOOD),), 77.0)
    assert (result.server, result.failure) == (server.address, None)


def test_an_address_backwards() -> None:
    async def pointing(server: Server, query: bytes, client: tuple[str, int]) -> None:
        message = dns.message.make_response(dns.message.from_wire(query))
        owner = message.question[0].name
        message.answer.append(dns.rrset.from_text(owner, 77, "IN", "PTR", "Client.test."))
        server.reply(message.to_wire(), client)

    async def story() -> Result:
        async with serving(pointing) as server:
            return await transport(server).look_up_address(ip_address(GOOD), 1.0)

    assert run(story()).names == ("client.test",)


def test_the_kernel_keeps_other_senders_away() -> None:
    async def story() -> Result:
        async def do(server: Server, query: bytes, client: tuple[str, int]) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                # The asked port, another address; then the asked address, another port.
                stranger.bind(("127.0.0.2", server.port))
                stranger.sendto(answer(query, EVIL), client)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind((server.host, 0))
                stranger.sendto(answer(query, EVIL), client)
            await asyncio.sleep(0.02)
            server.reply(answer(query), client)

        async with serving(do) as server:
            return await look_up(server)

    result = run(story())
    assert (result.addresses, result.ignored) == ((ip_address(GOOD),), 0)


def test_port_id_and_letter_case_change_with_every_query() -> None:
    async def story() -> Server:
        async with serving(ok) as server:
            asking = transport(server)
            for _ in range(60):
                await asking.look_up("www.example.org", Family.V4, 1.0)
            return server

    server = run(story())
    assert len(set(server.ports)) > 55
    assert len({query[:2] for query in server.queries}) > 55
    assert len({query[12:29] for query in server.queries}) > 55


TCP_ADDRESS = ip_address("198.51.100.99")


@pytest.mark.parametrize("do", [truncating, folding], ids=["truncated", "letter case folded"])
def test_tcp(do: Callable[..., Awaitable[None]]) -> None:
    async def story() -> tuple[Result, Server]:
        async with serving(do, framed) as server:
            return await look_up(server), server

    result, server = run(story())
    assert (result.addresses, server.over_tcp) == ((TCP_ADDRESS,), 1)


STREAMS: dict[str, Callable[[bytes], bytes | None] | None] = {
    "refuses": None,
    "hangs": lambda query: None,
    "ends early": lambda query: framed(query)[:-1],
    "says nothing": lambda query: b"",
    "is too long": lambda query: b"\xff\xff" + bytes(100),
    "answers something else": lambda query: b"\0\x20" + bytes(32),
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_truncated_and_tcp(stream: Callable[[bytes], bytes | None] | None) -> None:
    async def story() -> Result:
        async with serving(truncating, stream) as bad, serving(ok) as good:
            return await look_up(bad, good)

    result = run(story())
    assert result.addresses == (ip_address(GOOD),)
    assert result.duration < 2 * TRY


def test_tcp_connect_has_a_limit_of_its_own() -> None:
    async def story() -> Result:
        async with serving(truncating) as deaf, serving(ok) as good, AsyncExitStack() as stack:
            # A queue that is full: the kernel drops the next SYN, the connect hangs.
            deaf.tcp.listen(0)
            for _ in range(2):
                kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
                filler = stack.enter_context(socket.socket(type=kind))
                filler.connect_ex(("127.0.0.1", deaf.port))
            return await look_up(deaf, good)

    result = run(story())
    assert result.addresses == (ip_address(GOOD),)
    assert TRY <= result.duration < 2 * TRY


def test_a_server_that_folds_case_without_tcp_never_answers() -> None:
    async def story() -> Result:
        async with serving(folding) as server:
            return await look_up(server)

    result = run(story())
    assert (result.failure, result.ignored) == (Failure.UNREACHABLE, 2)


async def failing(server: Server, query: bytes, client: tuple[str, int]) -> None:
    server.reply(answer(query, rcode=2), client)


@pytest.mark.parametrize(
    ("do", "least"), [(failing, 0.0), (hole, TRY)], ids=["SERVFAIL", "black hole"]
)
def test_the_next_server(do: Callable[..., Awaitable[None]], least: float) -> None:
    async def story() -> tuple[Result, Server]:
        async with serving(do) as bad, serving(ok) as good:
            return await look_up(bad, good), good

    result, good = run(story())
    assert (result.addresses, result.server) == ((ip_address(GOOD),), good.address)
    assert least <= result.duration < least + 0.1


def test_a_closed_port_and_an_address_out_of_reach_are_passed_over_at_once() -> None:
    async def story() -> Result:
        async with serving(hole) as gone:
            closed = gone.address
        async with serving(ok) as good:
            # Broadcast without permission: the connect itself fails.
            forbidden = NameServer(address=ip_address("255.255.255.255"), port=good.port)
            return await look_up(forbidden, closed, good)

    result = run(story())
    assert result.addresses == (ip_address(GOOD),)
    assert result.duration < TRY


def test_nobody_within_reach() -> None:
    async def story() -> Result:
        return await look_up(NameServer(address=ip_address("255.255.255.255"), port=9))

    assert run(story()).failure is Failure.UNREACHABLE


@pytest.mark.parametrize(("total", "queries"), [(0.2, 2), (5.0, 4)])
def test_silence_ends_at_the_limit_or_after_all_tries(total: float, queries: int) -> None:
    async def story() -> tuple[Result, int]:
        async with serving(hole) as one, serving(hole) as two:
            result = await look_up(one, two, total=total)
            return result, len(one.queries) + len(two.queries)

    began = time.monotonic()
    result, seen = run(story())
    assert (result.failure, seen) == (Failure.TIMEOUT, queries)
    limit = min(total, 4 * TRY)
    assert limit <= result.duration <= time.monotonic() - began < limit + 0.15


def test_endless_aliases() -> None:
    async def looping(server: Server, query: bytes, client: tuple[str, int]) -> None:
        message = dns.message.make_response(dns.message.from_wire(query))
        owner = message.question[0].name
        message.answer.append(dns.rrset.from_text(owner, 77, "IN", "CNAME", "b.test."))
        message.answer.append(dns.rrset.from_text("b.test.", 77, "IN", "CNAME", str(owner)))
        server.reply(message.to_wire(), client)

    async def story() -> Result:
        async with serving(looping) as server:
            return await look_up(server)

    result = run(story())
    assert result.failure is Failure.MALFORMED
    assert result.duration < TRY


@pytest.mark.parametrize(("told", "ttl"), [(0, 5.0), (2**31 - 1, 86400.0)])
def test_ttl(told: int, ttl: float) -> None:
    async def telling(server: Server, query: bytes, client: tuple[str, int]) -> None:
        server.reply(answer(query, ttl=told), client)

    async def story() -> Result:
        async with serving(telling) as server:
            return await look_up(server)

    assert run(story()).ttl == ttl


def test_only_so_many_at_once() -> None:
    async def story() -> tuple[list[Result], Transport]:
        async with serving(hole) as server:
            asking = transport(server, in_flight=20)
            return await asyncio.gather(
                *(asking.look_up(f"n{i}.test.", Family.V4, 0.1) for i in range(25))
            ), asking

    results, asking = run(story())
    failures = [result.failure for result in results]
    assert failures.count(Failure.OVERLOAD) == asking.refused == 5
    assert failures.count(Failure.TIMEOUT) == 20
    assert asking.busy == 0


@pytest.mark.parametrize("stream", [None, lambda query: None], ids=["UDP", "TCP"])
def test_cancelled(stream: Callable[[bytes], bytes | None] | None) -> None:
    async def story() -> int:
        async with serving(truncating if stream else hole, stream) as server:
            asking = transport(server)
            task = asyncio.create_task(asking.look_up("www.example.org", Family.V4, 5.0))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return asking.busy

    # run() sees that no task and no descriptor is left.
    assert run(story()) == 0


def test_a_mistake_of_ours_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(LookUp, "tcp_answer", broken)

    async def story() -> None:
        async with serving(truncating, framed) as server:
            with pytest.raises(RuntimeError, match="a mistake"):
                await look_up(server)

    run(story())


def test_a_flood_of_forgeries_keeps_neither_the_answer_nor_the_loop() -> None:
    async def flooding(server: Server, query: bytes, client: tuple[str, int]) -> None:
        wrong = bytes([query[0] ^ 1]) + answer(query, EVIL)[1:]
        for _ in range(20):
            for _ in range(10):
                server.reply(wrong, client)
            await asyncio.sleep(0)
        server.reply(answer(query), client)

    async def story() -> Result:
        async with serving(flooding) as server:
            return await look_up(server)

    result = run(story())
    assert (result.addresses, result.ignored) == ((ip_address(GOOD),), 200)
