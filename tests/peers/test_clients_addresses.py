"""Servers that go by clients' addresses see them, though we stand between: TFTP, syslog, SNMP.

The proxy is the router between two networks; its firewall does what `udp-proxy transparent` prints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from built import NAMES
from host import tool
from namespaces import Network
from proxy import Proxy, until
from router import redirect, routed

CLIENT, SERVER = "10.1.0.5", "10.2.0.2"
TEXT = """max-sessions = 100
engine = "{engine}"
[[listen]]
transparent = true
version = 4
port = [69, 161, 514]
[[session-acl]]
name = "tftp"
to = [":69"]
transparent = true
type = "any-port"
source-address = ["client", "no-fallback"]
[[session-acl]]
name = "syslog"
to = [":514"]
transparent = true
type = "one-way"
source-address = ["client", "no-fallback"]
[[session-acl]]
name = "snmp"
to = [":161"]
transparent = true
source-address = ["client", "no-fallback"]
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with routed() as net:
        yield net


@contextlib.contextmanager
def on(network: Network, host: str, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server there, with all that it starts."""
    command = [*network.prefix(host), *map(str, words)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def listens(network: Network, port: int) -> bool:
    words = [*network.prefix("server"), tool("ss"), "-Hlnu", f"sport = :{port}"]
    return bool(subprocess.run(words, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("engine", NAMES)
def test_they_see_the_client(network: Network, tmp_path: Path, engine: str) -> None:
    received, served = tmp_path / "received", tmp_path / "served"
    served.mkdir()
    (served / "file").write_bytes(os.urandom(300_000))
    for path in (served, served / "file"):
        path.chmod(0o755)
    syslog, snmp = tmp_path / "rsyslog.conf", tmp_path / "snmpd.conf"
    syslog.write_text(f"""global(workDirectory="{tmp_path}")
module(load="imudp")
input(type="imudp" port="514")
template(name="who" type="string" string="%fromhost-ip% %msg%\\n")
action(type="omfile" file="{received}" template="who")
""")
    # Whoever comes from elsewhere gets no answer.
    snmp.write_text(f"rocommunity public {CLIENT}\nsysLocation here\n")
    proxy = Proxy(tmp_path, TEXT.format(engine=engine), prefix=network.prefix("router"))
    redirect(network, "router", proxy.file)
    with (
        proxy,
        on(network, "server", tool("in.tftpd"), "-L", "-a", f"{SERVER}:69", "-s", served),
        on(network, "server", tool("rsyslogd"), "-n", "-i", tmp_path / "pid", "-f", syslog),
        on(network, "server", tool("snmpd"), "-f", "-C", "-c", snmp, "-Lf", tmp_path / "snmpd.log",
           "-p", tmp_path / "snmpd.pid", f"udp:{SERVER}:161"),
    ):  # fmt: skip
        until(lambda: all(listens(network, port) for port in (69, 161, 514)))
        client = network.prefix("client")
        subprocess.run(
            [*client, tool("logger"), "-d", "-n", SERVER, "-P", "514", "who", "am", "I"], check=True
        )
        until(lambda: received.exists() and "who am I" in received.read_text())
        (line,) = received.read_text().splitlines()
        assert line.split()[0] == CLIENT

        got = tmp_path / "got"
        subprocess.run(
            [*client, tool("tftp"), "-m", "binary", SERVER, "-c", "get", "file", str(got)],
            check=True, timeout=30,
        )  # fmt: skip
        assert got.read_bytes() == (served / "file").read_bytes()

        told = subprocess.run(
            [*client, tool("snmpget"), "-v2c", "-cpublic", "-Oqv", SERVER, "1.3.6.1.2.1.1.6.0"],
            check=True, capture_output=True, text=True, timeout=30,
        ).stdout  # fmt: skip
        assert told.strip() == '"here"'
        rows = {str(row["acl"]): str(row["source"]).partition(":")[0] for row in proxy.sessions()}
        assert rows == dict.fromkeys(("tftp", "syslog", "snmp"), CLIENT)
