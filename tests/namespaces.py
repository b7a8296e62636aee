"""Hosts on a network of their own: namespaces with one bridge, all made and removed here."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from host import tool

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def ip(*words: str) -> None:
    """iproute2's command."""
    done = subprocess.run([tool("ip"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Network:
    """A context manager: a bridge in a namespace, and a host on it for each `add`."""

    def __init__(self) -> None:
        self._prefix = f"udpp{os.getpid()}x{next(_numbers)}-"
        self._bridge = self._name("bridge")
        self._made: list[str] = []

    def __enter__(self) -> Network:
        self._make(self._bridge)
        ip("-n", self._bridge, "link", "add", "br0", "type", "bridge")
        ip("-n", self._bridge, "link", "set", "br0", "up")
        return self

    def __exit__(self, *problem: object) -> None:
        for name in self._made:
            ip("netns", "del", name)

    def _name(self, host: str) -> str:
        return f"{self._prefix}{host}"

    def _make(self, name: str) -> None:
        ip("netns", "add", name)
        self._made.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def add(self, host: str, *addresses: str) -> None:
        """A host with an interface eth0 on the bridge that has these addresses (with prefix)."""
        name, port = self._name(host), f"port{len(self._made)}"
        self._make(name)
        ip("-n", self._bridge, "link", "add", port, "type", "veth", "peer", "eth0", "netns", name)
        ip("-n", self._bridge, "link", "set", port, "master", "br0", "up")
        for address in addresses:
            # IPv6 without a look for duplicates: an address is of no use while that goes on.
            more = ("nodad",) if ":" in address else ("broadcast", "+")
            ip("-n", name, "addr", "add", address, "dev", "eth0", *more)
        ip("-n", name, "link", "set", "eth0", "up")

    def name(self, host: str) -> str:
        """The namespace's, for `ip -n`."""
        return self._name(host)

    def hardware(self, host: str) -> str:
        """The address of its eth0 on the wire."""
        words = [tool("ip"), "-json", "-n", self._name(host), "link", "show", "eth0"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return str(json.loads(done.stdout)[0]["address"])

    def addresses(self, host: str) -> set[str]:
        """All that its eth0 has by now."""
        words = [tool("ip"), "-json", "-n", self._name(host), "addr", "show", "eth0"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return {str(one["local"]) for one in json.loads(done.stdout)[0]["addr_info"]}

    def prefix(self, host: str) -> list[str]:
        """What makes a command run on that host."""
        return [tool("ip"), "netns", "exec", self._name(host)]

    def on(self, host: str, make: Callable[[], T]) -> T:
        """Call that on the host: sockets that it makes belong there for good."""

        def work() -> T:
            fd = os.open(Path("/run/netns", self._name(host)), os.O_RDONLY | os.O_CLOEXEC)
            try:
                assert _libc.setns(fd, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
                return make()
            finally:
                os.close(fd)

        # The namespace is the thread's, and goes with it.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(work).result()
