"""A DNS server of somebody else's, as a peer for clients."""

from __future__ import annotations

import getpass
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from host import free_port, tool
from proxy import until


@contextmanager
def dnsmasq() -> Iterator[int]:
    """With every name below example.test; its port."""
    with dnsmasq_process() as (port, _):
        yield port


@contextmanager
def dnsmasq_process() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The same, to be stopped and killed."""
    port = free_port(kind=socket.SOCK_STREAM)
    words = [
        *(tool("dnsmasq"), "--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"),
        *("--pid-file=", f"--user={getpass.getuser()}", "--bind-interfaces"),
        *("--listen-address=127.0.0.1", f"--port={port}", "--address=/example.test/192.0.2.7"),
    ]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: _listens(port))
            yield port, process
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    """dnsmasq has TCP, too, on the same port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
