"""What happens to addresses, links and routes of a host in a Network, and of its resolv.conf."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

from host import tool
from namespaces import Network


class Host:
    """One of a Network's hosts, and its interface eth0. What ends puts back what was there, as
    whoever runs a network does."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name

    def run(self, *words: str) -> str:
        """A command there; what it prints."""
        return _run(*self._network.prefix(self._name), *words)

    def ip(self, *words: str) -> str:
        """iproute2's command."""
        return _run(tool("ip"), "-n", self._network.name(self._name), *words)

    def add_address(self, address: str, *, tentative: bool = False) -> None:
        """With its prefix length. IPv6 looks for duplicates only if `tentative`: an address is of
        no use while that goes on."""
        quick = ["nodad"] if ":" in address and not tentative else []
        self.ip("addr", "add", address, "dev", "eth0", *quick)

    def drop_address(self, address: str) -> None:
        """It is gone, and what was routed by it."""
        self.ip("addr", "del", address, "dev", "eth0")

    def renumber(self, old: str, new: str) -> None:
        """One after the other, as DHCP does it."""
        self.drop_address(old)
        self.add_address(new)

    def add_route(self, network: str, gateway: str, source: str = "") -> None:
        """To there by a gateway; `source`: the address that we have on the way. One that is there
        is moved."""
        more = ["src", source] if source else []
        family = "-6" if ":" in network else "-4"
        self.ip(family, "route", "replace", network, "via", gateway, "dev", "eth0", *more)

    @contextlib.contextmanager
    def without_address(self, address: str, *, tentative: bool = False) -> Iterator[None]:
        """It goes, and comes back."""
        with self._as_before():
            self.drop_address(address)
            yield
            self.add_address(address, tentative=tentative)

    @contextlib.contextmanager
    def without_route(self, network: str) -> Iterator[None]:
        """It goes, and comes back."""
        with self._as_before():
            self.ip("-6" if ":" in network else "-4", "route", "del", network)
            yield

    @contextlib.contextmanager
    def link_down(self) -> Iterator[None]:
        """Addresses stay with IPv4, and go with IPv6; routes go."""
        with self._as_before():
            self.ip("link", "set", "eth0", "down")
            yield

    @contextlib.contextmanager
    def without_interface(self) -> Iterator[None]:
        """It is pulled out and put in again: another host has it meanwhile."""
        with self._as_before():
            self._move(self._name, self._network.name("bridge"), "pulled")
            yield
            self._move("bridge", self._network.name(self._name), "eth0")

    def _move(self, here: str, there: str, name: str) -> None:
        old = "eth0" if name != "eth0" else "pulled"
        ip = tool("ip"), "-n", self._network.name(here), "link", "set", old
        _run(*ip, "down")
        _run(*ip, "name", name, "netns", there)

    @contextlib.contextmanager
    def _as_before(self) -> Iterator[None]:
        addresses, routes = self._addresses(), self._routes()
        try:
            yield
        finally:
            self.ip("link", "set", "eth0", "up")
            for address in addresses - self._addresses():
                self.add_address(address)
            for route in sorted(routes - self._routes()):
                self.ip(*route.split())

    def _addresses(self) -> set[str]:
        shown = json.loads(self.ip("-json", "addr", "show", "dev", "eth0"))[0]["addr_info"]
        return {f"{one['local']}/{one['prefixlen']}" for one in shown if one["scope"] == "global"}

    def _routes(self) -> set[str]:
        """As ip would make them, without those that the system makes by itself."""
        found = set()
        for family in ("-4", "-6"):
            lines = self.ip(family, "route", "show", "dev", "eth0").splitlines()
            for line in (line.removesuffix("pref medium") for line in lines if " via " in line):
                found.add(f"{family} route replace {line.replace(' linkdown', '')} dev eth0")
        return found

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
        """So many of the datagrams that come in are lost, by chance (nft's numgen)."""
        with self._rule(f"meta l4proto udp numgen random mod 100 < {percent} drop"):
            yield

    @contextlib.contextmanager
    def black_hole(self, port: int) -> Iterator[None]:
        """What comes in for that UDP port is lost without a word."""
        with self._rule(f"udp dport {port} drop"):
            yield

    @contextlib.contextmanager
    def _rule(self, text: str) -> Iterator[None]:
        table = "add table inet field; add chain inet field in"
        self.run(tool("nft"), f"{table} {{ type filter hook input priority 0; }}; "
                 f"add rule inet field in {text}")  # fmt: skip
        try:
            yield
        finally:
            self.run(tool("nft"), "delete table inet field")


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
