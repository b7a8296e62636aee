"""proxy-protocol, of listeners and of rules: what the file may say, and what people are told."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address, ip_network

import pytest

from udpproxy.errors import ConfigError, InvalidArgument
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import Config, Place
from udpproxy.proxy.config.show import render
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.policy import explain
from udpproxy.proxy.policy.rules import Unresolved
from udpproxy.proxy.reg import senders
from udpproxy.proxy.session.layout import Record

NOON = datetime(2030, 6, 3, 12, 0)
FROM = 'proxy-protocol = "v2"\nproxy-protocol-from = ["192.0.2.1", "2001:db8::/64"]'


def text(
    listen: str = FROM, acl: str = "", plug_to: str = "198.51.100.1:53", more: str = ""
) -> str:
    return f"""max-sessions = 10
[[listen]]
address = "127.0.0.1"
port = "5300-5301"
{listen}
{more}
[[session-acl]]
name = "one"
plug-to = "{plug_to}"
{acl}
"""


def read(*parts: str, **named: str) -> Config:
    return parse(text(*parts, **named), "test.toml")


def mistake(*parts: str, **named: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*parts, **named)
    (problem,) = caught.value.problems
    return f"{problem.line} {problem.key}: {problem.text}"


def test_a_listener_that_expects_headers() -> None:
    config = read(more='[[listen]]\naddress = "::1"\nport = 5300')
    wanted = ip_network("192.0.2.1"), ip_network("2001:db8::/64")
    assert [listen.header_from for listen in config.listen] == [wanted, ()]
    assert config.warnings == ()
    for address, port, found in [
        ("127.0.0.1", 5301, wanted),
        ("127.0.0.1", 5302, ()),
        ("::1", 5300, ()),
    ]:
        assert config.headed().get(Place(ip_address(address), port), ()) == found
    assert Place(ip_address("127.0.0.1"), 5300, "lo") not in config.headed()
    assert parse(render(config, defaults=False), "again.toml") == config


@pytest.mark.parametrize("kind", ["v2", "spp"])
def test_a_rule_that_sends_headers(kind: str) -> None:
    config = read("", f'proxy-protocol = "{kind}"')
    assert config.rules[0].header == kind
    assert read("").rules[0].header == ""
    assert f'proxy-protocol = "{kind}"\n' in render(config, defaults=False)
    assert "proxy-protocol" not in render(read(""), defaults=True)


@pytest.mark.parametrize(
    ("listen", "acl", "told"),
    [
        (
            'proxy-protocol = "v2"',
            "",
            "2 listen[1].proxy-protocol-from: must be given with proxy-protocol: the addresses of "
            'the proxies that send to here, such as ["192.0.2.1", "2001:db8::/64"]',
        ),
        (
            'proxy-protocol-from = ["192.0.2.1"]',
            "",
            "5 listen[1].proxy-protocol-from: has no meaning without proxy-protocol = ",
        ),
        (
            'proxy-protocol = "v2"\nproxy-protocol-from = []',
            "",
            "6 listen[1].proxy-protocol-from: the list is empty",
        ),
        (
            'proxy-protocol = "v2"\nproxy-protocol-from = ["balancer.example.org"]',
            "",
            "6 listen[1].proxy-protocol-from[1]: ",
        ),
        (
            'proxy-protocol = "v1"\nproxy-protocol-from = ["192.0.2.1"]',
            "",
            '5 listen[1].proxy-protocol: expected one of "v2", found "v1"',
        ),
        (
            "",
            'proxy-protocol = "v1"',
            '10 session-acl[1].proxy-protocol: expected one of "v2", "spp", found "v1"',
        ),
    ],
)
def test_mistakes_say_what_to_write(listen: str, acl: str, told: str) -> None:
    assert mistake(listen, acl).startswith(told)


def test_what_was_sent_to_others_has_no_header() -> None:
    transparent = text().replace('address = "127.0.0.1"', "version = 4\ntransparent = true")
    with pytest.raises(ConfigError) as caught:
        parse(transparent, "test.toml")
    assert [str(problem) for problem in caught.value.problems] == [
        "test.toml:6: listen[1].proxy-protocol: what was sent to others has no header: give one of "
        "both"
    ]


def test_everybody_is_a_warning() -> None:
    config = read('proxy-protocol = "v2"\nproxy-protocol-from = ["0.0.0.0/0"]')
    (warning,) = config.warnings
    assert warning.startswith("test.toml:6: listen[1].proxy-protocol-from: everybody may send")


def test_what_a_header_says_is_not_ours() -> None:
    """A server without a port is no mistake: the port is another host's."""
    assert read(plug_to="127.0.0.1").warnings == ()
    assert "is the proxy itself" in mistake("", plug_to="127.0.0.1")
    assert "is the proxy itself" in mistake(plug_to="127.0.0.1", acl='to = [":5300"]')
    assert read(plug_to="127.0.0.1", acl='to = ["192.0.2.9", ":53"]').warnings == ()


