"""Which whole names are asked for, in which order."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.resolver.question import forward, reverse
from udpproxy.resolver.result import Family, Kind

SEARCH = ("corp.test", "example.org.")

ORDERS = {
    "one word: the search list first": ("db", ["db.corp.test.", "db.example.org.", "db."]),
    "a dot: as it is first": ("db.lab", ["db.lab.", "db.lab.corp.test.", "db.lab.example.org."]),
    "a final dot: only as it is": ("db.", ["db."]),
    "letters outside ASCII": ("bücher.test.", ["xn--bcher-kva.test."]),
    "underscore": ("_sip.lab.", ["_sip.lab."]),
}


@pytest.mark.parametrize(("text", "names"), ORDERS.values(), ids=ORDERS.keys())
def test_order_of_candidates(text: str, names: list[str]) -> None:
    wanted = forward(text, SEARCH, Family.BOTH)
    assert [str(name) for name in wanted.candidates] == names
    assert wanted.text == text
    assert wanted.kinds == (Kind.A, Kind.AAAA)
    assert wanted.known == ()


@pytest.mark.parametrize("search", [("", "."), (), ("a..b",), ("x" * 64,), ("y." * 127,)])
def test_a_useless_search_domain_adds_nothing(search: tuple[str, ...]) -> None:
    assert [str(name) for name in forward("db", search, Family.V4).candidates] == ["db."]


IMPOSSIBLE = ["", ".", "@", "a..b", "x" * 64, "a b", "*.test", "a\nb", "é" * 64, "y." * 127 + "y"]


@pytest.mark.parametrize("text", IMPOSSIBLE)
def test_impossible_name(text: str) -> None:
    wanted = forward(text, SEARCH, Family.BOTH)
    assert wanted.candidates == ()
    assert wanted.known == ()


LOCAL = {Family.BOTH: ["127.0.0.1", "::1"], Family.V4: ["127.0.0.1"], Family.V6: ["::1"]}


@pytest.mark.parametrize("text", ["localhost", "LocalHost.", "db.localhost"])
@pytest.mark.parametrize(("family", "addresses"), LOCAL.items())
def test_localhost_is_known(text: str, family: Family, addresses: list[str]) -> None:
    wanted = forward(text, SEARCH, family)
    assert [str(address) for address in wanted.known] == addresses
    assert wanted.candidates == ()


def test_family() -> None:
    assert forward("db", (), Family.V4).kinds == (Kind.A,)
    assert forward("db", (), Family.V6).kinds == (Kind.AAAA,)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "7.2.0.192.in-addr.arpa."),
        ("2001:db8::1", "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa."),
        ("fe80::1%eth0", "1." + "0." * 28 + "8.e.f.ip6.arpa."),
    ],
)
def test_reverse(address: str, name: str) -> None:
    wanted = reverse(ip_address(address))
    assert [str(candidate) for candidate in wanted.candidates] == [name]
    assert wanted.kinds == (Kind.PTR,)
    assert wanted.text == address.partition("%")[0]


@settings(deadline=None)
@given(st.text(max_size=300), st.lists(st.text(max_size=80), max_size=3))
def test_any_text(text: str, search: list[str]) -> None:
    for candidate in forward(text, search, Family.BOTH).candidates:
        assert candidate.is_absolute()
