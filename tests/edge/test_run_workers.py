"""Several workers on one address and port: a client stays with its own, limits hold over all."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from built import of_native
from echo import Echo, clients, exchange, silent
from host import free_port
from proxy import Proxy, config, until

pytestmark = of_native

WORKERS = 3


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
