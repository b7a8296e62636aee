"""Questions out, answers in: what is accepted, what is read from it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.resolver import codec, guard
from udpproxy.resolver.codec import Answer, Echo, Query
from udpproxy.resolver.result import Failure, Kind

NAME = dns.name.from_text("www.example.org.")
SOA = "ns. root. 1 2 3 4 {minimum}"


def asked(kind: Kind = Kind.A, *, seed: int = 7, name: dns.name.Name = NAME) -> Query:
    return codec.query(name, kind, random.Random(seed), edns=True)


def rrset(owner: str, kind: str, *values: str, ttl: int = 300) -> dns.rrset.RRset:
    return dns.rrset.from_text(owner, ttl, "IN", kind, *values)


def reply(query: Query, *answer: dns.rrset.RRset) -> dns.message.Message:
    message = dns.message.make_response(dns.message.from_wire(query.wire))
    message.answer.extend(answer)
    return message


def said(query: Query, message: dns.message.Message) -> Answer | None:
    wire = message.to_wire()
    assert codec.echo(query, wire) is Echo.EXACT
    return codec.read(query, wire, guard.TCP_LIMIT)


def test_a_query_is_what_the_parser_reads() -> None:
    query = asked()
    message = dns.message.from_wire(query.wire)
    assert message.question[0].name == NAME
    assert int(message.question[0].rdtype) == Kind.A
    assert message.flags == dns.flags.RD
    assert (message.edns, message.payload) == (0, guard.UDP_LIMIT)
    assert len(codec.query(NAME, Kind.A, random.Random(7), edns=False).wire) == query.end


def test_id_and_letter_case_are_random() -> None:
    queries = [asked(seed=seed) for seed in range(200)]
    assert len({query.wire[:2] for query in queries}) > 190
    assert len({query.wire[12 : query.end] for query in queries}) > 190


def test_only_the_very_question_is_answered() -> None:
    query = asked()
    good = reply(query, rrset("www.example.org.", "A", "192.0.2.1")).to_wire()
    assert codec.echo(query, good) is Echo.EXACT
    for place in [0, 1, 2, 5, 12, 13, query.end - 3, query.end - 1]:
        bad = bytearray(good)
        bad[place] ^= 0x80
        assert codec.echo(query, bytes(bad)) is Echo.STRANGER
    assert codec.echo(query, query.wire) is Echo.STRANGER
    assert codec.echo(query, good[: query.end - 1]) is Echo.STRANGER
    assert codec.echo(query, b"") is Echo.STRANGER
    lower = good[:12] + good[12 : query.end].lower() + good[query.end :]
    assert codec.echo(query, lower) is Echo.FOLDED


def test_another_opcode_is_no_answer() -> None:
    query = asked()
    message = reply(query)
    message.set_opcode(dns.opcode.NOTIFY)
    assert codec.echo(query, message.to_wire()) is Echo.STRANGER


def test_truncation() -> None:
    message = reply(asked())
    assert not codec.is_truncated(message.to_wire())
    message.flags |= dns.flags.TC
    assert codec.is_truncated(message.to_wire())


def test_addresses_in_the_order_of_the_answer() -> None:
    query = asked()
    wire = reply(query, rrset("www.example.org.", "A", "192.0.2.9", "192.0.2.1")).to_wire()
    answer = codec.read(query, wire, guard.UDP_LIMIT)
    assert answer is not None
    # dnspython shuffles what it writes.
    expected = sorted(
        map(ip_address, ["192.0.2.9", "192.0.2.1"]), key=lambda a: wire.find(a.packed)
    )
    assert answer == Answer(addresses=tuple(expected), ttl=300)


def test_aaaa_and_ptr() -> None:
    query = asked(Kind.AAAA)
    answer = said(query, reply(query, rrset("www.example.org.", "AAAA", "2001:db8::1")))
    assert answer == Answer(addresses=(ip_address("2001:db8::1"),), ttl=300)
    query = asked(Kind.PTR)
    answer = said(query, reply(query, rrset("www.example.org.", "PTR", "Host.Example.NET.")))
    assert answer == Answer(names=("host.example.net",), ttl=300)


def test_a_name_that_no_host_has_is_left_out() -> None:
    query = asked(Kind.PTR)
    names = rrset("www.example.org.", "PTR", r"evil\010line.test.", "good.test.", ".")
    assert said(query, reply(query, names)) == Answer(names=("good.test",), ttl=300)
    only = rrset("www.example.org.", "PTR", r"a\032b.test.", ttl=60)
    assert said(query, reply(query, only)) == Answer(Failure.NODATA, ttl=60)


def chain(aliases: int) -> list[dns.rrset.RRset]:
    names = ["www.example.org.", *[f"n{number}.test." for number in range(aliases)]]
    links = itertools.pairwise(names)
    sets = [rrset(owner, "CNAME", target, ttl=100 - i) for i, (owner, target) in enumerate(links)]
    return [*sets, rrset(names[-1], "A", "192.0.2.1", ttl=500)]


def test_aliases_are_followed_and_the_smallest_ttl_counts() -> None:
    query = asked()
    answer = said(query, reply(query, *chain(8)))
    assert answer == Answer(addresses=(ip_address("192.0.2.1"),), ttl=93)


def test_nine_aliases_are_too_many() -> None:
    query = asked()
    assert said(query, reply(query, *chain(9))) == Answer(Failure.MALFORMED)


def test_endless_aliases() -> None:
    query = asked()
    loop = [
        rrset("www.example.org.", "CNAME", "b.test."),
        rrset("b.test.", "CNAME", "www.example.org."),
    ]
    assert said(query, reply(query, *loop)) == Answer(Failure.MALFORMED)


def test_an_address_outside_the_chain_is_none() -> None:
    query = asked()
    stray = [rrset("www.example.org.", "CNAME", "b.test."), rrset("c.test.", "A", "6.6.6.6")]
    assert said(query, reply(query, *stray)) == Answer(Failure.NODATA)
    message = reply(query)
    message.additional.append(rrset("www.example.org.", "A", "6.6.6.6"))
    assert said(query, message) == Answer(Failure.NODATA)


def test_addresses_that_are_no_host_s_are_not_there() -> None:
    query = asked(Kind.AAAA)
    nowhere = ("::", "ff02::1", "::ffff:192.0.2.1")
    message = reply(query, rrset("www.example.org.", "AAAA", *nowhere, "2001:db8::1"))
    assert said(query, message) == Answer(addresses=(ip_address("2001:db8::1"),), ttl=300)
    message = reply(query, rrset("www.example.org.", "AAAA", *nowhere))
    assert said(query, message) == Answer(Failure.NODATA, ttl=300)
    query = asked(Kind.A)
    nowhere = ("0.0.0.0", "224.0.0.1", "255.255.255.255")
    message = reply(query, rrset("www.example.org.", "A", *nowhere))
    assert said(query, message) == Answer(Failure.NODATA, ttl=300)


TTLS = {0: 0, 2**31 - 1: 2**31 - 1, 2**31: 0, 2**32 - 1: 0}


@pytest.mark.parametrize(("sent", "read"), TTLS.items())
def test_extreme_ttl(sent: int, read: int) -> None:
    query = asked()
    wire = reply(query, rrset("www.example.org.", "A", "192.0.2.1", ttl=0x01020304)).to_wire()
    wire = wire.replace(b"\1\2\3\4", sent.to_bytes(4, "big"))
    answer = codec.read(query, wire, guard.UDP_LIMIT)
    assert answer == Answer(addresses=(ip_address("192.0.2.1"),), ttl=read)


def denial(query: Query, rcode: dns.rcode.Rcode, **ttl: int) -> dns.message.Message:
    message = reply(query)
    message.set_rcode(rcode)
    if ttl:
        soa = SOA.format(minimum=ttl["minimum"])
        message.authority.append(rrset("example.org.", "SOA", soa, ttl=ttl["own"]))
    return message


def test_denials_have_the_smaller_of_the_ttls_of_soa() -> None:
    query = asked()
    message = denial(query, dns.rcode.NXDOMAIN, minimum=40, own=50)
    assert said(query, message) == Answer(Failure.NXDOMAIN, ttl=40)
    message = denial(query, dns.rcode.NOERROR, minimum=60, own=50)
    assert said(query, message) == Answer(Failure.NODATA, ttl=50)
    message.answer.append(rrset("www.example.org.", "CNAME", "gone.test.", ttl=30))
    assert said(query, message) == Answer(Failure.NODATA, ttl=30)
    assert said(query, denial(query, dns.rcode.NXDOMAIN)) == Answer(Failure.NXDOMAIN)


def test_a_denial_with_addresses_is_a_denial() -> None:
    query = asked()
    message = reply(query, rrset("www.example.org.", "A", "192.0.2.1"))
    message.set_rcode(dns.rcode.NXDOMAIN)
    assert said(query, message) == Answer(Failure.NXDOMAIN)


def test_a_referral_is_no_denial() -> None:
    query = asked()
    message = reply(query)
    message.authority.append(rrset("org.", "NS", "ns.test."))
    assert said(query, message) == Answer(Failure.REFERRAL)
    message.answer.append(rrset("www.example.org.", "CNAME", "gone.test."))
    assert said(query, message) == Answer(Failure.NODATA)


RCODES = {
    dns.rcode.SERVFAIL: Failure.SERVFAIL,
    dns.rcode.REFUSED: Failure.REFUSED,
    dns.rcode.FORMERR: Failure.FORMERR,
    dns.rcode.NOTIMP: Failure.FORMERR,
    dns.rcode.BADVERS: Failure.FORMERR,
    dns.rcode.YXDOMAIN: Failure.RCODE,
}


@pytest.mark.parametrize(("rcode", "failure"), RCODES.items())
def test_response_codes(rcode: dns.rcode.Rcode, failure: Failure) -> None:
    query = asked()
    assert said(query, denial(query, rcode)) == Answer(failure)


def test_what_cannot_be_read() -> None:
    query = asked()
    wire = reply(query, rrset("www.example.org.", "A", "192.0.2.1")).to_wire()
    assert codec.read(query, wire[:-1], guard.UDP_LIMIT) is None
    # Sane to the guard, not to the parser: a second EDNS record.
    edns = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
    doubled = wire[:10] + b"\0\2" + wire[12:] + edns * (2 - wire[11])
    assert isinstance(guard.screen(doubled, guard.UDP_LIMIT), bytes)
    assert codec.read(query, doubled, guard.UDP_LIMIT) is None


@settings(deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_never_accepted(data: bytes, begin_well: bool) -> None:  # noqa: FBT001
    query = asked()
    data = query.wire[:2] + b"\x81\x80" + data if begin_well else data
    if codec.echo(query, data) is not Echo.STRANGER:
        assert data[:2] == query.wire[:2]
        assert data[12 : query.end].lower() == query.wire[12 : query.end].lower()


VALID: list[Callable[[Query], dns.message.Message]] = [
    lambda query: reply(query, rrset("www.example.org.", "A", "192.0.2.1", "192.0.2.2")),
    lambda query: reply(query, *chain(3)),
    lambda query: reply(query, rrset("www.example.org.", "PTR", "a.test.", "b.test.")),
    lambda query: denial(query, dns.rcode.NXDOMAIN, minimum=40, own=50),
]


@settings(deadline=None)
@given(st.data())
def test_mutated_answers(data: st.DataObject) -> None:
    query = asked(data.draw(st.sampled_from(Kind)))
    wire = bytearray(data.draw(st.sampled_from(VALID))(query).to_wire())
    for place in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=5)):
        wire[place] = data.draw(st.integers(0, 255))
    mutated = bytes(wire[: data.draw(st.integers(0, len(wire)))])
    accepted = codec.echo(query, mutated) is Echo.EXACT
    same = mutated[:2] == query.wire[:2] and mutated[12 : query.end] == query.wire[12 : query.end]
    assert same or not accepted
    # Whether or not it repeats the question: reading it gives an answer or None.
    answer = codec.read(query, mutated, guard.UDP_LIMIT)
    assert answer is None or answer.failure or answer.addresses or answer.names
