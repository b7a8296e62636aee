"""[[servers]]: several servers for one rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address

import pytest

from udpproxy.config.model import Name, Ports
from udpproxy.errors import ConfigError
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import Config, Group, Health, Probe, Server
from udpproxy.proxy.config.names import names
from udpproxy.proxy.config.show import render
from udpproxy.proxy.policy import explain
from udpproxy.proxy.policy.rules import Question, Unresolved

HEAD = 'max-sessions = 10\n[[listen]]\naddress = "127.0.0.1"\nport = 5353\n'
RULE = '[[session-acl]]\nname = "one"\nplug-to = "@dns"\n'
GROUP = '[[servers]]\nname = "dns"\nmembers = ["192.0.2.1:53", "[2001:db8::1]:53", "ns.test"]\n'


def server(host: str, port: int | None) -> Server:
    found = ip_address(host) if host[-1].isdigit() else Name(host)
    return Server(host=found, ports=None if port is None else Ports(first=port, last=port))


def config(group: str = GROUP, rule: str = RULE) -> Config:
    return parse(HEAD + group + rule, "test.toml", ephemeral=(0, 0))


def mistakes(group: str = GROUP, rule: str = RULE) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(group, rule)
    return str(caught.value).splitlines()


def test_smallest() -> None:
    (found,) = config().groups
    members = (server("192.0.2.1", 53), server("2001:db8::1", 53), server("ns.test", None))
    assert found == Group(name="dns", members=members, weights=(1, 1, 1))
    assert found.health == Health()
    assert config().rules[0].group == found
    assert config().rules[0].server is None
    assert config().rules[0].servers == members
    assert names(config()) == ("ns.test",)


def test_everything() -> None:
    text = """[[servers]]
