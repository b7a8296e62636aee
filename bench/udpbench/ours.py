"""udp-proxy itself, once for each engine, as `udp-proxy run` starts it."""

from __future__ import annotations

import shutil
from pathlib import Path

from .build import PROJECT
from .machine import first_line
from .peers import ECHO_PORT, Peer

_CONFIG = """\
max-sessions = 12000
engine = "{engine}"

[[listen]]
address = "127.0.0.1"
port = {port}

[[session-acl]]
name = "bench"
from = ["127.0.0.0/8"]
plug-to = "127.0.0.1:{echo}"
limits = {{ idle = "60s" }}

[log]
level = 4
target = "file"
file = "{directory}/proxy.log"
"""


class UdpProxy(Peer):
    def __init__(self, engine: str, port: int) -> None:
        super().__init__(f"udp-proxy-{engine}", port)
        self._engine = engine

    def _program(self) -> str | None:
        """Of this checkout, else the installed one."""
        return shutil.which(str(PROJECT / ".venv/bin/udp-proxy")) or shutil.which("udp-proxy")

    def missing(self) -> str:
        return "" if self._program() else "no .venv/bin/udp-proxy: install the project there"

    def version(self) -> str:
        version = first_line(self._program() or "udp-proxy", "--version") or "unknown"
        commit = first_line("git", "-C", str(PROJECT), "describe", "--always", "--dirty")
        return f"{version}{', commit ' if commit else ''}{commit}, engine {self._engine}"

    def command(self, directory: Path) -> list[str]:
        config = directory / "bench.toml"
        config.write_text(
            _CONFIG.format(engine=self._engine, port=self.port, echo=ECHO_PORT, directory=directory)
        )
        runtime = directory / "run"
        runtime.mkdir()
        return [self._program() or "udp-proxy", "run", str(config), "--runtime-dir", str(runtime)]
