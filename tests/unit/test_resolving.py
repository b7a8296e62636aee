"""What the proxy gives its resolvers to do, and which of them has work by it."""

from __future__ import annotations

import pytest

from udpproxy.config.model import Log, NameServer, Resolver
from udpproxy.errors import ConfigError
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.names import needed
from udpproxy.proxy.resolving import assignment
from udpproxy.resolver.acr import Acr
from udpproxy.resolver.apr import Apr
from udpproxy.resolver.assignment import Assignment

HEAD = 'max-sessions = 10\n[[listen]]\naddress = "127.0.0.1"\nport = "40000-40001"\n'
TAIL = '[resolver]\nservers = ["192.0.2.53"]\n[log]\nlevel = "debug"\n'
ACL = '[[session-acl]]\nname = "{}"\n{}\n'
NAMED = 'from = ["a.test"]\nplug-to = "192.0.2.1"'
SERVER = 'plug-to = "Srv.Test:53"'
GROUP = """plug-to = "@dns"
{}
[[servers]]
name = "dns"
members = ["192.0.2.1:53", "Srv.Test:5353"]
standby = ["[2001:db8::9]:53"]
[servers.health]
probe = {}
"""
PROBED = GROUP.format("", '{ dns = "example.org A", interval = "2s", timeout = "1s" }')
PATTERN = 'from = ["*.lab.test"]\nplug-to = "192.0.2.1"'


def text(*acls: str) -> str:
    return HEAD + "".join(map(ACL.format, "abc", acls)) + TAIL


def test_all_that_a_resolver_needs() -> None:
    given = assignment(text(NAMED, SERVER), "test.toml")
    servers = (NameServer(address=given.resolver.servers[0].address),)
    assert str(servers[0].address) == "192.0.2.53"
    assert given == Assignment(
        names=("a.test", "srv.test"),
        on_demand=True,
        resolver=Resolver(servers=servers),
        log=Log(level=given.log.level),
    )
    assert given.log.level != Log().level


@pytest.mark.parametrize("acls", [(), (NAMED,), (SERVER,), (PATTERN,), (NAMED, PATTERN), (PROBED,)])
def test_who_has_work_is_who_is_started(acls: tuple[str, ...]) -> None:
    given = assignment(text(*acls), "test.toml")
    helpers: dict[str, type[Acr] | type[Apr]] = {"acr": Acr, "apr": Apr}
    work = [role for role, one in helpers.items() if one.has_work(given)]
    assert tuple(work) == needed(parse(text(*acls), "test.toml", ephemeral=(0, 0)))


def test_every_server_of_a_group_is_probed() -> None:
    probes = assignment(text(PROBED), "test.toml").probes
    assert [(one.group, one.server, str(one.host), one.port) for one in probes] == [
        ("dns", "192.0.2.1:53", "192.0.2.1", 53),
        ("dns", "srv.test:5353", "srv.test", 5353),
        ("dns", "[2001:db8::9]:53", "2001:db8::9", 53),
    ]
    assert {(one.dns, one.interval, one.timeout, one.header) for one in probes} == {
        ("example.org A", 2.0, 1.0, b"")
    }


@pytest.mark.parametrize(("kind", "size"), [("v2", 16), ("spp", 0)])
def test_probes_have_the_header_that_servers_expect(kind: str, size: int) -> None:
    given = GROUP.format(f'proxy-protocol = "{kind}"', '{ send = "text:ping", expect = "hex:00" }')
    probes = assignment(text(given), "test.toml").probes
    assert {(len(one.header), one.send, one.expect) for one in probes} == {(size, b"ping", b"\0")}


def test_a_text_that_is_wrong_is_not_read() -> None:
    with pytest.raises(ConfigError):
        assignment(text('plug-to = "x y"'), "test.toml")