def test_a_servers_range_of_ports_needs_ports_of_ours() -> None:
    told = mistake(plug_to="198.51.100.1:5060-5061")
    assert told.startswith(
        "10 session-acl[1].plug-to: 5060-5061 are 2 ports, but what PROXY headers"
    )
    assert read("", plug_to="198.51.100.1:5060-5061").warnings == ()


def explained(config: Config, client: str, to: str | None = None) -> list[str]:
    asked = explain.question(config, client, to, lambda address: False)
    assert explain.takers(config, asked)
    return explain.explanation(config, asked, NOON, Unresolved()).lines()


def test_explain_names_the_header() -> None:
    assert "proxy-protocol" not in "\n".join(explained(read(), "192.0.2.9"))
    for kind in ("v2", "spp"):
        lines = explained(read(acl=f'proxy-protocol = "{kind}"'), "192.0.2.9")
        assert lines[-1].startswith(f"proxy-protocol: {kind}, each datagram begins with")


def test_explain_of_whom_a_header_may_name() -> None:
    """Any family, any address and port; what a rule looks at must be given."""
    config = read(plug_to="198.51.100.1", acl='to = ["203.0.113.1"]')
    assert "server: 198.51.100.1:53" in explained(config, "192.0.2.9", "203.0.113.1:53")
    with pytest.raises(InvalidArgument, match="--to with an address is needed"):
        explained(config, "192.0.2.9")
    with pytest.raises(InvalidArgument, match="--to with a port is needed"):
        explained(config, "192.0.2.9", "203.0.113.1")
    assert explained(read(), "2001:db8::9")[0] == "one"


def packed(address: str) -> bytes:
    return ip_address(address).packed


def test_which_sessions_may_go_on() -> None:
    """A reload that changes what a listener expects, or from whom."""
    known = senders.HeaderSenders()
    lent = ListenerSocket(7, None, Place(ip_address("127.0.0.1"), 5300))  # type: ignore[arg-type]
    assert known.enter(lent, read()).header_from == read().listen[0].header_from
    plain = Record(listener=7, client=(packed("192.0.2.9"), 1))
    local = Record(listener=7, client=(packed("192.0.2.1"), 1))
    behind = Record(listener=7, client=(packed("192.0.2.9"), 1), via=(packed("2001:db8::1"), 2))
    stranger = Record(listener=7, client=(packed("192.0.2.1"), 1), via=(packed("192.0.2.2"), 2))
    each = [plain, local, behind, stranger]
    assert [known.allow(record) for record in each] == [False, True, True, False]
    assert known.why(lent, "192.0.2.9") == senders.STRANGER
    assert known.why(lent, "192.0.2.1") == known.why(lent, "2001:db8::5%lo") == senders.NO_HEADER
    assert not list(known.configure(read()))
    (changed,) = known.configure(read(""))
    assert (changed.number, changed.header_from) == (7, ())
    assert [known.allow(record) for record in each] == [True, True, False, False]
    known.remove(7)
    known.remove(7)
    assert not list(known.configure(read()))
