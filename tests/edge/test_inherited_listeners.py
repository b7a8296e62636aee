"""Listeners that somebody had before: an end that made them deaf, or a REG gone bad."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from built import NAMES, WITHOUT
from echo import Echo, clients, exchange, udp
from grasp import of_process
from host import free_port
from proxy import Proxy, command, config, until
from steered import KEY, got, steered
from stored import Units
from udpproxy.proxy.config.model import Place
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.engine.pool import make_carrier
from udpproxy.proxy.parent.listening import RECEIVE_BUFFER, refuse_all
from udpproxy.proxy.parent.mending import Spoilt, empty, mend
from udpproxy.proxy.parent.shelf import pack

_SO_ATTACH_FILTER, _SO_LOCK_FILTER, _UDP_CORK, _IP_MINTTL = 26, 44, 1, 21


def connect(sock: socket.socket) -> None:
    sock.connect(("::1" if sock.family == socket.AF_INET6 else "127.0.0.1", 9))


def deafen_for_good(sock: socket.socket) -> None:
    refuse_all(sock)
    sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)


def shut(sock: socket.socket) -> None:
    sock.connect(sock.getsockname())
    sock.shutdown(socket.SHUT_RDWR)


def shut_half(sock: socket.socket) -> None:
    sock.connect(sock.getsockname())
    sock.shutdown(socket.SHUT_WR)


def block(sock: socket.socket) -> None:
    sock.settimeout(None)


def shrink(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)


def cork(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_UDP, _UDP_CORK, 1)


def be_picky(sock: socket.socket) -> None:
    option = (socket.IPPROTO_IP, _IP_MINTTL)
    if sock.family == socket.AF_INET6:
        option = (socket.IPPROTO_IPV6, 73)
    sock.setsockopt(*option, 255)


MENDED = [connect, refuse_all, block, shrink, cork, be_picky]
REMADE = [deafen_for_good, shut, shut_half]
Harm = Callable[[socket.socket], None]
NEAR = ip_address("127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("engine", NAMES)
def test_a_reg_gone_bad_does_not_spoil_the_next_ones(
    tmp_path: Path, engine: str, host: str
) -> None:
    """One proxy, one harm after the other: the next REG hears and answers each time."""
    port = free_port(host)
    top = f'max-sessions = 20\nengine = "{engine}"\ncrash-limit = 50'
    with Echo(host) as echo, udp(host) as client, ExitStack() as stack:
        text = config(port, str(echo), listen=host, top=top)
        proxy = stack.enter_context(Proxy(tmp_path, text))
        exchange(client, (host, port), b"before")
        for harm in [*MENDED, *REMADE]:
            old = proxy.reg_pid
            mended = len(proxy.said("UDPS-124-W")), len(proxy.said("UDPS-218-E"))
            os.kill(old, signal.SIGSTOP)
            for sock in of_process(old, port):
                with sock:
                    harm(sock)
            proxy.kill(signal.SIGKILL, "reg")
            proxy.next_reg(old)
            until(lambda: proxy.info()["reg-state"] == "ready")
            exchange(client, (host, port), harm.__name__.encode())
            if harm in REMADE:
                assert len(proxy.said("UDPS-218-E")) == mended[1] + 1, harm
            elif harm not in (cork, be_picky):
                assert len(proxy.said("UDPS-124-W")) == mended[0] + 1, harm
        assert len(echo.sources) == 1
        for sock in of_process(proxy.reg_pid, port):
            with sock:
                deafen_for_good(sock)
        assert proxy.stop() == 0
        assert len(proxy.records()) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_mended_workers_are_steered_as_before(host: str) -> None:
    listener = steered(3, host)
    near = "::1" if ":" in host else "127.0.0.1"
    try:
        with clients(60, near) as senders:  # so many that no worker goes without, by any luck
            place = Place(ip_address(near), listener.port)
            to = ListenerSocket(1, listener.socket, place, listener.others)
            before = got(to, senders)
            assert set(before) == {0, 1, 2}
            for sock in listener.sockets:
                refuse_all(sock)
            assert got(to, senders) == []
            assert mend(listener, KEY) == ["it dropped what came"] * 3
            assert got(to, senders) == before
            # A filter that sends everybody to one of them.
            code = struct.pack("=HBBI", 0x06, 0, 0, 0)
            buffer = ctypes.create_string_buffer(code)
            listener.socket.setsockopt(
                socket.SOL_SOCKET, 51, struct.pack("@HP", 1, ctypes.addressof(buffer))
            )
            assert set(got(to, senders)) == {0}
            assert mend(listener, KEY) == []
            assert got(to, senders) == before
            connect(listener.others[0])
            with pytest.raises(Spoilt):
                mend(listener, KEY)
    finally:
        for sock in listener.sockets:
            sock.close()


def test_what_waits_in_a_listener_is_thrown_away_to_the_last() -> None:
    listener = steered(1, "127.0.0.1")
    with closing(listener.socket) as sock, udp() as client:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * RECEIVE_BUFFER
        for _ in range(12_000):
            client.sendto(b"x", sock.getsockname())
        empty(listener)
        with pytest.raises(BlockingIOError):
            sock.recv(1)


@pytest.mark.parametrize("harm", MENDED, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_one_listener_is_mended(host: str, harm: Harm) -> None:
    listener = steered(1, host)
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    with closing(listener.socket) as sock, udp(near) as client:
        size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        harm(sock)
        mend(listener, KEY)
        assert mend(listener, KEY) == []
        client.sendto(b"question", (near, listener.port))
        data, sender = sock.recvfrom(10)
        sock.sendto(data, sender)
        assert client.recvfrom(10)[0] == b"question"
        assert not os.get_blocking(sock.fileno())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == size


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("workers", [1] if WITHOUT else [1, 2])
def test_the_next_parent_hears_after_a_stop(tmp_path: Path, engine: str, workers: int) -> None:
    """systemd may have kept what a stop has made deaf."""
    if engine == "python":
        workers = 1
    port = free_port()
    top = f'max-sessions = 20\nengine = "{engine}"\nworkers = {workers}'
    with (
        Echo() as echo,
        clients(6) as socks,
        Units(tmp_path, config(port, str(echo), top=top)) as units,
    ):
        units.start()
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"before")
        kept = [(name, os.dup(units.stored(name))) for name in units.shelves()]
        deaf, *others = units.listeners()
        assert len(others) == workers - 1
        before = len(echo.received)
        units.terminate()
        assert len(units.said("UDPP-888-I")) == 6
        assert [name for name, _ in units.store if name.startswith(("listener", "carrier"))] == []
        for other in others:
            other.close()
        with deaf:
            deaf.setsockopt(socket.SOL_SOCKET, 27, 0)
            socks[0].sendto(b"too late", ("127.0.0.1", port))
            until(lambda: deaf.recv(8, socket.MSG_PEEK) if workers == 1 else True)
            refuse_all(deaf)
        for name, fd in kept:
            units.keep(name, fd)
            os.close(fd)
        units.start()
        assert len(units.said("UDPS-124-W")) == 1
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"after")
        assert {data for data, _ in echo.received[before:]} == {b"after"}
        units.terminate()


def wrong_ones() -> dict[str, socket.socket]:
    """What must not be taken for a listener or a carrier; whom the test keeps open."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    right.close()
    lone = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tcp = socket.socket()
    tcp.bind(("127.0.0.1", 0))
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    return {
        "listener-2": tcp,
        "listener-3": raw,
        "carrier-2-7-20": make_carrier(socket.AF_INET6, 20),
        "carrier-2-8-19": make_carrier(socket.AF_INET, 20),
        "carrier-2-9-0": left,
        "carrier-999-0-20": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "carrier-2-10-20": lone,
        "carrier-2-11-20": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "listeners-7-1": lone.dup(),
        "listeners-8-1": pack([(1, Place(NEAR, 1), [tcp])]),
        "listeners-9-1": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "listener-99999999999999999999": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    }


