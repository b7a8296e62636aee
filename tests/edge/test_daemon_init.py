"""The init scripts of the manual, as they stand there, run by sh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemons import Daemon

PAGE = Path(__file__).parents[2] / "man" / "udp-proxy.8"


def scripts() -> list[str]:
    """The examples that begin as scripts do, as man(1) shows them."""
    found = re.findall(r"^\.EX\n(#!.*?)^\.EE$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [each.replace(r"\e", "\\") for each in found]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where `udp-proxy` is found."""
    program = tmp_path / "bin" / "udp-proxy"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m udpproxy "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def test_sysvinit(tmp_path: Path, path: str) -> None:
    with Daemon(tmp_path / "one") as daemon:
        text = scripts()[0]
        for real, ours in (
            ("/etc/udp-proxy/dns.toml", daemon.file),
            ("/run/udp-proxy-dns.pid", daemon.pid_file),
        ):
            assert f"={real}\n" in text
            text = text.replace(real, str(ours))
        script = tmp_path / "script"
        script.write_text(text)
        script.chmod(0o755)

        def act(word: str) -> int:
            environment = daemon.environment | {
                "PATH": path, "RUNTIME_DIRECTORY": str(daemon.runtime),
            }  # fmt: skip
            done = subprocess.run(
                [script, word], env=environment, capture_output=True, timeout=60, check=False
            )
            return done.returncode

        # The results that the Linux Standard Base wants of an init script.
        assert act("status") == 3
        assert act("reload") == 7
        assert act("start") == 0
        first = daemon.pid
        assert act("start") == 0
        assert daemon.pid == first
        assert (act("status"), act("reload")) == (0, 0)
        assert act("restart") == 0
        assert daemon.pid != first
        assert (act("stop"), act("stop"), act("status")) == (0, 0, 3)
        assert act("dance") == 2
        assert daemon.processes() == {}


def test_openrc(tmp_path: Path, path: str) -> None:
    """Its functions, called as openrc-run(8) would."""
    with Daemon(tmp_path / "one") as daemon:
        text = scripts()[1]
        for real, ours in (
            ("/etc/udp-proxy/$instance.toml", f"{daemon.directory}/$instance.toml"),
            ("/run/udp-proxy.$instance.pid", f"{daemon.directory}/$instance.pid"),
        ):
            assert f"={real}\n" in text
            text = text.replace(real, ours)
        environment = daemon.environment | {
            "PATH": path, "RUNTIME_DIRECTORY": str(daemon.runtime), "RC_SVCNAME": "udp-proxy.one",
        }  # fmt: skip

        def act(word: str) -> int:
            done = subprocess.run(
                ["sh", "-c", f"{text}\n{word}\n"], env=environment, timeout=60, check=False
            )
            return done.returncode

        assert (act("start"), act("status"), act("reload"), act("stop")) == (0, 0, 0, 0)
        assert act("status") != 0
