"""ACR and APR as units: they are there, wait idle, and work once a reload needs them. Here the
test stands in for systemd, as a child cannot tell the difference: control groups included, by which
the parent tells its children from others."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echo import Echo, exchange, udp
from groups import inside, unit
from host import free_port
from nameserver import NameServer
from proxy import command, config, reloaded, until

ROLES = ("reg", "acr", "apr")


@contextlib.contextmanager
def started(*words: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def ctl(file: Path, *words: str) -> Any:
    """What it prints, None where it fails."""
    done = subprocess.run(
        command("ctl", file.stem, "--runtime-dir", file.parent / "run", *words, "--json"),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_idle_until_a_reload_needs_them(tmp_path: Path) -> None:
    file, port = tmp_path / "one.toml", free_port()
    environment = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    with contextlib.ExitStack() as stack:
        zone, echo = stack.enter_context(NameServer()), stack.enter_context(Echo())
        client = stack.enter_context(udp())
        zone.host("srv.lab.test", "127.0.0.1")
        file.write_text(config(port, str(echo)))
        stack.enter_context(started(*command("run", file, "--units"), environment=environment))
        for role in ROLES:
            words = (sys.executable, "-P", "-m", "udpproxy.child", role, "one")
            group = stack.enter_context(unit(f"udp-proxy-{role}@one.service"))
            stack.enter_context(started(*inside(group), *words, environment=environment))
        until(lambda: all(ctl(file, "--process", role, "info") for role in ROLES))
        assert {ctl(file, "--process", role, "info")["state"] for role in ROLES[1:]} == {"idle"}
        assert ctl(file, "resolve-now") is None
        exchange(client, ("127.0.0.1", port), b"without names")

        file.write_text(config(port, f"srv.lab.test:{echo.endpoint[1]}", more=zone.section))
        assert ctl(file, "reload") == reloaded(0)
        until(lambda: ctl(file, "--process", "reg", "info")["names-known"] == 1)
        assert ctl(file, "--process", "acr", "info")["state"] == "resolving"
        assert ctl(file, "resolve-now") == {"names": 1}
        with udp() as later:
            exchange(later, ("127.0.0.1", port), b"by name")
        exchange(client, ("127.0.0.1", port), b"goes on")

        more = f"""
[[servers]]
name = "one"
members = ["{echo}"]
[servers.health]
probe = {{ send = "text:probe", interval = "0.2s", timeout = "0.1s" }}
"""
        file.write_text(config(port, "@one", more=more))
        assert ctl(file, "reload") == reloaded(0)
        until(lambda: [data for data, _ in echo.received].count(b"probe") > 2)
        states = [ctl(file, "--process", role, "info")["state"] for role in ROLES[1:]]
        assert states == ["probing", "idle"]
        assert ctl(file, "resolve-now") is None
        exchange(client, ("127.0.0.1", port), b"goes on")
