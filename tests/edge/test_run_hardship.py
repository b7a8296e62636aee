"""What the parent does when its surroundings fail: the bus hangs up, descriptors are gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from daemons import USER
from echo import Echo, clients, exchange
from host import free_port
from nameserver import NameServer
from proxy import Proxy, config, until
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.control_server import ControlServer
from udpproxy.process import wire
from udpproxy.process.logs import Logs
from udpproxy.supervisor.fork import START_LIMIT

ROLES = ("reg", "acr", "apr")


@contextlib.contextmanager
def bus_that_hangs_up(path: Path) -> Iterator[list[bytes]]:
    """Takes each connection, and ends it after what it has heard of it; what that was."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with sock:
                        heard.append(sock.recv(100))

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


def spent(pid: int) -> float:
    """Seconds of CPU that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> list[int]:
    return [int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()]


def limit_processes(pid: int, most: int) -> None:
    """Of USER's in all, where that one is to start another; only he may always say so."""
    become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    limit = "unlimited" if most == resource.RLIM_INFINITY else most
    subprocess.run([*become, "prlimit", f"--pid={pid}", f"--nproc={limit}:"], check=True)


def test_a_bus_that_hangs_up_stops_nothing(tmp_path: Path) -> None:
    with Echo() as echo, bus_that_hangs_up(tmp_path / "bus") as heard, clients(1) as (client,):
        port = free_port()
        with Proxy(tmp_path, config(port, str(echo))) as proxy:
            until(lambda: len(heard) >= 3)
            exchange(client, ("127.0.0.1", port), b"all the same")
            open_now = len(descriptors(proxy.pid))
            until(lambda: len(heard) >= 5)
            assert len(descriptors(proxy.pid)) <= open_now + 1
            assert proxy.info()["state"] == "running"


def test_without_descriptors_it_waits(tmp_path: Path) -> None:
    """It does not turn in a circle, and lets in who wants to once it can."""
    with Echo() as echo, clients(1) as (client,):
        port = free_port()
        with Proxy(tmp_path, config(port, str(echo))) as proxy:
            most = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
            highest = max(descriptors(proxy.pid))
            resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (highest + 1, most[1]))
            free = highest + 1 - len(descriptors(proxy.pid))
            with contextlib.ExitStack() as crowd:
                for _ in range(free + 3):
                    sock = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    sock.connect(str(proxy.runtime / "control.sock"))
                until(lambda: proxy.said("UDPS-205-W"))
                before, begun = spent(proxy.pid), time.monotonic()
                until(lambda: time.monotonic() > begun + 2)
                assert spent(proxy.pid) - before < 0.5
                exchange(client, ("127.0.0.1", port), b"relayed all the same")
                assert 1 <= len(proxy.said("UDPS-205-W")) <= 5
                resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, most)
            until(lambda: proxy.ctl("info").returncode == 0)


def test_a_child_that_cannot_be_started_for_a_while(tmp_path: Path) -> None:
    """Its user has as many processes as he may: sessions wait until he may have more."""
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    top = f'max-sessions = 10\nuser = "#{USER}"'
    with Echo() as echo, clients(1) as (client,):
        there = ("127.0.0.1", free_port())
        with Proxy(tmp_path / "one", config(there[1], str(echo), top=top)) as proxy:
            exchange(client, there, b"before")
            usual, _ = resource.getrlimit(resource.RLIMIT_NPROC)
            limit_processes(proxy.pid, 1)
            proxy.kill(signal.SIGKILL, "reg")
            until(lambda: proxy.said("UDPS-208-E reg cannot be started: Resource temporarily"))
            client.sendto(b"meanwhile", there)
            limit_processes(proxy.pid, usual)
            assert client.recv(100) == b"meanwhile"
            assert len(echo.sources) == 1


