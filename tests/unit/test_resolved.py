"""What processes tell each other of names: read where it comes in, whatever it is."""

from __future__ import annotations

import json
import math
from ipaddress import ip_address
from random import Random

import pytest

from udpproxy.config.model import Address
from udpproxy.errors import LinkError
from udpproxy.process import wire
from udpproxy.process.wire import Plain
from udpproxy.resolver import resolved
from udpproxy.resolver.resolved import LONGEST_TTL, MOST_ADDRESSES, PART, Resolved

A, B = ip_address("192.0.2.1"), ip_address("2001:db8::1")

BAD_ADDRESSES: list[Plain] = [
    *("garbage", "", "1.2.3", "1.2.3.4/8", "1.2.3.4\n", "x" * 100_000, 99999, 1.5, True, None, []),
    *("0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "::ffff:127.0.0.1", "fe80::1%lo"),
]
BAD_TTLS: list[Plain] = [math.nan, -1, -1e300, -math.inf, True, None, "5", [], -(10**400)]


def word(name: Plain, addresses: Plain, ttl: Plain = 5) -> Plain:
    """As it goes over a link."""
    return [name, addresses, ttl]


A_LIST: list[Plain] = ["192.0.2.1"]
BAD_WORDS: list[Plain] = [None, True, 7, "a.test", [], {}, ["a.test"], ["a.test", []]]
BAD_WORDS += [["a.test", A_LIST, 5, 5], word(7, A_LIST), word("", []), word("x" * 254, [])]
BAD_WORDS += [word(".", []), word("x" * 254 + ".", [])]
BAD_WORDS += [word("a.test", "192.0.2.1"), word("a.test", A_LIST * (MOST_ADDRESSES + 1))]
BAD_WORDS += [word("a.test", [address]) for address in BAD_ADDRESSES]
BAD_WORDS += [word("a.test", A_LIST, ttl) for ttl in BAD_TTLS]


def test_a_word_comes_back_as_it_was() -> None:
    words = [Resolved("a.test", (A, B), 5.0), Resolved("b.test", (), 0.0)]
    (part,) = resolved.parts(words)
    message = wire.decode(wire.encode(wire.Tell("names", {"found": part})))
    assert isinstance(message, wire.Tell)
    heard = resolved.read(message.args["found"])
    assert list(heard.words.values()) == words
    assert (heard.refused, heard.why) == (0, "")


@pytest.mark.parametrize("bad", BAD_WORDS, ids=lambda bad: f"{bad!r:.40}")
def test_a_bad_word_costs_itself_only(bad: Plain) -> None:
    heard = resolved.read([bad, word("b.test", A_LIST)])
    assert list(heard.words.values()) == [Resolved("b.test", (A,), 5.0)]
    assert heard.refused == 1
    assert 0 < len(heard.why) < 200


def test_the_longest_name_that_a_file_can_have() -> None:
    name = f"{'x' * 253}."
    assert list(resolved.read([word(name, A_LIST)]).words) == [name]


@pytest.mark.parametrize("told", [None, True, 3, "names", {}, {"a.test": []}])
def test_what_is_no_list_is_one_bad_word(told: Plain) -> None:
    heard = resolved.read(told)
    assert (heard.words, heard.refused) == ({}, 1)


@pytest.mark.parametrize("ttl", [LONGEST_TTL * 2, math.inf, 10**400])
def test_a_long_ttl_is_a_week(ttl: float) -> None:
    assert resolved.read([["a.test", [], ttl]]).words["a.test"].ttl == LONGEST_TTL


def test_names_that_nobody_asked_for() -> None:
    heard = resolved.read([["a.test", [], 1], ["x.test", [], 1], ["a.test", [], 2]], {"a.test"})
    assert heard.words == {"a.test": Resolved("a.test", (), 2.0)}
    assert (heard.refused, heard.why) == (1, "'x.test' is not asked for")


def test_parts_fit_into_packets_whatever_the_names() -> None:
    """100 names of 63 addresses of each family: too much for one packet."""
    many: tuple[Address, ...] = tuple(ip_address(int(A) + i) for i in range(63))
    many += tuple(ip_address(int(B) + (i << 64)) for i in range(63))
    words = [Resolved(f"{i:03}." + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 240, many, 5.0)
             for i in range(100)]  # fmt: skip
    assert len(json.dumps([word.plain() for word in words])) > wire.LARGEST
    back: dict[str, Resolved] = {}
    for part in resolved.parts(words):
        assert len(wire.encode(wire.Tell("names", {"found": part}))) < PART + 1000
        back |= resolved.read(part).words
    assert list(back.values()) == words


def test_more_addresses_than_may_be_are_left_out() -> None:
    many = tuple(ip_address(int(A) + i) for i in range(MOST_ADDRESSES + 5))
    (part,) = resolved.parts([Resolved("a.test", many, 5.0)])
    assert resolved.read(part).words["a.test"].addresses == many[:MOST_ADDRESSES]
    assert resolved.text(many).endswith("192.0.2.16 and 117 more")


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], "x", {"names": []}, {"ttl": 5}, {"names": "a.test", "ttl": 5}),
        *({"names": ["a.test"] * 9, "ttl": 5}, {"names": ["a.test"], "ttl": math.nan}),
        *({"names": [name], "ttl": 5} for name in (7, "", ".", "a..b", "a b", "a\n", "x" * 254)),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_what_is_no_client_s_name(value: Plain) -> None:
    with pytest.raises(LinkError):
        resolved.read_client(value)


def test_answers_of_apr() -> None:
    told = resolved.ClientNames(("a.test", "under_score.test"), 7.0)
    assert resolved.read_client(told.plain()) == told
    word = Resolved("a.test", (A, B), 5.0)
    assert resolved.read_answer("a.test", word.plain()) == word
    with pytest.raises(LinkError, match=r"'b.test' is not asked for"):
        resolved.read_answer("a.test", Resolved("b.test", (A,), 5.0).plain())
    for value in BAD_WORDS:
        with pytest.raises(LinkError):
            resolved.read_answer("a.test", value)


def test_anything_at_all() -> None:
    """What JSON can carry, at random: never another error than ours."""
    rng = Random(41)
    leaves: list[Plain] = [*BAD_ADDRESSES, *BAD_TTLS, "a.test", "192.0.2.1", 5, 10**400]

    def plain(depth: int) -> Plain:
        kind = rng.randrange(4) if depth else 0
        if kind == 1:
            return [plain(depth - 1) for _ in range(rng.randrange(4))]
        if kind == 2:
            keys = rng.sample(["names", "ttl", "addresses", "x"], rng.randrange(4))
            return {key: plain(depth - 1) for key in keys}
        if kind == 3:
            return ["a.test", [plain(0)], plain(0)]
        return rng.choice(leaves)

    read = 0
    for _ in range(20_000):
        value = plain(4)
        for word in resolved.read(value).words.values():
            assert len(word.addresses) <= MOST_ADDRESSES
            assert 0 <= word.ttl <= LONGEST_TTL
            read += 1
        for reader in (resolved.read_client, lambda value: resolved.read_answer("a.test", value)):
            try:
                reader(value)
            except LinkError:
                continue
            read += 1
    assert read
