"""A reload as a transaction: a fault at any step changes nothing, and the next one mends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import cast

import pytest

from host import free_port, is_bound
from udpproxy.errors import InvalidArgument
from udpproxy.instance.children import Children
from udpproxy.instance.commands import Lifecycle
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.options import Mode, RunOptions
from udpproxy.instance.reload import reload
from udpproxy.process import notify, wire
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import Account
from udpproxy.proxy.config import load
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.parent.service import ProxyService
from udpproxy.proxy.product import PROXY


class Family:
    """The children as a reload meets them."""

    def __init__(self) -> None:
        self.started = 0

    def judge(self) -> None:
        """None has a life to be judged."""

    def follow(self) -> None:
        """Counted: the last step."""
        self.started += 1


class Lab:
    """A parent and its service, with two free ports besides the one that is listened on."""

    word = "running"

    def __init__(self, directory: Path, mode: Mode = Mode.FORK) -> None:
        self.first, self.second, self.third = free_port(), free_port(), free_port()
        self.directory = directory
        self.path = directory / "one.toml"
        self.logs = Logs("test")
        # sdnotify leaves a socket open where nobody listens.
        self.notifier = Notifier() if mode is Mode.UNITS else cast(Notifier, None)
        self.options = RunOptions(
            instance="one",
            path=self.path,
            directory=directory,
            mode=mode,
            session_bus=False,
            account=Account(None, None),
            keep=None,
        )
        self.peers: dict[str, ChildConnection] = {}
        self.discarded: list[str] = []
        config = self.write([self.first])
        self.logs.configure(config.log)
        self.runner = asyncio.Runner()
        self.service = self.runner.run(self._serve(config))
        self.resources = self.service._resources
        self.family = Family()

    async def _serve(self, config: Config) -> ProxyService:
        return ProxyService(self, config, self.path.read_text(), self.path)

    def discard(self, child: ChildConnection, why: str) -> None:
        """It is to be replaced."""
        self.discarded.append(why)
        child.link.fail(why)

    def announce(self, member: str, signature: str, body: list[object]) -> None:
        """Nobody listens."""

    def stored_more(self) -> None:
        """No systemd counts it."""

    async def ask(self, role: str, verb: str, arguments: dict[str, wire.Plain]) -> wire.Plain:
        """Nobody asks."""
        raise AssertionError(verb)

    def write(
        self, ports: list[int], *, server: str = "127.0.0.1", log: str = "log", copies: str = ""
    ) -> Config:
        """The file; `copies` are who gets them."""
        mirrors = f"mirror-to = {copies.split()}\n" if copies else ""
        listeners = "".join(f'[[listen]]\naddress = "127.0.0.1"\nport = {port}\n' for port in ports)
        self.path.write_text(
            f"max-sessions = 4\n{listeners}"
            f'[[session-acl]]\nname = "all"\nplug-to = "{server}:9"\n{mirrors}'
            f'[log]\ntarget = "file"\nfile = "{self.directory}/{log}"\n'
        )
        return load.parse(self.path.read_text(), str(self.path))

    async def reload(self) -> int:
        """As a command does it; how many sessions it ended."""
        answer = await reload(
            self.logs, PROXY, self.options, self.service, cast(Children, self.family),
            cast(Lifecycle, self),
        )  # fmt: skip
        assert isinstance(answer, dict)
        return int(str(answer["sessions-ended"]))

    def state(self) -> tuple[object, ...]:
        """All that a reload may change."""
        return (
            self.service.config,
            dict(self.resources.listeners.by_place),
            self.resources.generation,
            self.resources._rows.families(),
            dict(self.resources.mirrors._sockets),
            [is_bound(port) for port in (self.first, self.second, self.third)],
            len(list(Path("/proc/self/fd").iterdir())),
            self.logs.target,
            self.family.started,
        )

    def close(self) -> None:
        """Nothing stays open."""
        self.service.close()
        self.runner.close()
        self.logs.close()
        if self.notifier:
            self.notifier._notifier.socket.close()
        del self.service, self.resources  # and with them the table's memory


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with contextlib.closing(Lab(tmp_path)) as lab:
        yield lab


@contextlib.contextmanager
def no_log(lab: Lab) -> Iterator[None]:
    """The log file cannot be opened."""
    ports = [lab.first, lab.second, lab.third]
    lab.write(ports, server="::1", log="nowhere/log", copies="127.0.0.7 ::1")
    yield


@contextlib.contextmanager
def taken(lab: Lab) -> Iterator[None]:
    """The second new listener cannot be had."""
    ports = [lab.first, lab.second, lab.third]
    lab.write(ports, server="::1", log="other", copies="127.0.0.7 ::1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", lab.third))
        yield


_ENOUGH = 100
"""The configuration could do with so many, if they were free."""


def few_descriptors(
    spare: int, server: str, copies: str = ""
) -> Callable[[Lab], AbstractContextManager[None]]:
    """Only so many descriptors are left."""

    @contextlib.contextmanager
    def limited(lab: Lab) -> Iterator[None]:
        ports = [lab.first, lab.second, lab.third]
        lab.write(ports, server=server, log="other", copies=copies)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        with ExitStack() as stack:
            highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
            while lowest < max(highest, _ENOUGH):
                lowest = os.dup(0)
                stack.callback(os.close, lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1 + spare, before[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)

    return limited


FAULTS = [
    no_log,
    taken,
    *(few_descriptors(spare, "127.0.0.1") for spare in range(3)),
    *(few_descriptors(spare, "::1") for spare in range(6)),
    *(few_descriptors(spare, "127.0.0.1", "127.0.0.7 ::1") for spare in range(5)),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_nothing_and_the_next_reload_mends_it(
    lab: Lab, fault: Callable[[Lab], AbstractContextManager[None]]
) -> None:
    async def run() -> None:
        before = lab.state()
        with fault(lab), pytest.raises(InvalidArgument):
            await lab.reload()
        assert lab.state() == before
        lab.write([lab.first, lab.second, lab.third], server="::1", log="other")
        assert await lab.reload() == 0
        assert [place.port for place in lab.resources.listeners.by_place] == [
            lab.first,
            lab.second,
            lab.third,
        ]
        assert lab.family.started == 1

    lab.runner.run(run())


def test_more_than_the_limit_of_descriptors(lab: Lab) -> None:
    """Else the next REG could not start."""

    async def run() -> None:
        lab.write([lab.first, lab.second, lab.third])
        before, state = resource.getrlimit(resource.RLIMIT_NOFILE), lab.state()
        resource.setrlimit(resource.RLIMIT_NOFILE, (70, before[1]))
        try:
            with pytest.raises(InvalidArgument, match="needs 71 descriptors, the limit is 70"):
                await lab.reload()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert lab.state() == state

    lab.runner.run(run())


def test_a_store_that_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd hangs: no listener that would be lost with us, and the port is free again."""
    monkeypatch.setattr(notify, "_PATIENCE", 0.1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, ExitStack() as stack:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0)
        lab = stack.enter_context(contextlib.closing(Lab(tmp_path, Mode.UNITS)))

        async def run() -> None:
            before = lab.state()
            # One alone has too small a buffer where systemd has made queues longer.
            for _ in range(8):
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crowd:
                    crowd.settimeout(0)
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            crowd.sendto(b"full", str(tmp_path / "notify"))
            lab.write([lab.first, lab.second])
            with pytest.raises(InvalidArgument, match="systemd's store: timed out"):
                await lab.reload()
            with contextlib.suppress(BlockingIOError):
                while True:
                    systemd.recv(1000)
            assert lab.state() == before
            assert await lab.reload() == 0
            assert is_bound(lab.second)

        lab.runner.run(run())


