"""Name servers of others behind us: dnsdist and the PowerDNS Recursor say whom they see.

Both answer a TXT question with the client, the address that it wrote to and the unique id, as the
PROXY header before each datagram has told them.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from built import NAMES
from host import free_port, tool
from proxy import Proxy, config, until

_DNSDIST = """
setLocal("127.0.0.1:{port}")
addLocal("[::1]:{port}")
setACL({{"0.0.0.0/0", "::/0"}})
setProxyProtocolACL({{"127.0.0.0/8", "::1/128"}})
newServer("127.0.0.1:9")
addAction(AllRule(), LuaAction(function(dq)
  local id = dq:getProxyProtocolValues()[5] or "-"
  local client, addressed = dq.remoteaddr:tostringWithPort(), dq.localaddr:tostringWithPort()
  local words = client .. " " .. addressed .. " " .. id
  return DNSAction.SpoofRaw, string.char(#words) .. words
end))
"""

_RECURSOR = """
local-address=127.0.0.1, ::1
local-port={port}
allow-from=0.0.0.0/0, ::/0
proxy-protocol-from=127.0.0.0/8, ::1/128
lua-dns-script={directory}/answers.lua
socket-dir={directory}
security-poll-suffix=
hint-file=no
disable-packetcache=yes
"""

_ANSWERS = """
function preresolve(dq)
  local id = "-"
  for _, value in ipairs(dq:getProxyProtocolValues()) do
    if value:getType() == 5 then id = value:getContent() end
  end
  local client, addressed = dq.remoteaddr:toStringWithPort(), dq.localaddr:toStringWithPort()
  dq:addAnswer(pdns.TXT, '"' .. client .. " " .. addressed .. " " .. id .. '"')
  dq.rcode = 0
  return true
end
"""


@contextmanager
def _serving(port: int, *words: str) -> Iterator[int]:
    """A server in the foreground until it is not needed any more."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: process.poll() is None and all(map(_listens(port), ("127.0.0.1", "::1"))))
            yield port
        finally:
            process.terminate()


def _listens(port: int) -> Callable[[str], bool]:
    """Both have TCP, too, on the same port."""

    def listens(address: str) -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as sock:
            return sock.connect_ex((address, port)) == 0

    return listens


def dnsdist(directory: Path) -> AbstractContextManager[int]:
    """Answers everything itself; its port."""
    port = free_port(kind=socket.SOCK_STREAM)
    file = directory / "dnsdist.conf"
    file.write_text(_DNSDIST.format(port=port))
    return _serving(port, tool("dnsdist"), "--supervised", "--disable-syslog", "-C", str(file))


def recursor(directory: Path) -> AbstractContextManager[int]:
    """The same."""
    port = free_port(kind=socket.SOCK_STREAM)
    (directory / "recursor.conf").write_text(_RECURSOR.format(port=port, directory=directory))
    (directory / "answers.lua").write_text(_ANSWERS)
    options = ["--daemon=no", f"--config-dir={directory}", "--disable-syslog=yes"]
    return _serving(port, tool("pdns_recursor"), *options)


SERVERS = {"dnsdist": dnsdist, "recursor": recursor}
ADDRESSES = {4: "127.0.0.1", 6: "::1"}


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def dig(address: str, port: int, source: str, source_port: int) -> str:
    """What the answer says."""
    words = [f"@{address}", "-p", str(port), "-b", f"{source}#{source_port}", "+tries=1"]
    return subprocess.run(
        [tool("dig"), *words, "+time=10", "+short", "+nocookie", "TXT", "who.example.test"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=30,
    ).stdout.strip()


@pytest.mark.parametrize("name", SERVERS)
def test_they_see_the_client_and_where_it_wrote_to(tmp_path: Path, name: str) -> None:
    """Over IPv4 and IPv6, whatever the server is written to by."""
    server_at = tmp_path / "server"
    server_at.mkdir()
    with SERVERS[name](server_at) as server:
        ways = itertools.product(NAMES, ADDRESSES, ADDRESSES)
        for number, (engine, family, towards) in enumerate(ways):
            address = ADDRESSES[family]
            client = "127.0.0.2" if family == 4 else "::1"
            port, source_port = free_port(address), free_port(client)
            text = config(
                port,
                endpoint(ADDRESSES[towards], server),
                listen=address,
                top=f'max-sessions = 100\nengine = "{engine}"',
                acl='proxy-protocol = "v2"',
            )
            with Proxy(tmp_path / str(number), text) as proxy:
                for _ in range(2):
                    told = dig(address, port, client, source_port)
                    ends = endpoint(client, source_port), endpoint(address, port)
                    assert told == f'"{" ".join(ends)} 1"', (engine, family, towards)
                (row,) = proxy.sessions()
                assert (row["datagrams-up"], row["datagrams-down"]) == (2, 2)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("engine", NAMES)
def test_they_see_the_first_client_behind_two(tmp_path: Path, name: str, engine: str) -> None:
    server_at = tmp_path / "server"
    server_at.mkdir()
    inner, outer, source_port = free_port("::1"), free_port(), free_port("127.0.0.2")
    top, sends = f'max-sessions = 100\nengine = "{engine}"', 'proxy-protocol = "v2"'
    with SERVERS[name](server_at) as server:
        back = config(inner, f"127.0.0.1:{server}", listen="::1", top=top, acl=sends)
        expects = f'port = {inner}\nproxy-protocol = "v2"\nproxy-protocol-from = ["::1"]'
        back = back.replace(f"port = {inner}", expects)
        front = config(outer, f"[::1]:{inner}", top=top, acl=sends)
        with (
            Proxy(tmp_path / "b", back, name="back") as second,
            Proxy(tmp_path / "f", front, name="front"),
        ):
            told = dig("127.0.0.1", outer, "127.0.0.2", source_port)
            assert told == f'"127.0.0.2:{source_port} 127.0.0.1:{outer} 1"'
            (row,) = second.sessions()
            assert row["client"] == f"127.0.0.2:{source_port}"
            assert row["via"].startswith("[::1]:")


@pytest.mark.parametrize("name", SERVERS)
def test_they_answer_probes_that_name_no_client(tmp_path: Path, name: str) -> None:
    """And none without a header, which they expect of us."""
    server_at = tmp_path / "server"
    server_at.mkdir()
    with SERVERS[name](server_at) as server:
        members = [endpoint(address, server) for address in ADDRESSES.values()]
        group = f"""
[[servers]]
name = "dns"
members = {members}
[servers.health]
probe = {{ dns = "who.example.test TXT", interval = "1s", timeout = "0.5s" }}
"""
        port = free_port()
        text = config(port, "@dns", acl='proxy-protocol = "v2"', more=group)
        with Proxy(tmp_path, text) as proxy:
            until(lambda: proxy.info("acr")["probes-sent"] >= 6)
            assert proxy.info("acr")["servers-failing"] == ""
            proxy.write(config(port, "@dns", more=group))
            proxy.ask("reload")
            told = ", ".join(f"dns {member}: no answer" for member in members)
            until(lambda: proxy.info("acr")["servers-failing"] == told)
