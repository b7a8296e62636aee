"""The system's name servers."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from udpproxy.config.model import NameServer, Resolver
from udpproxy.errors import UnitError
from udpproxy.resolver.system import System, complete, parse

TEXT = """
# comment
; comment
nameserver 192.0.2.53 # behind
nameserver not-an-address
nameserver
\tnameserver 2001:db8::53
nameserver fe80::1%eth0
nameserver 192.0.2.54
domain old.test
search corp.test example.org
options ndots:5 timeout:1
"""
SERVERS = tuple(
    NameServer(address=ip_address(text)) for text in ("192.0.2.53", "2001:db8::53", "fe80::1%eth0")
)


def test_the_first_three_servers_and_the_last_list() -> None:
    assert parse(TEXT) == System(SERVERS, ("corp.test", "example.org"))
    assert parse("search a b\ndomain c.test d.test\n") == System((), ("c.test",))
    assert parse("#nameserver 192.0.2.1\n;nameserver 192.0.2.1") == System((), ())
    assert parse("") == System((), ())


def test_the_system_helps_out(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(TEXT)
    whole = complete(Resolver(attempts=7), path)
    assert (whole.servers, whole.search, whole.attempts) == (SERVERS, parse(TEXT).search, 7)
    assert complete(Resolver(search=("own.test",)), path).search == ("own.test",)
    given = Resolver(servers=SERVERS[:1])
    assert complete(given, path) is given


def test_no_servers_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    with pytest.raises(UnitError, match=r"resolver: no name servers: .* No such file") as caught:
        complete(Resolver(), path)
    assert caught.value.unit == "resolver"
    path.write_bytes(b"search corp.test\n\xff\xfe")
    with pytest.raises(UnitError, match=r"resolv\.conf names no name server"):
        complete(Resolver(), path)