@pytest.mark.parametrize(
    "answer", ["text", [], {"a": 1}, -1, (1 << 32) + 1, 1 << 70, True, None, 1.5, "no", "sessions"]
)
def test_a_nonsense_answer_costs_the_child(lab: Lab, answer: wire.Plain) -> None:
    """REG's, to a reload: the reload is completed, and the next REG has all of it."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def received(link: Link, message: wire.Message, descriptors: list[int]) -> None:
            for fd in descriptors:
                os.close(fd)
            if isinstance(message, wire.Ask):
                link.send(wire.Answer(message.number, answer))

        def answered(link: Link, message: wire.Message, descriptors: list[int]) -> None:
            assert isinstance(message, wire.Answer)
            lab.peers["reg"].answered(message)

        def closed(link: Link, reason: str) -> None:
            lab.peers.clear()

        nothing = lambda link, what: None  # noqa: E731
        reg = Link(loop, its, received=received, closed=lambda *_: None, failed=nothing)
        ours_link = Link(loop, ours, received=answered, closed=closed, failed=nothing)
        try:
            lab.peers["reg"] = ChildConnection("reg", ours_link)
            lab.resources.send_all(ours_link)
            lab.write([lab.first, lab.second])
            assert await lab.reload() == 0
            assert len(lab.discarded) == 1
            assert lab.family.started == 1
            assert is_bound(lab.second)
        finally:
            reg.close()
            ours_link.close()

    lab.runner.run(run())
