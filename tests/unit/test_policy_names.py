"""Rules with names in them: what is known decides, and what is not known yet waits."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpproxy.config.model import Address
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.policy.explain import explanation
from udpproxy.proxy.policy.rules import Choice, Policy, Question, Unresolved, server_for

NOON = datetime(2030, 1, 2, 12, 0)
HEAD = 'max-sessions = 10\n[[listen]]\naddress = "0.0.0.0"\nport = 53\n'


class Known:
    """Just what the test says; `asked` are the clients whose names were wanted."""

    def __init__(
        self, addresses: dict[str, list[str]] | None = None, names: tuple[str, ...] | None = None
    ) -> None:
        self._addresses = addresses or {}
        self._names = names
        self.asked: list[str] = []

    def addresses(self, name: str) -> tuple[Address, ...]:
        return tuple(map(ip_address, self._addresses.get(name, [])))

    def names_of(self, client: Address) -> tuple[str, ...] | None:
        self.asked.append(str(client))
        return self._names


def config(*acls: str) -> Config:
    blocks = (
        f'[[session-acl]]\nname = "{i}"\n{acl}\n'
        + ("" if "plug-to" in acl else 'plug-to = "192.0.2.1:53"\n')
        for i, acl in enumerate(acls, 1)
    )
    return parse(HEAD + "".join(blocks), "test.toml")


def ask(client: str = "10.0.0.1", addressed: str = "192.0.2.9", port: int = 53) -> Question:
    return Question(ip_address(client), ip_address(addressed), port)


def decide(known: Known, *acls: str, question: Question | None = None) -> tuple[str, bool, bool]:
    choice = Policy(config(*acls)).decide(question or ask(), NOON, known)
    return choice.rule.name if choice.rule else "-", choice.pending, choice.by_name


def test_a_name_matches_by_its_addresses() -> None:
    acl = 'from = ["192.0.2.0/24", "a.test", "b.test"]'
    assert decide(Known(), acl)[0] == "-"
    assert decide(Known({"b.test": ["10.0.0.2", "10.0.0.1"]}), acl)[0] == "1"
    assert decide(Known({"b.test": ["10.0.0.2"]}), acl)[0] == "-"
    assert decide(Known(), acl, question=ask("192.0.2.1"))[0] == "1"


def test_a_name_as_the_address_that_was_written_to() -> None:
    acl = 'to = ["gw.test:53", "gw6.test"]'
    known = Known({"gw.test": ["192.0.2.9"], "gw6.test": ["2001:db8::9"]})
    assert decide(known, acl)[0] == "1"
    assert decide(known, acl, question=ask(port=54))[0] == "-"
    assert decide(Known(), acl)[0] == "-"


PATTERN = 'from = ["*.lab.test", "10.9.0.0/16"]'


def test_a_pattern_waits_for_the_client_s_name() -> None:
    assert decide(Known(names=None), PATTERN, "") == ("1", True, True)
    assert decide(Known(names=("a.lab.test",)), PATTERN, "") == ("1", False, True)
    assert decide(Known(names=("x.test", "b.a.lab.test")), PATTERN, "") == ("1", False, True)
    assert decide(Known(names=("lab.test",)), PATTERN, "") == ("2", False, True)
    assert decide(Known(names=()), PATTERN) == ("-", False, True)


@pytest.mark.parametrize(
    "acl",
    [
        'from = ["*.lab.test", "10.0.0.0/8"]',
        PATTERN + '\nto = [":54"]',
        PATTERN + '\ntime = ["mon"]',
        PATTERN + '\nnot-time = ["wed"]',
        "",
    ],
)
def test_a_name_is_only_asked_for_where_it_decides(acl: str) -> None:
    known = Known()
    assert decide(known, acl, "")[1:] == (False, False)
    assert known.asked == []


@pytest.mark.parametrize(
    ("client", "found", "versions", "server"),
    [
        ("10.0.0.1", ["192.0.2.1", "192.0.2.2"], (4, 6), "192.0.2.1"),
        ("10.0.0.1", ["2001:db8::1", "192.0.2.2"], (4, 6), "192.0.2.2"),
        ("2001:db8::9", ["192.0.2.1", "2001:db8::1"], (4, 6), "2001:db8::1"),
        ("2001:db8::9", ["192.0.2.1", "2001:db8::1"], (4,), "192.0.2.1"),
        ("10.0.0.1", ["2001:db8::1"], (4, 6), "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], (4,), None),
        ("10.0.0.1", ["0.0.0.0", "224.0.0.1", "255.255.255.255"], (4, 6), None),
        ("10.0.0.1", ["224.0.0.1", "192.0.2.3"], (4, 6), "192.0.2.3"),
        ("10.0.0.1", [], (4, 6), None),
    ],
)
def test_the_server_is_the_first_address_of_the_wanted_family(
    client: str, found: list[str], versions: tuple[int, ...], server: str | None
) -> None:
    (acl,) = config('plug-to = "srv.test"').rules
    answer = server_for(acl, ask(client), Known({"srv.test": found}), versions)
    assert answer == (None if server is None else (ip_address(server), 53))


def told(known: Known | Unresolved, *acls: str) -> list[str]:
    return explanation(config(*acls), ask(), NOON, known).lines()


def test_explanations() -> None:
    named = 'plug-to = "srv.test:99"'
    assert "server: 192.0.2.1:99 (srv.test)" in told(Known({"srv.test": ["192.0.2.1"]}), named)
    assert "server: srv.test, which is not resolved" in told(Known(), named)
    assert told(Known(names=("a.lab.test",)), PATTERN)[0] == "1"
    fits_not = "not 1 (line 5): from: 10.0.0.1 is a.test, b.test, which fits none of its patterns"
    assert fits_not in told(Known(names=("a.test", "b.test")), PATTERN)
    unknown = "from: 10.0.0.1 has no name that is known, which fits none of its patterns"
    for known in (Known(names=()), Known(names=None), Unresolved()):
        assert f"not 1 (line 5): {unknown}" in told(known, PATTERN)


def test_nothing_is_known() -> None:
    nothing = Unresolved()
    assert nothing.addresses("a.test") == ()
    assert Policy(config(PATTERN)).decide(ask(), NOON, nothing) == Choice(None, by_name=True)


NETWORKS = ["10.0.0.0/8", "10.0.0.0/30", "10.0.0.1", "10.0.0.6", "0.0.0.0/0", "2001:db8::/32"]
NAMES = {"a.test": ["10.0.0.2", "10.0.0.9"], "b.test": [], "c.test": ["2001:db8::1"]}


@given(
    rules=st.lists(
        st.lists(st.sampled_from([*NETWORKS, *NAMES]), min_size=1, max_size=4), max_size=4
    ),
    client=st.integers(0, 15),
    other=st.integers(0, 15),
)
def test_an_answer_holds_for_all_with_the_same_bits(
    rules: list[list[str]], client: int, other: int
) -> None:
    policy = Policy(config(*(f"from = {items!r}" for items in rules)))
    known, base = Known(NAMES), int(ip_address("10.0.0.0"))
    one, two = ip_address(base + client), ip_address(base + other)
    shift = 32 - policy.bits(one, known)
    if int(one) >> shift == int(two) >> shift:
        answers = [policy.decide(Question(each, one, 53), NOON, known).rule for each in (one, two)]
        assert answers[0] is answers[1]


def test_bits_of_many_networks() -> None:
    many = [f"10.{a}.{b}.0/24" for a in range(8) for b in range(200)]
    policy = Policy(config(f"from = {many!r}"))
    assert policy.bits(ip_address("10.1.1.1"), Unresolved()) == 24
    assert policy.bits(ip_address("192.0.2.1"), Unresolved()) in range(1, 25)
    assert policy.bits(ip_address("2001:db8::1"), Unresolved()) == 0
    assert Policy(config("")).bits(ip_address("192.0.2.1"), Unresolved()) == 0
