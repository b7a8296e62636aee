"""mirror-to and dscp: what the file may say, what people are told, and what the engines are."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address

import pytest

from udpproxy.errors import ConfigError, InvalidArgument
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import KEEP, Config, Place
from udpproxy.proxy.config.show import render
from udpproxy.proxy.engine.interface import ListenerSocket, Verdict
from udpproxy.proxy.parent.resources import descriptors_needed, families
from udpproxy.proxy.policy import explain
from udpproxy.proxy.policy.rules import Unresolved
from udpproxy.proxy.reg import senders
from udpproxy.proxy.reg.members import MemberNumbers
from udpproxy.proxy.reg.verdicts import Verdicts
from udpproxy.proxy.session.layout import Record

NOON = datetime(2030, 6, 3, 12, 0)


def text(acl: str = "", plug_to: str = "198.51.100.1:53", more: str = "") -> str:
    return f"""max-sessions = 10
[[listen]]
address = "127.0.0.1"
port = "5300-5301"
[[session-acl]]
name = "one"
plug-to = "{plug_to}"
{acl}
{more}
"""


def read(*parts: str, **named: str) -> Config:
    return parse(text(*parts, **named), "test.toml")


def mistake(*parts: str, **named: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*parts, **named)
    (problem,) = caught.value.problems
    return f"{problem.line} {problem.key}: {problem.text}"


ITEM = "8 session-acl[1].mirror-to[1]"
LIST = "8 session-acl[1].mirror-to"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('mirror-to = "192.0.2.1:1"', f"{LIST}: expected a list"),
        ("mirror-to = []", f"{LIST}: the list is empty"),
        ('mirror-to = ["ns.example.org:1"]', f'{ITEM}: "ns.example.org:1" is a name: write'),
        ('mirror-to = ["239.0.0.1:1"]', f"{ITEM}: 239.0.0.1 is not one host"),
        ('mirror-to = ["[ff02::1]:1"]', f"{ITEM}: ff02::1 is not one host"),
        ('mirror-to = ["255.255.255.255:1"]', f"{ITEM}: 255.255.255.255 is not one host"),
        ('mirror-to = ["0.0.0.0:1"]', f"{ITEM}: 0.0.0.0 is no server's address"),
        ('mirror-to = ["fe80::1"]', f'{ITEM}: "fe80::1" is there on each link'),
        ('mirror-to = ["192.0.2.1:1-2"]', f"{ITEM}: 1-2 are 2 ports: give one"),
        ('mirror-to = ["192.0.2.1:1", "192.0.2.1:1"]', f"{LIST}: 192.0.2.1:1 is in the list twice"),
        ('mirror-to = ["198.51.100.1:53"]', f"{LIST}: 198.51.100.1:53 is the server of plug-to"),
        ('mirror-to = ["127.0.0.1:5301"]', f"{ITEM}: 127.0.0.1:5301 is the proxy itself"),
        ('mirror-to = ["127.0.0.1"]', f"{ITEM}: 127.0.0.1:5300 is the proxy itself"),
        (
            f"mirror-to = {[f'192.0.2.{number}:1' for number in range(1, 10)]}",
            f"{LIST}: expected at most 8 receivers, found 9",
        ),
        ("dscp = 64", '8 session-acl[1].dscp: expected "keep" or a number from 0 to 63, found 64'),
        ("dscp = -1", '8 session-acl[1].dscp: expected "keep" or a number from 0 to 63, found -1'),
        ("dscp = true", '8 session-acl[1].dscp: expected "keep" or a number'),
        ('dscp = "ef"', '8 session-acl[1].dscp: expected "keep" or a number'),
    ],
)
def test_mistakes(line: str, told: str) -> None:
    assert mistake(line).startswith(told)


def test_a_rule_that_denies_is_read_for_its_spelling() -> None:
    config = read('action = "deny"\nmirror-to = ["198.51.100.1:53"]\ndscp = 9')
    assert config.receivers() == ()
    assert mistake('action = "deny"\nmirror-to = ["x"]').startswith("9 session-acl[1].mirror-to[1]")


@pytest.mark.parametrize(
    ("line", "value"), [("", 0), ("dscp = 0", 0), ("dscp = 46", 46), ('dscp = "keep"', KEEP)]
)
def test_dscp(line: str, value: object) -> None:
    config = read(line)
    assert config.rules[0].dscp == value
    assert parse(render(config, defaults=False), "shown") == config
    assert ("dscp" in render(config, defaults=False)) == bool(value)


MANY = 'mirror-to = ["192.0.2.7", "[2001:db8::7]:162", "fe80::1%eth0", "192.0.2.7:9"]'


def test_receivers() -> None:
    config = read(MANY, more='[[session-acl]]\nname = "two"\nplug-to = "10.0.0.1"\n' + MANY)
    hosts = ["192.0.2.7", "2001:db8::7", "fe80::1%eth0"]
    assert config.receivers() == tuple(map(ip_address, hosts))
    assert descriptors_needed(config) == descriptors_needed(read()) + 3
    assert families(config) == families(read())
    assert parse(render(config, defaults=False), "shown") == config


def explained(config: Config, to: str | None = None) -> list[str]:
    asked = explain.question(config, "192.0.2.9", to, lambda address: False)
    return explain.explanation(config, asked, NOON, Unresolved()).lines()


def test_explain() -> None:
    found = "\n".join(explained(read()))
    assert "mirror-to" not in found
    assert "dscp" not in found
    lines = explained(read(MANY + "\ndscp = 46"), "127.0.0.1:5301")
    assert lines[-2:] == [
        "mirror-to: 192.0.2.7:5301, [2001:db8::7]:162, [fe80::1%eth0]:5301, 192.0.2.7:9",
        "dscp: 46",
    ]
    assert explained(read('dscp = "keep"'))[-1] == "dscp: keep, of each datagram, both ways"
    with pytest.raises(InvalidArgument, match="--to with a port is needed"):
        explained(read(MANY))
    assert explained(read('mirror-to = ["192.0.2.7:9"]'))[-1] == "mirror-to: 192.0.2.7:9"


def lent(number: int, address: str, port: int) -> ListenerSocket:
    return ListenerSocket(number, None, Place(ip_address(address), port))  # type: ignore[arg-type]


def judged(config: Config) -> Verdicts:
    return Verdicts(config, 1, Unresolved(), (4, 6), {"eth0": 3}, (), MemberNumbers())


def test_verdicts() -> None:
    """Of first datagrams and of sessions that there are; the port is the client's."""
    verdicts = judged(read(MANY + "\ndscp = 46"))
    receivers = (
        ("192.0.2.7", 5301),
        ("2001:db8::7", 162),
        ("fe80::1%3", 5301),
        ("192.0.2.7", 9),
    )
    _, found = verdicts.decide(lent(1, "127.0.0.1", 5301), "192.0.2.9", "127.0.0.1", 5301)
    assert isinstance(found, Verdict)
    assert (found.mirrors, found.tos, found.keeps_dscp) == (receivers, 184, False)
    for generation in (1, 2):
        record = Record(
            client=(ip_address("192.0.2.9").packed, 1),
            addressed=ip_address("127.0.0.1").packed,
            addressed_port=5301,
            server=(ip_address("198.51.100.1").packed, 53),
            generation=generation,
        )
        again = verdicts.again(record)
        assert again is not None
        assert again.mirrors == receivers
    _, found = judged(read('dscp = "keep"')).decide(
        lent(1, "127.0.0.1", 5301), "192.0.2.9", "127.0.0.1", 5301
    )
    assert isinstance(found, Verdict)
    assert (found.mirrors, found.tos, found.keeps_dscp) == ((), 0, True)


