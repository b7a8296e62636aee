"""The truth while a process is missing, which is when it is asked for."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from echo import Echo, exchange, udp
from host import free_port
from proxy import command, config, until
from stored import Units


def ctl(units: Units, *words: str) -> object:
    """What it answers, and at once."""
    begun = time.monotonic()
    done = subprocess.run(
        command("ctl", "one", "--runtime-dir", units.runtime, "--json", *words),
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert time.monotonic() - begun < 2.0  # most of it is the start of the command
    return json.loads(done.stdout)


def state(units: Units) -> str:
    info = ctl(units, "info")
    assert isinstance(info, dict)
    return str(info["state"])


def test_the_relay_is_down(tmp_path: Path) -> None:
    port = free_port()
    with Echo() as echo, udp() as client, Units(tmp_path, config(port, str(echo))) as units:
        units.start()
        exchange(client, ("127.0.0.1", port), b"before")
        assert state(units) == "running"
        units.reg.kill()
        units.reg.wait()
        until(lambda: state(units).startswith("degraded: relay is down since 20"))
        sessions = ctl(units, "sessions")
        assert isinstance(sessions, list)
        assert len(sessions) == 1
        until(lambda: "STATUS=degraded: relay is down since 20" in units.listen())
        units.start_reg()
        until(lambda: state(units) == "running")
        until(lambda: units.listen().splitlines()[-1].startswith("STATUS=running: "))
        exchange(client, ("127.0.0.1", port), b"after")
        units.terminate()
