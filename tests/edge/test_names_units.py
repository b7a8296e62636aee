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

import pytest

from echo import Echo, exchange, udp
from host import free_port
from nameserver import NameServer
from proxy import command, config, until

ROLES = ("reg", "acr", "apr")
_UNIFIED = Path("/sys/fs/cgroup/unified")
GROUPS = _UNIFIED if _UNIFIED.exists() else Path("/sys/fs/cgroup")


@contextlib.contextmanager
def started(*words: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextlib.contextmanager
def unit(name: str) -> Iterator[Path]:
    """A control group of that name, as systemd makes one for a unit."""
    try:
        path = GROUPS / name
        path.mkdir()
    except OSError as problem:
        pytest.skip(f"no control group: {problem}")
    try:
        yield path
    finally:
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (GROUPS / "cgroup.procs").write_text(pid)
        path.rmdir()


def inside(group: Path) -> tuple[str, ...]:
    """What begins a command that runs in it."""
    return "/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"


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
        assert ctl(file, "reload") == {"sessions-ended": 0}
        until(lambda: ctl(file, "--process", "reg", "info")["names-known"] == 1)
        assert ctl(file, "--process", "acr", "info")["state"] == "resolving"
        assert ctl(file, "resolve-now") == {"names": 1}
        with udp() as later:
            exchange(later, ("127.0.0.1", port), b"by name")
        exchange(client, ("127.0.0.1", port), b"goes on")


LIAR = """
import socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
sock.settimeout(5)
try:
    sock.send(b'{"":"hello","role":"%s","version":"x"}' % sys.argv[2].encode())
    print(len(sock.recv(100000)))
except ConnectionError:
    print(0)
"""


def test_who_is_no_unit_of_ours(tmp_path: Path) -> None:
    """The same user is not enough, nor is another unit, of ours or of another instance."""
    file = tmp_path / "one.toml"
    environment = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    path = tmp_path / "run" / "children.sock"

    def lent(role: str, *prefix: str) -> int:
        words = [*prefix, sys.executable, "-c", LIAR, str(path), role]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        return int(done.stdout)

    with contextlib.ExitStack() as stack:
        file.write_text(config(free_port(), "127.0.0.1:9"))
        groups = [
            stack.enter_context(unit(f"udp-proxy-{name}.service"))
            for name in ("reg@one", "apr@one", "reg@another")
        ]
        stack.enter_context(started(*command("run", file, "--units"), environment=environment))
        until(path.exists)
        assert path.stat().st_mode & 0o777 == 0o660
        reg, apr, another = map(inside, groups)
        assert lent("reg") == 0
        assert lent("reg", *apr) == 0
        assert lent("reg", *another) == 0
        assert lent("reg", *reg) > 0, "what is refused is not refused for something else"
