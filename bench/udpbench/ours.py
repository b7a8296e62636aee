"""udp-proxy itself, as `udp-proxy run` starts it: each engine with everything on, and the native
one with single things switched off, or with two workers."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from . import machine
from .build import PROJECT
from .machine import first_line
from .peers import ECHO_PORT, Peer

_CONFIG = """\
max-sessions = {sessions}
engine = "{engine}"
workers = {workers}
segmentation = "{segmentation}"

[[listen]]
address = "127.0.0.1"
port = {port}

[[session-acl]]
name = "bench"
from = ["127.0.0.0/8"]
plug-to = "127.0.0.1:{echo}"
{rule}
limits = {{ {limits} }}

[log]
target = "file"
file = "{directory}/proxy.log"
"""
_TIMES = 'idle = "60s", lifetime = "1h"'
# Never reached: what is measured is the looking.
_LIMITS = ", ".join(
    f"{way}-{what} = 1000000000"
    for way in ("upload", "download")
    for what in ("datagrams", "bytes")
)


class UdpProxy(Peer):
    def __init__(
        self,
        name: str,
        port: int,
        *,
        engine: str = "native",
        workers: int = 1,
        segmentation: str = "auto",
        sessions: int = 12_000,
        limits: str = _LIMITS,
        rule: str = "",
        points: Collection[str] = (),
    ) -> None:
        super().__init__(f"udp-proxy-{name}", port)
        self.points = points
        self.cpus = machine.PROXY_CPUS if workers == 1 else machine.ALL_CPUS
        self._engine = engine
        self._settings = {
            "sessions": sessions,
            "engine": engine,
            "workers": workers,
            "segmentation": segmentation,
            "rule": rule,
        }
        self._limits = f"{_TIMES}, {limits}" if limits else _TIMES

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
            _CONFIG.format(
                **self._settings,
                limits=self._limits,
                port=self.port,
                echo=ECHO_PORT,
                directory=directory,
            )
        )
        runtime = directory / "run"
        runtime.mkdir()
        return [self._program() or "udp-proxy", "run", str(config), "--runtime-dir", str(runtime)]


def variants() -> list[UdpProxy]:
    """What the parts of the native engine cost or gain, and what a second worker does."""
    one_each = "upload-datagrams = 1, download-datagrams = 1"
    return [
        UdpProxy("times-only", 9207, limits="", points=("1/64", "100/64", "churn")),
        UdpProxy("no-segments", 9208, segmentation="off", points=("1/64", "100/1200/b8")),
        UdpProxy("records", 9211, limits=one_each, points=("churn",)),
        UdpProxy(
            "source-port",
            9214,
            limits=one_each,
            rule='source-port = "client"\nsource-address = ["127.0.0.5"]',
            points=("churn",),
        ),
        UdpProxy("small-table", 9213, sessions=200, points=("open",)),
        UdpProxy("two-workers", 9212, workers=2, points=("100/64", "1000/64")),
    ]
