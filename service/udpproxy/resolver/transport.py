"""Runs look-ups: the sockets and the timer around machine.LookUp, in asyncio.

- Each UDP try has a socket of its own, connected, its port chosen at random by the kernel: the
  kernel refuses other senders. One that slipped in before the connect is told by its address.
- Nothing blocks; whatever ends a look-up, cancellation too, closes all it opened.
- More than `in_flight` at once: an immediate failure, so that no flood of strangers' names can
  use up descriptors.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque

from udpproxy.config.model import Address, NameServer, Resolver
from udpproxy.resolver import guard
from udpproxy.resolver.machine import Action, CloseSockets, ConnectTcp, Done, LookUp, SendUdp
from udpproxy.resolver.question import Wanted, forward, reverse
from udpproxy.resolver.result import Failure, Family, Result

_BATCH = 16
"""Datagrams read at one wake-up: a flood must not keep the loop from its timers."""
_PREFIX = 2


class Transport:
    """resolver has its servers: system.complete() came before."""

    def __init__(self, resolver: Resolver, *, in_flight: int) -> None:
        self._resolver = resolver
        self._limit = in_flight
        self._rng = secrets.SystemRandom()
        self.busy = 0
        self.refused = 0

    async def look_up(self, name: str, family: Family, total: float) -> Result:
        """The addresses of a name; total seconds for all of it."""
        return await self._run(forward(name, self._resolver.search, family), total)

    async def look_up_address(self, address: Address, total: float) -> Result:
        """The names of an address, unverified: its owner writes what he likes."""
        return await self._run(reverse(address), total)

    async def _run(self, wanted: Wanted, total: float) -> Result:
        if self.busy >= self._limit:
            self.refused += 1
            return Result(name=wanted.text, failure=Failure.OVERLOAD)
        machine = LookUp(wanted, self._resolver, total, self._rng)
        run = _Run(machine, self._resolver.servers)
        self.busy += 1
        try:
            return await run.finished()
        finally:
            self.busy -= 1
            await run.closed()


class _Run:
    """One look-up's sockets; performs the machine's actions, hands it what happens."""

    def __init__(self, machine: LookUp, servers: tuple[NameServer, ...]) -> None:
        self._machine = machine
        self._servers = servers
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[Result] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._udp: socket.socket | None = None
        self._tcp: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def finished(self) -> Result:
        self._perform(self._machine.started(self._loop.time()))
        return await self._result

    async def closed(self) -> None:
        self._close()
        if self._timer is not None:
            self._timer.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            # Not the network's (those are tcp_failed): a mistake of ours, which must be seen.
            if isinstance(outcome, Exception):
                raise outcome

    def _perform(self, actions: list[Action]) -> None:
        queue = deque(actions)
        while queue:
            match queue.popleft():
                case SendUdp(server, data):
                    queue.extend(self._send(server, data))
                case ConnectTcp(server, data):
                    self._tcp = self._loop.create_task(self._converse(server, data))
                    self._tasks.append(self._tcp)
                case CloseSockets():
                    self._close()
                case Done(result) if not self._result.done():
                    self._result.set_result(result)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._machine.deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._perform(self._machine.timer(self._loop.time()))

    def _send(self, server: int, data: bytes) -> list[Action]:
        family, address = _endpoint(self._servers[server])
        try:
            self._udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._udp.connect(address)
            self._udp.send(data)
        except OSError:
            return self._machine.unreachable(self._loop.time(), server)
        self._loop.add_reader(self._udp, self._readable, self._udp, server)
        return []

    def _readable(self, udp: socket.socket, server: int) -> None:
        for _ in range(_BATCH):
            try:
                data, sender = udp.recvfrom(guard.UDP_LIMIT + 1)
                expected = udp.getpeername()
            except BlockingIOError:
                return
            except OSError:
                self._perform(self._machine.unreachable(self._loop.time(), server))
                return
            if sender == expected:
                self._perform(self._machine.datagram(self._loop.time(), server, data))
            if self._udp is not udp:
                return

    async def _converse(self, server: int, data: bytes) -> None:
        family, address = _endpoint(self._servers[server])
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as tcp:
                await self._loop.sock_connect(tcp, address)
                self._perform(self._machine.tcp_connected(self._loop.time(), server))
                await self._loop.sock_sendall(tcp, len(data).to_bytes(_PREFIX, "big") + data)
                answer = await self._message(tcp)
        except OSError:
            self._tcp = None
            self._perform(self._machine.tcp_failed(self._loop.time(), server))
        else:
            self._tcp = None
            self._perform(self._machine.tcp_answer(self._loop.time(), server, answer))

    async def _message(self, tcp: socket.socket) -> bytes:
        size = int.from_bytes(await self._exactly(tcp, _PREFIX), "big")
        if size > guard.TCP_LIMIT:
            raise ConnectionError("the answer is too long")
        return await self._exactly(tcp, size)

    async def _exactly(self, tcp: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = await self._loop.sock_recv(tcp, size - len(data))
            if not part:
                raise ConnectionError("the server closed in mid-answer")
            data += part
        return data

    def _close(self) -> None:
        if self._udp is not None:
            self._loop.remove_reader(self._udp)
            self._udp.close()
            self._udp = None
        if self._tcp is not None:
            # The task closes its own socket, after the loop has let go of it.
            self._tcp.cancel()
            self._tcp = None


def _endpoint(server: NameServer) -> tuple[socket.AddressFamily, tuple[str, int]]:
    family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6
    return family, (str(server.address), server.port)