@pytest.mark.parametrize("engine", NAMES)
def test_what_is_not_what_its_name_says_is_thrown_out(tmp_path: Path, engine: str) -> None:
    port = free_port()
    with Echo() as echo, udp() as client, ExitStack() as stack:
        text = config(port, str(echo), top=f'max-sessions = 20\nengine = "{engine}"')
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        exchange(client, ("127.0.0.1", port), b"before")
        assert units.stop() == 0
        right = sorted(name for name, _ in units.store)
        wrong = wrong_ones()
        for name, sock in wrong.items():
            units.keep(name, stack.enter_context(sock).fileno())
        with open("/dev/null") as null:  # noqa: PTH123
            units.keep("carrier-2-12-20", null.fileno())
        units.start()
        exchange(client, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 1
        said = units.said("UDPS-123-W")
        assert {line.split("UDPS-123-W ")[1].split()[0] for line in said} == {
            *(name for name in wrong if len(name) < 20),
            "carrier-2-12-20",
        }
        until(lambda: units.listen() and sorted(name for name, _ in units.store) == right)
        units.terminate()


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("name", ["listeners-0-1", "carrier-2-0-20", "table"])
def test_a_name_that_is_stored_twice(tmp_path: Path, engine: str, name: str) -> None:
    """One of the two holds, nothing stays open, and it is stored once."""
    port = free_port()
    with Echo() as echo, udp() as client, ExitStack() as stack:
        text = config(port, str(echo), top=f'max-sessions = 20\nengine = "{engine}"')
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        exchange(client, ("127.0.0.1", port), b"before")
        before = open_files(units.parent.pid)
        assert units.stop() == 0
        units.keep(name, units.stored(name))
        units.start()
        exchange(client, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 1
        assert len(units.said(f"UDPS-123-W {name} in systemd's store is there twice")) == 1
        until(lambda: units.listen() and [one for one, _ in units.store].count(name) == 1)
        assert open_files(units.parent.pid) == before
        assert units.stop() == 0
        units.start()
        exchange(client, ("127.0.0.1", port), b"again")
        assert len(echo.sources) == 1
        units.terminate()


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("workers", [1] if WITHOUT else [1, 3])
def test_one_is_made_anew_while_systemd_has_the_old_one(
    tmp_path: Path, engine: str, workers: int
) -> None:
    """Its store lets go later; nobody may be without a listener until then."""
    if engine == "python":
        workers = 1
    port = free_port()
    top = f'max-sessions = 20\nengine = "{engine}"\nworkers = {workers}'
    with (
        Echo() as echo,
        clients(8) as socks,
        Units(tmp_path, config(port, str(echo), top=top)) as units,
    ):
        units.start()
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"before")
        spoilt, *others = units.listeners()
        with spoilt:
            deafen_for_good(spoilt)
        for other in others:
            other.close()
        units.reg.kill()
        units.reg.wait()
        units.start_reg()
        until(lambda: len(units.said("UDPS-218-E")) == 1)  # its store is not emptied yet
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 8
        assert units.shelves() == ["listeners-0-2"]
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"later")
        assert len(units.said("UDPS-218-E")) == 1
        units.terminate()


