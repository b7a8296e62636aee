"""The first ACL whose conditions all hold decides, and can say why."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address

import pytest

from udpproxy.proxy.config.load import parse
from udpproxy.proxy.policy.rules import Places, Policy, Question, Unresolved, server_for

NOBODY = Unresolved()
NOON = datetime(2030, 1, 2, 12, 0)  # a Wednesday
HEAD = """
max-sessions = 10
[[listen]]
address = "0.0.0.0"
port = 53
[[listen]]
address = "::"
port = 53
"""


def policy(*acls: str) -> Policy:
    blocks = [
        f'[[session-acl]]\nname = "{index}"\nplug-to = "192.0.2.1:53"\n{acl}\n'
        for index, acl in enumerate(acls, 1)
    ]
    return Policy(parse(HEAD + "".join(blocks), "test.toml"))


def ask(client: str = "10.0.0.1", addressed: str = "192.0.2.9", port: int = 53) -> Question:
    return Question(ip_address(client), ip_address(addressed), port)


def decided(asked: Policy, question: Question, at: datetime = NOON) -> str:
    found = asked.decide(question, at, NOBODY).rule
    return found.name if found else "-"


def test_no_acl_refuses() -> None:
    assert decided(policy(), ask()) == "-"
    assert policy().explain(ask(), NOON, NOBODY) == []
    assert policy().next_change(NOON) is None


def test_the_first_that_holds_decides() -> None:
    asked = policy('from = ["10.0.0.0/24"]', 'from = ["10.0.0.0/8", "2001:db8::/32"]')
    assert decided(asked, ask("10.0.0.1")) == "1"
    assert decided(asked, ask("10.9.0.1")) == "2"
    assert decided(asked, ask("2001:db8::1")) == "2"
    assert decided(asked, ask("192.0.2.1")) == "-"


def test_a_denial_decides_too() -> None:
    found = policy('action = "deny"', "").decide(ask(), NOON, NOBODY).rule
    assert found is not None
    assert not found.accept


@pytest.mark.parametrize(
    ("to", "addressed", "port", "wanted"),
    [
        (["192.0.2.9:53"], "192.0.2.9", 53, "1"),
        (["192.0.2.9:53"], "192.0.2.9", 54, "-"),
        (["192.0.2.9:53"], "192.0.2.8", 53, "-"),
        (["192.0.2.0/24"], "192.0.2.8", 9999, "1"),
        ([":5060-5062"], "192.0.2.8", 5062, "1"),
        ([":5060-5062"], "192.0.2.8", 5063, "-"),
        ([":53", "10.0.0.1:53"], "192.0.2.8", 53, "1"),
        (["10.0.0.1:53", "10.0.0.2:53", "192.0.2.8"], "10.0.0.2", 53, "1"),
        (["10.0.0.1:53", "10.0.0.2:53", "192.0.2.8"], "192.0.2.8", 1, "1"),
        (["10.0.0.1:53", "10.0.0.2:53", "192.0.2.8"], "10.0.0.3", 53, "-"),
        (["[2001:db8::/32]:53"], "2001:db8::1", 53, "1"),
    ],
)
def test_to(to: list[str], addressed: str, port: int, wanted: str) -> None:
    assert decided(policy(f"to = {to}"), ask(addressed=addressed, port=port)) == wanted


def test_time_items_are_alternatives_and_not_time_is_none_of_them() -> None:
    asked = policy('time = ["mon", "wed 11:00-13:00"]\nnot-time = ["1. jan", "12:30-12:40"]')
    assert decided(asked, ask(), NOON) == "1"
    assert decided(asked, ask(), NOON.replace(hour=13)) == "-"
    assert decided(asked, ask(), NOON.replace(minute=30)) == "-"
    assert decided(asked, ask(), datetime(2029, 1, 1, 12)) == "-"  # a Monday, but New Year's Day
    assert asked.next_change(NOON) == NOON.replace(minute=30)


def test_every_step_says_why() -> None:
    asked = policy(
        'from = ["192.0.2.0/24"]',
        'to = [":54"]',
        'time = ["mon"]',
        'not-time = ["wed"]',
        'from = ["10.0.0.1"]\nto = ["192.0.2.9:53"]\ntime = ["wed"]\nnot-time = ["thu"]',
        "",
    )
    steps = asked.explain(ask(), NOON, NOBODY)
    assert [(step.rule.name, step.holds, step.why) for step in steps] == [
        ("1", False, "from: 10.0.0.1 is in none of its networks"),
        ("2", False, "to: 192.0.2.9 port 53 is none of its items"),
        ("3", False, "time: Wed 2030-01-02 12:00 is in none of its periods"),
        ("4", False, "not-time: Wed 2030-01-02 12:00 is in one of its periods"),
        ("5", True, "every condition holds"),
    ]
    assert decided(asked, ask()) == "5"


def test_where_a_session_goes() -> None:
    given = policy("").decide(ask(), NOON, NOBODY).rule
    assert given is not None
    assert server_for(given, ask(port=99), NOBODY) == (ip_address("192.0.2.1"), 53)
    text = HEAD + '[[session-acl]]\nname = "x"\nplug-to = "192.0.2.1"\n'
    asked = parse(text, "test.toml").rules[0]
    assert server_for(asked, ask(port=99), NOBODY) == (ip_address("192.0.2.1"), 99)


def test_a_denial_has_no_server() -> None:
    text = HEAD + '[[session-acl]]\nname = "x"\naction = "deny"\n'
    with pytest.raises(ValueError, match="x has no server"):
        server_for(parse(text, "test.toml").rules[0], ask(), NOBODY)


TRANSPARENT = """
max-sessions = 10
[[listen]]
transparent = true
port = [53, "5060-5061"]
[[listen]]
address = "127.0.0.1"
port = [70, 71]
[[session-acl]]
name = "here"
transparent = false
plug-to = "192.0.2.1"
[[session-acl]]
name = "there"
transparent = true
"""


@pytest.mark.parametrize(("transparent", "wanted"), [(False, "here"), (True, "there")])
def test_what_was_sent_to_others(wanted: str, *, transparent: bool) -> None:
    config = parse(TRANSPARENT, "test.toml")
    asked = Policy(config)
    question = Question(
        ip_address("10.0.0.1"), ip_address("192.0.2.9"), 53, transparent=transparent
    )
    assert decided(asked, question) == wanted
    steps = asked.explain(question, NOON, NOBODY)
    if transparent:
        assert steps[0].why == "transparent: 192.0.2.9 is another host's"
        assert server_for(steps[-1].rule, question, NOBODY) == (ip_address("192.0.2.9"), 53)
    only = Policy(replace(config, rules=config.rules[1:]))
    if not transparent:
        (step,) = only.explain(question, NOON, NOBODY)
        assert step.why == "transparent: 192.0.2.9 is this host's"


RANGED = """
max-sessions = 10
[[listen]]
address = "0.0.0.0"
port = ["5060-5061", 53]
[[listen]]
address = "192.0.2.9"
port = [60, 61, 62]
[[listen]]
address = "::1"
port = [53, 60, 70]
[[session-acl]]
name = "x"
plug-to = "192.0.2.1:700-702"
"""


@pytest.mark.parametrize(
    ("addressed", "port", "server"),
    [
        ("192.0.2.7", 5060, 700),
        ("192.0.2.7", 53, 702),
        ("192.0.2.9", 5061, 701),
        ("192.0.2.9", 62, 702),
        ("::1", 53, 700),
        ("::1", 70, 702),
        ("192.0.2.7", 99, 700),
        ("::2", 60, 701),
    ],
)
def test_ports_one_to_one(addressed: str, port: int, server: int) -> None:
    config = parse(RANGED, "test.toml")
    place = Places(config).of(ip_address(addressed), port)
    question = Question(ip_address("10.0.0.1"), ip_address(addressed), port, place)
    assert server_for(config.rules[0], question, NOBODY) == (ip_address("192.0.2.1"), server)


def test_a_place_that_nobody_needs() -> None:
    config = parse(RANGED.replace(":700-702", ":700"), "test.toml")
    assert Places(config).of(ip_address("::1"), 70) == 0
