"""What is measured beside udp-proxy: a peer says whether it can run, and how it is started.

Every peer listens on 127.0.0.1 and passes datagrams to the echo server, with an idle time of 60 s
and receive buffers of 4 MiB where it has settings for these.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path

from .build import OUTPUT
from .machine import PROXY_CPUS, first_line

ECHO_PORT = 9100
PACKAGES = OUTPUT / "packages"  # unpacked, never installed
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/libexec/docker"


def program(name: str, package: str) -> str | None:
    """The installed one, else the one that --fetch unpacked."""
    unpacked = PACKAGES / package / "usr"
    return shutil.which(name, path=f"{_PATH}:{unpacked}/sbin:{unpacked}/bin")


class Peer(ABC):
    kind = "proxy"  # "limit": no process of its own; "kernel": its CPU time is the sender's
    points: Collection[str] = ()  # where it is measured; empty: everywhere
    cpus = PROXY_CPUS

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port

    @abstractmethod
    def missing(self) -> str:
        """One line why it cannot run; empty if it can."""

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def command(self, directory: Path) -> list[str]:
        """Writes what it needs into the directory; empty if there is nothing to start."""

    def withdraw(self) -> None:
        """After each sample: undo what command() did outside of its directory."""
        return


class Direct(Peer):
    kind = "limit"

    def __init__(self) -> None:
        super().__init__("direct", ECHO_PORT)

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return "no proxy: clients talk to the echo server"

    def command(self, directory: Path) -> list[str]:
        return []


class KernelNat(Peer):
    kind = "kernel"
    _RULES = f"""
        table ip udpbench {{
            chain out {{
                type nat hook output priority -100;
                ip daddr 127.0.0.1 udp dport 9210 dnat to 127.0.0.1:{ECHO_PORT};
            }}
            chain post {{
                type nat hook postrouting priority 100;
                udp dport {ECHO_PORT} ct status dnat snat to 127.0.0.2;
            }}
        }}"""

    def __init__(self) -> None:
        super().__init__("nft-nat", 9210)

    def missing(self) -> str:
        return "" if program("nft", "nftables") else "apt package nftables (or --fetch)"

    def version(self) -> str:
        return first_line(program("nft", "nftables") or "nft", "--version")

    def _nft(self, rules: str) -> None:
        libraries = ":".join(str(path) for path in PACKAGES.glob("nftables/usr/lib/*-linux-gnu*"))
        command = [program("nft", "nftables") or "nft", "-f", "-"]
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries} if libraries else None
        subprocess.run(command, input=rules, text=True, check=True, env=environment)

    def command(self, directory: Path) -> list[str]:
        self._nft(self._RULES)
        return []

    def withdraw(self) -> None:
        self._nft("delete table ip udpbench")


class Nginx(Peer):
    _CONFIG = """\
{module}
daemon off;
user root;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
worker_processes 1;
worker_rlimit_nofile {descriptors};
events {{ worker_connections 24000; {events} }}
stream {{
    server {{
        listen 127.0.0.1:{port} udp rcvbuf=4m sndbuf=4m;
        proxy_pass 127.0.0.1:{echo};
        proxy_timeout 60s;
    }}
}}
"""

    def __init__(self, name: str, port: int, events: str = "") -> None:
        super().__init__(name, port)
        self._events = events

    def missing(self) -> str:
        if not program("nginx", "nginx"):
            return "apt packages nginx and libnginx-mod-stream"
        return "" if self._has_stream() else "apt package libnginx-mod-stream"

    def _build(self) -> str:
        command = [program("nginx", "nginx") or "nginx", "-V"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    def _module(self) -> Path:
        found = re.search(r"--modules-path=(\S+)", self._build())
        return Path(found[1] if found else "/nonexistent") / "ngx_stream_module.so"

    def _has_stream(self) -> bool:
        return self._module().exists() or bool(re.search(r"--with-stream(?!\S)", self._build()))

    def version(self) -> str:
        built = first_line(program("nginx", "nginx") or "nginx", "-v").split(": ")[-1]
        package = first_line("dpkg-query", "-W", "-f", "${Version}", "nginx")
        settings = f", {self._events}" if self._events else ""
        return f"{built} ({package or 'not from a package'}){settings}"

    def command(self, directory: Path) -> list[str]:
        config = directory / "nginx.conf"
        module = self._module()
        config.write_text(
            self._CONFIG.format(
                module=f"load_module {module};" if module.exists() else "",
                directory=directory,
                descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
                events=f"{self._events};" if self._events else "",
                port=self.port,
                echo=ECHO_PORT,
            )
        )
        nginx = program("nginx", "nginx") or "nginx"
        return [nginx, "-p", str(directory), "-c", str(config), "-e", str(directory / "start.log")]