def test_reg_ends_while_there_are_no_descriptors(tmp_path: Path) -> None:
    """A start that fails for want of them is no end of REG, however often it fails."""
    with Echo() as echo, clients(1) as (client,):
        there = ("127.0.0.1", free_port())
        with Proxy(tmp_path, config(there[1], str(echo))) as proxy:
            exchange(client, there, b"before")
            most = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (3, most[1]))
            proxy.kill(signal.SIGKILL, "reg")
            until(lambda: proxy.said("UDPS-208-E"))
            deadline = time.monotonic() + 4
            until(lambda: time.monotonic() > deadline)
            assert len(proxy.said("UDPS-208-E")) == 1, "the reason is the same"
            resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, most)
            until(lambda: proxy.reg_pid)
            exchange(client, there, b"after")
            assert proxy.info()["reg-ends"] == 1
            assert len(echo.sources) == 1


def test_reg_comes_and_we_have_no_descriptors_for_it(tmp_path: Path) -> None:
    """What is lent needs some of ours: where just these lack, REG waits, and that is no end of it,
    nor of the resolvers, which come as well."""
    with Echo() as echo, clients(1) as (client,), NameServer() as zone:
        there = ("127.0.0.1", free_port())
        more = '[[session-acl]]\nname = "named"\nfrom = ["*.test"]\nplug-to = "x.test:9"\n'
        top = "max-sessions = 100\ncrash-limit = 100"
        text = config(there[1], str(echo), top=top, more=more + zone.section)
        with Proxy(tmp_path, text) as proxy:
            exchange(client, there, b"before")
            most = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
            for kills, free in enumerate(range(4), 1):
                used = descriptors(proxy.pid)
                limit = next(
                    each for each in range(max(used) + 9)
                    if each - sum(fd < each for fd in used) > free
                )  # fmt: skip
                children = [pid for pid, role in proxy.processes().items() if role in ROLES]
                assert len(children) == len(ROLES)
                resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (limit, most[1]))
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                waits = time.monotonic() + 1.2
                time.sleep(max(0.0, waits - time.monotonic()))
                resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, most)
                exchange(client, there, b"after")
                until(lambda: {proxy.info()[f"{role}-state"] for role in ROLES} == {"ready"})
                assert {proxy.info()[f"{role}-ends"] for role in ROLES} == {kills}
                until(lambda: proxy.info("reg")["names-known"] == 0)
            assert proxy.said("UDPS-226-E")
            zone.host("x.test", "127.0.0.1")
            assert proxy.ctl("resolve-now").returncode == 0
            until(lambda: proxy.info("reg")["names-known"] == 1)
            assert len(echo.sources) == 1


class Childless:
    """No process is a child."""

    def vouch(self, pid: int, uid: int) -> str:
        """See Family."""
        return ""

    def admit(self, role: str, pid: int) -> bool | None:
        """See Family."""
        return False

    def entered(self, child: ChildConnection) -> None:
        """See Family."""

    def heard(self, child: ChildConnection, news: wire.Tell) -> None:
        """See Family."""

    def left(self, child: ChildConnection) -> None:
        """See Family."""


class Broken:
    """Every command meets a mistake of ours."""

    async def perform(self, verb: str, arguments: dict[str, wire.Plain]) -> wire.Plain:
        """See Performer."""
        raise RuntimeError("a mistake of ours")


