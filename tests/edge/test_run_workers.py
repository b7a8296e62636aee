"""Several workers on one address and port: a client stays with its own, limits hold over all."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from built import of_native
from echo import Echo, clients, exchange, silent
from host import free_port
from proxy import Proxy, config, until
from stored import Units

pytestmark = of_native

WORKERS = 3
IPV6_HOPOPTS, IPV6_DSTOPTS = 54, 59
UNKNOWN = 0x1E
"""An option that nobody has to know (RFC 4727)."""


def padding(words: int) -> bytes:
    """An extension header of eight bytes and so many times eight more."""
    return bytes([0, words, UNKNOWN, 8 * (words + 1) - 4]).ljust(8 * (words + 1), b"\0")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
def test_clients_stay_with_their_worker(tmp_path: Path, address: str) -> None:
    host = "::1" if ":" in address else "127.0.0.1"
    port = free_port(host)
    top = f"max-sessions = 100\nworkers = {WORKERS}"
    with Echo(host) as echo, clients(40, host) as socks:
        text = config(port, str(echo), listen=address, top=top)
        with Proxy(tmp_path, text) as proxy:
            for _ in range(3):
                for sock in socks:
                    exchange(sock, (host, port), b"hello")
            assert len(proxy.sessions()) == len(echo.sources) == 40
            assert proxy.info("reg")["workers"] == WORKERS
            old = proxy.kill(signal.SIGKILL, "reg")
            until(lambda: proxy.reg_pid not in (0, old))
            for sock in socks:
                exchange(sock, (host, port), b"again")
            assert len(proxy.sessions()) == len(echo.sources) == 40


@pytest.mark.parametrize("kind", [IPV6_HOPOPTS, IPV6_DSTOPTS])
def test_a_client_with_extension_headers_has_one_session(tmp_path: Path, kind: int) -> None:
    port = free_port("::1")
    top = f"max-sessions = 100\nworkers = {WORKERS}"
    with Echo("::1") as echo, clients(20, "::1") as socks:
        text = config(port, str(echo), listen="::1", top=top)
        with Proxy(tmp_path, text) as proxy:
            for words in range(4):
                for sock in socks:
                    exchange(sock, ("::1", port), b"as others do")
                    sock.setsockopt(socket.IPPROTO_IPV6, kind, padding(words))
                    exchange(sock, ("::1", port), b"with more before it")
                    sock.setsockopt(socket.IPPROTO_IPV6, kind, b"")
            assert len(proxy.sessions()) == len(echo.sources) == 20


def test_clients_stay_with_their_worker_over_a_restart(tmp_path: Path) -> None:
    """What came in between is steered by the key of before."""
    port = free_port()
    there = "127.0.0.1", port
    with Echo() as echo, clients(20) as socks:
        text = config(port, str(echo), top=f"max-sessions = 100\nworkers = {WORKERS}")
        with Units(tmp_path, text) as units:
            units.start()
            for sock in socks:
                exchange(sock, there, b"before")
            assert units.stop() == 0
            for sock in socks:
                sock.sendto(b"meanwhile", there)
            units.start()
            for sock in socks:
                assert sock.recvfrom(100) == (b"meanwhile", there)
                exchange(sock, there, b"after")
            assert len(echo.sources) == 20
            units.terminate()


def test_the_cap_of_a_client_holds_over_all_workers(tmp_path: Path) -> None:
    port = free_port()
    top = f"max-sessions = 100\nmax-sessions-per-client = 5\nworkers = {WORKERS}"
    with Echo() as echo, clients(20) as socks:
        text = config(port, str(echo), top=top)
        with Proxy(tmp_path, text) as proxy:
            for sock in socks:
                sock.sendto(b"hello", ("127.0.0.1", port))
            until(lambda: proxy.info("reg")["refused-per-client"] == 15)
            assert len(proxy.sessions()) == 5
            assert sum(not silent(sock, 0.05) for sock in socks) == 5


def test_the_table_is_one(tmp_path: Path) -> None:
    port = free_port()
    top = f'max-sessions = 10\noverflow = "evict-idlest"\nworkers = {WORKERS}'
    with Echo(answers=lambda data: False) as echo, clients(30) as socks:
        text = config(port, str(echo), top=top)
        with Proxy(tmp_path, text) as proxy:
            for sock in socks:
                sock.sendto(b"hello", ("127.0.0.1", port))
            until(lambda: len(echo.sources) >= 10)
            until(lambda: proxy.info("reg")["upload-datagrams"] + refused(proxy) == 30)
            assert len(proxy.sessions()) == 10
            evicted = proxy.info("reg")["evicted"]
            until(lambda: len(proxy.records()) + proxy.unrecorded() == evicted)


def refused(proxy: Proxy) -> int:
    """Newcomers for whom nobody could be evicted just then."""
    return int(proxy.info("reg")["refused-table-full"])


def test_what_is_sent_to_many_goes_once(tmp_path: Path) -> None:
    """The kernel gives a broadcast to the sockets of all workers."""
    port = free_port("0.0.0.0")
    top = f"max-sessions = 100\nworkers = {WORKERS}"
    with Echo() as echo, clients(20) as socks:
        text = config(port, str(echo), listen="0.0.0.0", top=top)
        with Proxy(tmp_path, text) as proxy:
            for sock in socks:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                for number in range(2):
                    sock.sendto(b"%d" % number, ("127.255.255.255", port))
                    assert sock.recv(100) == b"%d" % number
            assert len(proxy.sessions()) == 20
            until(lambda: proxy.info()["upload-datagrams"] == 40)
            assert len(echo.sources) == 20
            for sock in socks:
                assert silent(sock)
