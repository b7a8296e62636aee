"""REG stopped (a debugger, a frozen cgroup) until its watchdog ends it loses no datagram."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from built import of_native
from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, config, until

pytestmark = of_native

STOPPED = 2.0
"""Seconds: longer than a relay that is awake ever sleeps, and than what it takes for a hiccup."""


@pytest.mark.parametrize("workers", [1, 2])
def test_the_watchdog_ends_a_stopped_reg(tmp_path: Path, workers: int) -> None:
    """systemd sends SIGABRT with SIGCONT: relay threads wake up in a process that is dying, and
    what they read then would die with it."""
    port, sent = free_port(), [b"%d" % number for number in range(64)]
    top = f"max-sessions = 10\nworkers = {workers}\ncrash-limit = 100"
    with (
        Echo() as echo,
        Proxy(tmp_path, config(port, str(echo), top=top)) as proxy,
        udp() as client,
    ):
        for _ in range(3):
            exchange(client, ("127.0.0.1", port), b"hello")
            echo.received.clear()
            pid = proxy.kill(signal.SIGSTOP, "reg")
            time.sleep(STOPPED)  # the time is what is tested
            for data in sent:
                client.sendto(data, ("127.0.0.1", port))
            os.kill(pid, signal.SIGABRT)
            os.kill(pid, signal.SIGCONT)
            proxy.next_reg(pid)
            until(lambda: len(echo.received) >= len(sent))
            assert [data for data, _ in echo.received] == sent
            assert [client.recv(100) for _ in sent] == sent
