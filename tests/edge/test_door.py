"""The parent's two sockets: who may come in, who may command, and that no command, wrong, late or
of somebody who has gone, costs more than its answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.instance import gate
from udpproxy.instance.connection import ChildConnection, ChildLost
from udpproxy.instance.control_server import ControlServer
from udpproxy.process import wire
from udpproxy.process.logs import Logs
from udpproxy.supervisor.fork import ForkSupervisor
from udpproxy.supervisor.lifecycle import RestartPolicy

NOBODY = 65534


class World:
    """A door, and what came through it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.role = "reg"
        """Whose role `pid` may have."""
        self.pid = os.getpid()
        self.vacant: bool | None = True
        self.peers: list[ChildConnection] = []
        self.gone: list[ChildConnection] = []
        self.told: list[wire.Tell] = []
        self.performed = 0
        self.broken: list[object] = []
        self.gate = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: self.broken.append(context)
        )
        self.door = ControlServer(
            Logs("udp-proxy/one"), directory, shared=False, family=self, performer=self
        )

    def vouch(self, pid: int, uid: int) -> str:
        """As Children, and what follows."""
        return self.role if pid == self.pid else ""

    def admit(self, role: str, pid: int) -> bool | None:
        return self.vacant

    def entered(self, child: ChildConnection) -> None:
        self.peers.append(child)

    def left(self, child: ChildConnection) -> None:
        self.gone.append(child)

    def heard(self, child: ChildConnection, news: wire.Tell) -> None:
        if news.what == "break":
            raise KeyError("a mistake of ours")
        self.told.append(news)

    async def perform(self, verb: str, args: dict[str, wire.Plain]) -> wire.Plain:
        self.performed += 1
        if args.get("late"):
            await self.gate.wait()
        match verb:
            case "refused":
                raise InvalidArgument(f"no: {args}")
            case "lost":
                raise LinkError("reg does not answer")
            case "broken":
                raise RuntimeError("a mistake of ours")
            case "rows":
                return [{"row": "x" * 1000}] * 2000
            case "large":
                return "x" * 2 * wire.LARGEST
            case "info":
                return {"pid": os.getpid()}
        raise InvalidArgument(f"no verb {verb!r}")

    async def connect(self, name: str, *, child: bool = False) -> socket.socket:
        """As a child where its socket is, and as somebody else at the other."""
        self.pid = os.getpid() if name == "children.sock" or child else 0
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(0)
        await asyncio.get_running_loop().sock_connect(sock, str(self.directory / name))
        for _ in range(5):  # it is accepted
            await asyncio.sleep(0)
        return sock

    async def ask(self, verb: str, args: dict[str, wire.Plain] | None = None) -> wire.Answer:
        with await self.connect("control.sock") as sock:
            sock.send(wire.encode(wire.Ask(1, verb, args or {})))
            return await answer(sock)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def answer(sock: socket.socket) -> wire.Answer:
    packet = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, wire.LARGEST), 10)
    message = wire.decode(packet)
    assert isinstance(message, wire.Answer)
    return message


async def ended(sock: socket.socket) -> bool:
    """Has the parent closed it?"""
    with contextlib.suppress(ConnectionResetError):
        loop = asyncio.get_running_loop()
        return not await asyncio.wait_for(loop.sock_recv(sock, wire.LARGEST), 10)
    return True


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of the other side, and no event to wait for
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[World]:
    world = World(directory)
    try:
        yield world
    finally:
        world.gate.set()
        await world.door.close()
        assert world.broken == []


def lived(directory: Path, story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with opened(directory) as world:
            await story(world)

    asyncio.run(run())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("verb", ["refused", "lost", "rows", "large", "info", "nonsense"])
def test_whoever_asked_has_gone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], verb: str, *, late: bool
) -> None:
    async def story(world: World) -> None:
        for _ in range(3):
            with await world.connect("control.sock") as sock:
                sock.send(wire.encode(wire.Ask(1, verb, {"late": late})))
        await until(lambda: world.performed == 3)
        await asyncio.sleep(0.05)
        world.gate.set()
        assert (await world.ask("info")).value == {"pid": os.getpid()}

    lived(tmp_path, story)
    assert "UDPS-530" not in capfd.readouterr().err