name = "dns"
members = ["192.0.2.1:53", "192.0.2.2:53"]
weights = [2, 1]
standby = ["192.0.2.9:53"]
balance = "two-choices"
down-sessions = "move"
[servers.health]
passive = false
fall = 5
rise = 1
retry = "30s"
probe = { send = "hex:00ff", expect = "text:pong", interval = "2s", timeout = "500ms" }
"""
    probe = Probe(send=b"\0\xff", expect=b"pong", interval=2.0, timeout=0.5)
    assert config(text).groups == (
        Group(
            name="dns",
            members=(server("192.0.2.1", 53), server("192.0.2.2", 53)),
            weights=(2, 1),
            standby=(server("192.0.2.9", 53),),
            balance="two-choices",
            down_sessions="move",
            health=Health(passive=False, fall=5, rise=1, retry=30.0, probe=probe),
        ),
    )


@pytest.mark.parametrize(
    ("given", "probe"),
    [
        ('dns = "Example.org. a"', Probe(dns="example.org A")),
        ("ntp = true", Probe(ntp=True)),
        ('send = "text:ping"', Probe(send=b"ping")),
    ],
)
def test_probes(given: str, probe: Probe) -> None:
    group = f"{GROUP.replace('ns.test', 'ns.test:53')}[servers.health]\nprobe = {{ {given} }}\n"
    assert config(group).groups[0].health.probe == probe


@pytest.mark.parametrize("balance", ["client", "client-port", "least-sessions", "two-choices"])
@pytest.mark.parametrize(
    "probe", [None, Probe(send=b"\x01a"), Probe(send=b"a b", expect=b'"'), Probe(ntp=True)]
)
@pytest.mark.parametrize("defaults", [True, False])
def test_what_is_shown_reads_back(balance: str, probe: Probe | None, *, defaults: bool) -> None:
    found = config(GROUP.replace("ns.test", "ns.test:53"))
    health = Health(passive=probe is None, fall=9, retry=0.25, probe=probe)
    changed = replace(found.groups[0], balance=balance, weights=(1, 2, 1000), health=health)
    wanted = replace(
        found, groups=(changed,), rules=(replace(found.rules[0], group=changed),), warnings=()
    )
    read = parse(render(wanted, defaults=defaults), "shown", ephemeral=(0, 0))
    assert replace(read, warnings=()) == wanted


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ('name = "dns"\n', "members: must be given"),
        ('members = ["192.0.2.1:53"]\n', "name: must be given"),
        ('name = "@dns"\nmembers = ["192.0.2.1:53"]\n', 'without "@"'),
        ('name = "dns"\nmembers = []\n', "the list is empty"),
        ('name = "dns"\nmembers = ["192.0.2.1:53-55"]\n', "has one port"),
        ('name = "dns"\nmembers = ["224.0.0.1:53"]\n', "is not one host"),
        ('name = "dns"\nmembers = ["192.0.2.1:53", "192.0.2.1:53"]\n', "is in the group twice"),
        (
            'name = "dns"\nmembers = ["192.0.2.1:53"]\nstandby = ["192.0.2.1:53"]\n',
            "standby: 192.0.2.1:53 is in the group twice",
        ),
        ('name = "dns"\nmembers = ["192.0.2.1:53"]\nweights = [1, 2]\n', "give one each"),
        ('name = "dns"\nmembers = ["192.0.2.1:53"]\nweights = [0]\n', "weights[1]"),
        ('name = "dns"\nmembers = ["192.0.2.1:53"]\nbalance = "random"\n', "expected one of"),
        ('name = "dns"\nmembers = ["192.0.2.1:53"]\nretry = "1s"\n', "unknown key"),
        (
            'name = "dns"\nmembers = ["192.0.2.1:53"]\nhealth = { fall = 0 }\n',
            "a number from 1",
        ),
        (
            'name = "dns"\nmembers = ["192.0.2.1:53"]\nhealth = { probe = {} }\n',
            "one of send, dns and ntp",
        ),
        (
            'name = "dns"\nmembers = ["192.0.2.1:53"]\n'
            'health = { probe = { ntp = true, expect = "text:a" } }\n',
            "is only used with send",
        ),
        (
            'name = "dns"\nmembers = ["192.0.2.1:53"]\nhealth = { probe = { send = "text:" } }\n',
            "expected 1 to 1200 bytes, found 0",
        ),
        (
            'name = "dns"\nmembers = ["192.0.2.1:53"]\nhealth = { probe = { send = "ping" } }\n',
            'expected "text:..." or "hex:..."',
        ),
        (
            'name = "dns"\nmembers = ["192.0.2.1:53"]\n'
            'health = { probe = { dns = "example.org ANY" } }\n',
            "expected a name and a type",
        ),
        (
            'name = "dns"\nmembers = ["192.0.2.1:53"]\n'
            'health = { probe = { ntp = true, timeout = "9s" } }\n',
            "longer than the interval",
        ),
        (
            'name = "dns"\nmembers = ["192.0.2.1"]\nhealth = { probe = { ntp = true } }\n',
            "has no port that could be asked",
        ),
    ],
)
def test_mistakes(group: str, told: str) -> None:
    assert any(told in line for line in mistakes(f"[[servers]]\n{group}"))


def test_a_group_that_is_not_there() -> None:
    told = mistakes(GROUP, RULE.replace("@dns", "@web"))
    assert any('no [[servers]] has the name "web"; there is @dns' in line for line in told)
    assert any("there is none" in line for line in mistakes("", RULE))


def test_names_of_groups() -> None:
    assert any('"dns" is already the name of line 5' in line for line in mistakes(GROUP + GROUP))


def test_a_group_that_nobody_uses_is_a_warning() -> None:
    rule = RULE.replace("@dns", "192.0.2.1:53")
    assert any('no rule has plug-to = "@dns"' in line for line in config(GROUP, rule).warnings)
    assert not any("no rule has" in line for line in config().warnings)


def test_a_member_that_is_the_proxy_itself() -> None:
    group = GROUP.replace("192.0.2.1:53", "127.0.0.1:5353")
    assert any("is the proxy itself" in line for line in mistakes(group))


def test_broadcast_has_no_group() -> None:
    rule = f'{RULE}type = "broadcast"\nbroadcast-network = "192.0.2.0/24"\n'
    assert any("needs an address, found a group" in line for line in mistakes(GROUP, rule))


def test_too_many() -> None:
    members = ", ".join(f'"192.0.2.1:{port}"' for port in range(1, 66))
    told = mistakes(f'[[servers]]\nname = "dns"\nmembers = [{members}]\n')
    assert any("65 with standby: at most 64" in line for line in told)
    members = ", ".join(f'"192.0.2.1:{port}"' for port in range(1, 65))
    groups = (f'[[servers]]\nname = "{n}"\nmembers = [{members}]\n' for n in range(63))
    assert any("4032 servers in all groups" in line for line in mistakes("".join(groups), ""))


@pytest.mark.parametrize(
    ("standby", "told"),
    [
        ("", "@dns, one of 192.0.2.1:53, [2001:db8::1]:53, ns.test, which is not resolved "),
        ('standby = ["192.0.2.9"]\n', "; while none of them is up 192.0.2.9:5353 (balance client)"),
    ],
)
def test_what_explain_says(standby: str, told: str) -> None:
    asked = Question(ip_address("192.0.2.200"), ip_address("127.0.0.1"), 5353)
    found = explain.explanation(config(GROUP + standby), asked, datetime.now(), Unresolved())
    assert told in found.server