def ports_of(many: range, server: str, *, top: str = "max-sessions = 20") -> str:
    text = config(many[0], server, top=top)
    return text.replace(f"port = {many[0]}", f'port = "{many[0]}-{many[-1]}"')


def test_many_listeners_are_few_descriptors(tmp_path: Path) -> None:
    """Over restarts, and a reload that takes some of them away."""
    first = free_port()
    many = range(first, first + 600)
    with Echo() as echo, clients(3) as socks, ExitStack() as stack:
        there = [("127.0.0.1", port) for port in (many[0], many[300], many[-1])]
        units = stack.enter_context(Units(tmp_path, ports_of(many, str(echo))))
        units.start()
        assert len(units.shelves()) == 3
        assert len(units.store) == 3 + 2
        for sock, where in zip(socks, there, strict=True):
            exchange(sock, where, b"before")
        assert units.stop() == 0
        units.start()
        assert len(units.shelves()) == 3
        for sock, where in zip(socks, there, strict=True):
            exchange(sock, where, b"after")
        units.file.write_text(ports_of(many[:-1], str(echo)))
        done = subprocess.run(
            command("ctl", "one", "--runtime-dir", units.runtime, "reload"),
            check=False, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(units.shelves()) == 3
        with udp(port=many[-1]):
            pass  # nobody listens there any more, systemd's store neither
        units.parent.kill()
        units.parent.wait()
        units.reg.wait()
        units.start()
        for sock, where in zip(socks[:2], there[:2], strict=True):
            exchange(sock, where, b"once more")
        assert len(echo.sources) == 3
        assert units.said("UDPS-211-W") == []
        units.terminate()
        assert units.store == []


def test_listeners_that_another_version_has_stored_singly(tmp_path: Path) -> None:
    port, top = free_port(), "max-sessions = 20\nworkers = 2"
    with Echo() as echo, clients(4) as socks, ExitStack() as stack:
        top = top if not WITHOUT else "max-sessions = 20"
        units = stack.enter_context(Units(tmp_path, config(port, str(echo), top=top)))
        units.start()
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"before")
        assert units.stop() == 0
        for worker, kept in enumerate(units.listeners()):
            with kept:
                units.keep(f"listener-1-{worker}" if worker else "listener-1", kept.fileno())
        units.lose("listeners-")
        units.start()
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 4
        until(lambda: units.shelves() == ["listeners-0-1"])
        until(lambda: units.listen() and not any("listener-" in name for name, _ in units.store))
        units.terminate()


