"""A client and a server on networks of their own, and the host between, where the proxy runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from host import tool
from namespaces import Network, ip
from proxy import command


@contextmanager
def routed() -> Iterator[Network]:
    """Hosts `client` (10.1.0.5, fd01::5), `router` and `server` (10.2.0.2, fd02::2)."""
    with Network() as net:
        net.add("client", "10.1.0.5/24", "fd01::5/64")
        net.add("server", "10.2.0.2/24", "fd02::2/64")
        net.add("router", "10.1.0.1/24", "fd01::1/64", "10.2.0.1/24", "fd02::1/64")
        for host, v4, v6 in (("client", "10.1.0.1", "fd01::1"), ("server", "10.2.0.1", "fd02::1")):
            ip("-n", net.name(host), "route", "add", "default", "via", v4)
            ip("-n", net.name(host), "-6", "route", "add", "default", "via", v6)
        strict = "for f in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$f/rp_filter; done"
        subprocess.run([*net.prefix("router"), "sh", "-c", strict], check=True)
        yield net


def redirect(network: Network, host: str, file: Path) -> None:
    """What the manual says: print the rules, and give them to a shell."""
    script = subprocess.run(
        command("transparent", file), capture_output=True, text=True, check=True
    ).stdout
    path = f"PATH={Path(tool('nft')).parent}:{Path(tool('ip')).parent}:/bin"
    done = subprocess.run(
        [*network.prefix(host), "env", path, "sh", "-e"],
        input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