def test_a_long_word_is_refused_in_short(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def story(world: World) -> None:
        for _ in range(30):
            await world.ask("nonsense")
        refusal = await world.ask("\u00e9" * 30_000)
        assert refusal.error
        assert len(refusal.error) <= wire.MOST_TEXT
        large = await world.ask("large")
        assert large.error == "the answer is too large"

    lived(tmp_path, story)
    said = capfd.readouterr().err.splitlines()
    assert max(map(len, said)) < 2000
    assert 20 <= len(said) < 30, "of many a second not each is said"


def test_who_asks_too_much_at_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with await world.connect("control.sock") as sock:
            for number in range(30):
                sock.send(wire.encode(wire.Ask(number, "info", {"late": True})))
            for _ in range(14):
                assert (await answer(sock)).error == "too many commands at once"
            assert world.performed == 16
            world.gate.set()
            for _ in range(16):
                assert (await answer(sock)).error is None

    lived(tmp_path, story)


def test_a_child_and_what_it_may(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            sock.send(wire.encode(wire.Tell("ready")))
            await until(lambda: world.told)
            assert [peer.role for peer in world.peers] == ["reg"]
            sock.send(wire.encode(wire.Ask(1, "info")))
            assert await ended(sock)
        assert world.gone == world.peers
        assert world.performed == 0

    lived(tmp_path, story)


@pytest.mark.parametrize(
    "message",
    [wire.Ask(1, "info"), wire.Tell("ready"), wire.Hello("ctl", "x"), wire.Hello("apr", "x")],
)
def test_the_first_word_of_a_child(tmp_path: Path, message: wire.Message) -> None:
    """Hello, in the very role that it may have."""

    async def story(world: World) -> None:
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(message))
            assert await ended(sock)
        assert world.peers == []
        assert world.performed == 0

    lived(tmp_path, story)


def test_a_role_that_is_taken(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.vacant = False
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            assert await ended(sock)
        assert world.peers == []

    lived(tmp_path, story)


def test_a_child_that_comes_as_the_proxy_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its unit is being stopped with ours: nothing to say a word about."""

    async def story(world: World) -> None:
        world.vacant = None
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            assert await ended(sock)
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("acr", "x")))  # which it is not
            assert await ended(sock)
        assert world.peers == []
        assert world.door.refused == 1

    lived(tmp_path, story)
    said = capfd.readouterr().err.splitlines()
    assert [line.partition(": ")[2].split()[0] for line in said] == ["UDPS-205-W", "UDPS-212-E"]


def test_a_process_that_is_no_child(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def story(world: World) -> None:
        world.role = ""
        with await world.connect("children.sock") as sock:
            assert await ended(sock)
        assert world.door.refused == 1

    lived(tmp_path, story)
    assert "is no child of ours" in capfd.readouterr().err


@pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 5), reason="the kernel cannot tell"
)
def test_the_number_of_one_that_has_ended(tmp_path: Path) -> None:
    """It may be a child's by now, but the connection is not: whoever made it passed it on."""

    async def story(world: World) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            world.pid = os.fork()
            if not world.pid:
                sock.connect(str(tmp_path / "children.sock"))
                os._exit(0)
            os.waitpid(world.pid, 0)  # noqa: ASYNC222 - the parent is not to see it before
            sock.settimeout(0)
            sock.send(wire.encode(wire.Hello("reg", "x")))
            assert await ended(sock)
        assert world.peers == []

    lived(tmp_path, story)


def test_a_child_has_one_link(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with await world.connect("children.sock") as first:
            first.send(wire.encode(wire.Hello("reg", "x")))
            await until(lambda: world.peers)
            for _ in range(100):
                with await world.connect("children.sock") as second:
                    # At once, not as one that says nothing.
                    async with asyncio.timeout(gate.SILENCE / 2):
                        assert await ended(second)
            assert len(world.peers) == 1
            assert world.gone == []
        await until(lambda: world.gone)
        with await world.connect("children.sock") as first:
            first.send(wire.encode(wire.Hello("reg", "x")))
            await until(lambda: len(world.peers) == 2)

    lived(tmp_path, story)


@pytest.mark.parametrize("message", [wire.Hello("reg", "x"), wire.Tell("ready"), wire.Answer(1)])
def test_ctl_is_no_child(tmp_path: Path, message: wire.Message) -> None:
    async def story(world: World) -> None:
        with await world.connect("control.sock") as sock:
            sock.send(wire.encode(message))
            assert await ended(sock)
        assert world.peers == []

    lived(tmp_path, story)


def test_a_child_at_the_other_socket(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def story(world: World) -> None:
        with await world.connect("control.sock", child=True) as sock:
            assert await ended(sock)
        assert (await world.ask("info")).error is None

    lived(tmp_path, story)
    assert "is reg, and commands nothing" in capfd.readouterr().err


def test_a_mistake_of_ours_with_a_child_costs_the_child(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            sock.send(wire.encode(wire.Tell("break")))
            assert await ended(sock)
        assert (await world.ask("info")).error is None

    lived(tmp_path, story)


@pytest.mark.skipif(os.getuid() != 0, reason="another user is needed")
def test_a_stranger_commands_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Even where the directory and the socket's mode let him in."""
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    program = (
        "import os, socket, sys; os.setuid(65534); "
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); "
        """s.send(b'{"":"ask","number":1,"verb":"info"}'); print(s.recv(100))"""
    )

    async def story(world: World) -> None:
        path = tmp_path / "control.sock"
        path.chmod(0o666)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(path), stderr=asyncio.subprocess.PIPE
        )
        await process.communicate()
        assert world.performed == 0
        assert world.door.refused == 1

    lived(tmp_path, story)
    assert f"uid {NOBODY} is neither root nor ours" in capfd.readouterr().err


def test_those_who_say_nothing_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "SILENCE", 0.5)

    async def story(world: World) -> None:
        with contextlib.ExitStack() as stack:
            waits = stack.enter_context(await world.connect("control.sock"))
            waits.send(wire.encode(wire.Ask(1, "info", {"late": True})))
            silent = [
                stack.enter_context(await world.connect(name))
                for name in ("children.sock", "control.sock")
            ]
            assert all([await ended(sock) for sock in silent])
            world.gate.set()
            assert (await answer(waits)).error is None, "whoever waits for us is not silent"
            assert await ended(waits), "and has said nothing since"

    lived(tmp_path, story)


def test_many_connections_keep_nobody_out(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with contextlib.ExitStack() as stack:
            before = open_descriptors()
            silent = [stack.enter_context(await world.connect("control.sock")) for _ in range(300)]
            assert (await world.ask("info")).error is None
            ours = open_descriptors() - before - len(silent)
            assert ours <= gate.MOST
            await until(lambda: world.door.refused >= 300 - gate.MOST)

    lived(tmp_path, story)


def test_many_that_wait_are_not_thrown_out(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with contextlib.ExitStack() as stack:
            waiting = []
            for _ in range(gate.MOST):
                waiting.append(stack.enter_context(await world.connect("control.sock")))
                waiting[-1].send(wire.encode(wire.Ask(1, "info", {"late": True})))
            await until(lambda: world.performed == gate.MOST)
            with await world.connect("control.sock") as late:
                assert await ended(late)
            world.gate.set()
            for sock in waiting:
                assert (await answer(sock)).error is None

    lived(tmp_path, story)


class Unheard:
    """Nobody hears what becomes of children."""

    def dismiss(self, role: str) -> None:
        """See ChildEvents."""

    def given_up(self, role: str) -> None:
        """See ChildEvents."""

    def ended_unasked(self, role: str, *, killed: bool | None) -> None:
        """See ChildEvents."""


def test_the_fork_supervisor_knows_its_processes(tmp_path: Path) -> None:
    async def run() -> None:
        supervisor = ForkSupervisor(
            Logs("udp-proxy/one"), "udpproxy.child", "one", tmp_path, Unheard()
        )
        supervisor.start("reg", RestartPolicy(limit=4, window=60, stop_on_death=False))
        try:
            pid = supervisor.children()["reg"].pid
            assert supervisor.vouch(pid, os.getuid()) == "reg"
            assert supervisor.vouch(pid, os.getuid() + 1) == ""
            assert supervisor.vouch(os.getpid(), os.getuid()) == ""
            assert supervisor.knows("reg", pid)
            assert not supervisor.knows("reg", os.getpid())
            assert not supervisor.knows("acr", pid)
        finally:
            await supervisor.stop(5.0)
            supervisor.close()
        assert supervisor.vouch(0, os.getuid()) == ""
        assert not supervisor.knows("reg", 0)

    asyncio.run(run())


def test_a_question_to_one_that_leaves_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the look whether it is there, before the question is sent."""

    async def story(world: World) -> None:
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            await until(lambda: world.peers)
            link = world.peers[0].link
            send = link.send

            def late(message: wire.Message) -> None:
                sock.close()
                send(message)

            monkeypatch.setattr(link, "send", late)
            with pytest.raises(ChildLost):
                await world.peers[0].ask("kill", {"session": 1})

    lived(tmp_path, story)


def test_a_question_to_one_that_falls(tmp_path: Path) -> None:
    """It may have fallen by the question: only one that has not read it is replaced."""

    async def story(world: World) -> None:
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            await until(lambda: world.peers)
            asked = asyncio.ensure_future(world.peers[0].ask("kill", {"session": 1}))
            await asyncio.get_running_loop().sock_recv(sock, 1000)
        with pytest.raises(LinkError, match="while it was asked") as caught:
            await asked
        assert not isinstance(caught.value, ChildLost)

        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            await until(lambda: len(world.peers) == 2)
        with pytest.raises(ChildLost):
            await world.peers[1].ask("kill", {"session": 1})

        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            await until(lambda: len(world.peers) == 3)
            asked = asyncio.ensure_future(world.peers[2].ask("kill", {"session": 1}))
            await asyncio.sleep(0)  # it is there, and nobody has read it
        with pytest.raises(ChildLost):
            await asked

        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            await until(lambda: len(world.peers) == 4)
            both = [asyncio.ensure_future(world.peers[3].ask("info", {})) for _ in range(2)]
            await asyncio.get_running_loop().sock_recv(sock, 1000)
        for one in both:
            with pytest.raises(LinkError, match="while it was asked") as caught:
                await one
            assert not isinstance(caught.value, ChildLost)

    lived(tmp_path, story)


def test_nobody_hears_that_a_child_has_gone(tmp_path: Path) -> None:
    """Whoever asked was called off: a future that nobody looks at is no mistake."""

    async def story(world: World) -> None:
        with await world.connect("children.sock") as sock:
            sock.send(wire.encode(wire.Hello("reg", "x")))
            await until(lambda: world.peers)
            peer = world.peers[0]
            peer._asked[99] = asyncio.get_running_loop().create_future()
        await until(lambda: world.gone)
        del peer._asked[99]

    lived(tmp_path, story)