def test_the_later_version_of_a_shelf_holds(tmp_path: Path) -> None:
    """As a parent leaves it that dies between two words to systemd."""
    port, gone = free_port(), free_port()
    with Echo() as echo, udp() as client, ExitStack() as stack:
        units = stack.enter_context(Units(tmp_path, config(port, str(echo))))
        units.start()
        exchange(client, ("127.0.0.1", port), b"before")
        assert units.stop() == 0
        with ExitStack() as ours, udp(port=gone) as stale:
            (kept,) = units.listeners()
            ours.enter_context(kept)
            units.keep(
                "listeners-0-7", ours.enter_context(pack([(1, Place(NEAR, port), [kept])])).fileno()
            )
            units.keep(
                "listeners-0-3",
                ours.enter_context(pack([(1, Place(NEAR, gone), [stale])])).fileno(),
            )
        units.start()
        exchange(client, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 1
        until(lambda: units.shelves() == ["listeners-0-7"])
        with udp(port=gone):
            pass
        units.terminate()


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize(
    ("lost", "said", "record", "sources"),
    [
        ("listeners-", "lacks listeners of before: 1 sessions end here", "REASON=error", 2),
        ("carrier-", "lacks sockets towards servers of before: 1 sessions go on from", "", 2),
        ("table", "store has no session table any more: sessions start anew", "", 2),
    ],
)
def test_what_did_not_come_back_is_said(
    tmp_path: Path, engine: str, lost: str, said: str, record: str, sources: int
) -> None:
    port = free_port()
    with Echo() as echo, udp() as client, ExitStack() as stack:
        text = config(port, str(echo), top=f'max-sessions = 20\nengine = "{engine}"')
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        exchange(client, ("127.0.0.1", port), b"before")
        assert units.stop() == 0
        units.lose(lost)
        units.start()
        assert len(units.said(said)) == len(units.said("UDPS-211-W")) == 1
        records = units.said("UDPP-888-I")
        assert len(records) == bool(record)
        assert record in "".join(records)
        exchange(client, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == sources
        assert units.stop() == 0
        units.start()
        exchange(client, ("127.0.0.1", port), b"again")
        assert len(echo.sources) == sources
        assert len(units.said("UDPS-211-W")) == 1
        units.terminate()
