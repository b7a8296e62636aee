"""What happens to addresses, links and routes, on a host of a Network or on any by its prefix."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence

from host import tool
from namespaces import Network


class Host:
    """One of a Network's hosts, and its interface eth0."""

    def __init__(self, network: Network, name: str) -> None:
        self._prefix = network.prefix(name)

    def run(self, *words: str) -> str:
        """A command there; what it prints."""
        done = subprocess.run([*self._prefix, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def ip(self, *words: str) -> str:
        """iproute2's command."""
        return self.run(tool("ip"), *words)

    def add_address(self, address: str, *, tentative: bool = False) -> None:
        """With its prefix length. IPv6 looks for duplicates only if `tentative`: an address is of
        no use while that goes on."""
        quick = ["nodad"] if ":" in address and not tentative else []
        self.ip("addr", "add", address, "dev", "eth0", *quick)

    def drop_address(self, address: str) -> None:
        """It is gone, and with IPv4 those of the same network that came later."""
        self.ip("addr", "del", address, "dev", "eth0")

    def renumber(self, old: str, new: str) -> None:
        """One after the other, as DHCP does it."""
        self.drop_address(old)
        self.add_address(new)

    @contextlib.contextmanager
    def without_address(self, address: str) -> Iterator[None]:
        """It goes, and comes back."""
        self.drop_address(address)
        try:
            yield
        finally:
            self.add_address(address)

    @contextlib.contextmanager
    def link_down(self) -> Iterator[None]:
        """Addresses stay with IPv4, and go with IPv6."""
        lines = self.ip("-o", "addr", "show", "dev", "eth0").splitlines()
        kept = [line.split()[3] for line in lines if "inet6" in line and "scope global" in line]
        self.ip("link", "set", "eth0", "down")
        try:
            yield
        finally:
            self.ip("link", "set", "eth0", "up")
            there = self.ip("-o", "addr", "show", "dev", "eth0")
            for address in kept:
                if address not in there:
                    self.add_address(address)

    @contextlib.contextmanager
    def narrow(self, rate: str = "1mbit", *, latency: str = "50ms") -> Iterator[None]:
        """What leaves by eth0 has no more than that (tc-tbf(8))."""
        queue = [tool("tc"), "qdisc"]
        self.run(*queue, "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "16k",
                 "latency", latency)  # fmt: skip
        try:
            yield
        finally:
            self.run(*queue, "del", "dev", "eth0", "root")

    @contextlib.contextmanager
    def lossy(self, percent: int) -> Iterator[None]:
        """So many of the datagrams that come in are lost, by chance."""
        with self._rule(f"meta l4proto udp numgen random mod 100 < {percent} drop"):
            yield

    @contextlib.contextmanager
    def black_hole(self, port: int) -> Iterator[None]:
        """What comes in for that UDP port is lost without a word."""
        with self._rule(f"udp dport {port} drop"):
            yield

    @contextlib.contextmanager
    def _rule(self, text: str) -> Iterator[None]:
        table = (
            "add table inet field; add chain inet field in { type filter hook input priority 0; }"
        )
        self.run(tool("nft"), f"{table}; add rule inet field in {text}")
        try:
            yield
        finally:
            self.run(tool("nft"), "delete table inet field")


@contextlib.contextmanager
def small_disk(host: Sequence[str], place: str, size: str = "64k") -> Iterator[None]:
    """A file system of that size at `place`, for the mount namespace that `host` enters."""
    subprocess.run(
        [*host, "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True
    )
    try:
        yield
    finally:
        subprocess.run([*host, "umount", "--lazy", place], check=True)