def test_a_command_that_breaks_is_answered(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A mistake of ours must not leave whoever asked without a word."""

    async def ask() -> wire.Message:
        door = ControlServer(
            Logs("udp-proxy/one"), tmp_path, shared=False, family=Childless(), performer=Broken()
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(tmp_path / "control.sock"))
            sock.settimeout(0)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, wire.encode(wire.Ask(7, "reload", {})))
            packet = await asyncio.wait_for(loop.sock_recv(sock, wire.LARGEST), 10)
        await door.close()
        return wire.decode(packet)

    answer = asyncio.run(ask())
    assert answer == wire.Answer(7, error="internal error, see the log")
    assert "a mistake of ours" in capfd.readouterr().err


FEW = """
import os, resource, sys
if os.path.exists({here!r} + "/few") and sys.orig_argv[-3:-1] == ["udpproxy.child", "reg"]:
    from udpproxy.process import privileges
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
    privileges.raise_descriptor_limit = lambda: (400, "")
"""
"""Python runs it before anything else in each process."""


@pytest.mark.parametrize("engine", NAMES)
def test_reg_comes_and_has_no_descriptors(tmp_path: Path, engine: str) -> None:
    """It waits for them instead of ending: none of its sockets becomes another session's."""
    with Echo() as echo, clients(2) as (client, other):
        there = ("127.0.0.1", free_port())
        top = f'max-sessions = 600\nengine = "{engine}"'
        (tmp_path / "sitecustomize.py").write_text(FEW.format(here=str(tmp_path)))
        proxy = Proxy(tmp_path, config(there[1], str(echo), top=top))
        proxy.environment["PYTHONPATH"] = str(tmp_path)
        with proxy:
            exchange(client, there, b"before")
            exchange(other, there, b"before")
            most = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
            (tmp_path / "few").touch()
            old = proxy.kill(signal.SIGKILL, "reg")
            (said,) = until(lambda: proxy.said("UDPS-225-E"))
            assert "max-sessions = 600 needs 665 descriptors, the limit is 400:" in said
            reg = until(lambda: proxy.reg_pid)
            assert reg != old
            deadline = time.monotonic() + START_LIMIT + 3
            until(lambda: time.monotonic() > deadline, limit=START_LIMIT + 10)
            assert proxy.reg_pid == reg, "it gives its sign of life"
            assert proxy.info()["reg-state"] == "starting"
            for sock in (client, other):
                sock.sendto(b"meanwhile", there)
            resource.prlimit(reg, resource.RLIMIT_NOFILE, most)
            assert [sock.recv(100) for sock in (client, other)] == [b"meanwhile"] * 2
            exchange(client, there, b"after")
            info = proxy.info()
            assert (info["reg-ends"], info["reg-state"], info["sessions"]) == (1, "ready", 2)
            assert len(proxy.said("UDPS-225-E")) == 1
            assert len(echo.sources) == 2
            assert proxy.stop() == 0


@pytest.mark.parametrize("engine", NAMES)
def test_a_reload_that_reg_has_no_descriptors_for(tmp_path: Path, engine: str) -> None:
    """It is refused, and nothing has changed."""
    with Echo() as echo, Echo("::1") as other, clients(1) as (client,):
        there = ("127.0.0.1", free_port())
        top = f'max-sessions = 600\nengine = "{engine}"'
        rule = f'\n[[session-acl]]\nname = "six"\nplug-to = "{other}"\n'
        six = f'[[listen]]\naddress = "::1"\nport = {free_port("::1")}\n{rule}'
        text = config(there[1], str(echo), top=top)
        with Proxy(tmp_path, text) as proxy:
            exchange(client, there, b"before")
            most = resource.prlimit(proxy.reg_pid, resource.RLIMIT_NOFILE)
            opened = len(descriptors(proxy.reg_pid))
            resource.prlimit(proxy.reg_pid, resource.RLIMIT_NOFILE, (opened + 300, most[1]))
            proxy.write(f"{text}\n{six}")
            for _ in range(3):
                done = proxy.ctl("reload")
                assert done.returncode == 1
                assert "reg can open 300 more and needs 950: raise the limit" in done.stderr
                exchange(client, there, b"as before")
            assert len(descriptors(proxy.reg_pid)) == opened
            resource.prlimit(proxy.reg_pid, resource.RLIMIT_NOFILE, most)
            assert proxy.ctl("reload").returncode == 0
            exchange(client, there, b"after")
            assert len(echo.sources) == 1
            assert proxy.info()["reg-ends"] == 0