LISTEN = '[[listen]]\naddress = "{0}"\nport = {1}\n'


@pytest.mark.parametrize(
    ("acl", "told"),
    [
        ("", set()),
        ("dscp = 46", set()),
        ('dscp = "keep"\naction = "deny"', set()),
        ('dscp = "keep"', {1, 2, 3, 4}),
        ('dscp = "keep"\nto = [":5301"]', {1}),
        ('dscp = "keep"\nto = ["127.0.0.1"]', {1, 2}),
        ('dscp = "keep"\nto = ["2001:db8::/32"]', {3}),
        ('dscp = "keep"\nto = [":5400"]', {3}),
    ],
)
def test_which_listeners_tell_it(acl: str, told: set[int]) -> None:
    """Those alone where a datagram of such a rule can come in."""
    more = LISTEN.format("0.0.0.0", 53) + LISTEN.format("::", 5400) + LISTEN.format("10.0.0.1", 54)
    config = read(acl, more=more)
    known = senders.HeaderSenders()
    places = {1: ("127.0.0.1", 5301), 2: ("0.0.0.0", 53), 3: ("::", 5400), 4: ("10.0.0.1", 54)}
    each = [known.enter(lent(number, *place), config) for number, place in places.items()]
    assert {one.number for one in each if one.tells_dscp} == told
    changed = {(one.number, one.tells_dscp) for one in known.configure(read(more=more))}
    assert changed == {(number, False) for number in told}


def test_behind_headers_any_port_can_be_meant() -> None:
    headers = 'proxy-protocol = "v2"\nproxy-protocol-from = ["192.0.2.0/24"]'
    config = read('dscp = "keep"\nto = [":99"]', more=LISTEN.format("10.0.0.1", 54) + headers)
    assert senders.keeping_dscp(config) == {Place(ip_address("10.0.0.1"), 54)}
