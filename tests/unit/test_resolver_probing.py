"""What probes send, and which answers are good, bad, or none."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpproxy.resolver.assignment import Probed
from udpproxy.resolver.probing import Attempt, maker

HEADER = b"header"


def probed(**keys: Any) -> Probed:
    host = ip_address("192.0.2.1")
    return Probed(group="g", server="192.0.2.1:9", host=host, port=9, interval=5, timeout=1, **keys)


def made(seed: int = 7, **keys: Any) -> Callable[[], Attempt]:
    return maker(probed(**keys), random.Random(seed))


def test_bytes_of_the_file() -> None:
    data, judge = made(send=b"ping", expect=b"pong")()
    assert data == b"ping"
    assert [judge(each) for each in (b"pong", b"a pong!", b"ping", b"")] == ["", "", None, None]


def test_any_answer_to_bytes() -> None:
    data, judge = made(send=b"\0", header=HEADER)()
    assert data == b"header\0"
    assert (judge(b""), judge(b"what?")) == ("", "")


def asked(words: str = "Www.example.org A") -> tuple[dns.message.Message, Attempt]:
    data, judge = made(dns=words)()
    return dns.message.from_wire(data), (data, judge)


@pytest.mark.parametrize("kind", ["A", "AAAA", "NS", "SOA", "TXT", "MX", "SRV", "PTR", "CNAME"])
def test_a_question(kind: str) -> None:
    message, _ = asked(f"www.example.org {kind}")
    (question,) = message.question
    assert question.name == dns.name.from_text("www.example.org.")
    assert dns.rdatatype.to_text(question.rdtype) == kind
    assert (message.flags, message.edns) == (dns.flags.RD, -1)


def test_each_question_has_an_id_of_its_own() -> None:
    make = made(dns="a.test A", header=HEADER)
    data = [make()[0] for _ in range(100)]
    assert all(each.startswith(HEADER) for each in data)
    assert len({each[len(HEADER) :][:2] for each in data}) > 90
    assert len({each[len(HEADER) + 2 :] for each in data}) == 1


def answer(query: dns.message.Message, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytearray:
    message = dns.message.make_response(query)
    message.set_rcode(rcode)
    return bytearray(message.to_wire())


@pytest.mark.parametrize(
    ("rcode", "verdict"),
    [
        (dns.rcode.NOERROR, ""),
        (dns.rcode.NXDOMAIN, ""),
        (dns.rcode.SERVFAIL, "servfail"),
        (dns.rcode.REFUSED, "refused"),
        (dns.rcode.FORMERR, "formerr"),
        (dns.rcode.NOTAUTH, "rcode 9"),
    ],
)
def test_what_a_name_server_says(rcode: dns.rcode.Rcode, verdict: str) -> None:
    query, (_, judge) = asked()
    data = answer(query, rcode)
    assert judge(bytes(data)) == verdict
    assert judge(bytes(data).lower() if not verdict else bytes(data)) == verdict
    data[0] ^= 1  # another's id
    assert judge(bytes(data)) is None


def test_who_refuses_may_leave_the_question_out_and_who_answers_may_not() -> None:
    query, (_, judge) = asked()
    query.question.clear()
    assert judge(bytes(answer(query, dns.rcode.REFUSED))) == "refused"
    assert judge(bytes(answer(query))) is None
    other = dns.message.make_query("other.test", "A", id=query.id, use_edns=False)
    assert judge(bytes(answer(other))) is None
    assert judge(bytes(answer(other, dns.rcode.SERVFAIL))) is None


def test_no_answers_of_a_name_server() -> None:
    query, (sent, judge) = asked()
    assert judge(sent) is None  # sent back as it came
    assert judge(bytes(answer(query))[:11]) is None
    notify = dns.message.make_response(query)
    notify.set_opcode(dns.opcode.NOTIFY)
    assert judge(notify.to_wire()) is None


def ntp(
    cookie: bytes, *, first: int = 0x24, stratum: int = 2, reference: bytes = b"\x7f\0\0\1"
) -> bytes:
    return bytes([first, stratum]) + bytes(10) + reference + bytes(8) + cookie + bytes(16)


def test_a_time_server() -> None:
    make = made(ntp=True, header=HEADER)
    data, judge = make()
    packet = data[len(HEADER) :]
    assert (len(packet), packet[0], packet[1:40]) == (48, 0x23, bytes(39))
    cookie = packet[40:]
    assert make()[0] != data
    assert judge(ntp(cookie)) == ""
    assert judge(ntp(cookie, stratum=1)) == judge(ntp(cookie, stratum=15) + bytes(20)) == ""
    assert judge(ntp(cookie, first=0x64)) == ""  # leap second ahead
    assert judge(ntp(cookie, stratum=16)) == judge(ntp(cookie, stratum=0)) == "not synchronised"
    assert judge(ntp(cookie, first=0xE4)) == "not synchronised"
    assert judge(ntp(cookie, stratum=0, reference=b"RATE")) == "kiss of death: RATE"
    assert judge(ntp(cookie, stratum=0, reference=b"R\nT\xff")) == "not synchronised"
    assert judge(ntp(bytes(8))) is None
    assert judge(ntp(cookie)[:47]) is None
    assert judge(packet) is None  # sent back as it came
    assert judge(ntp(cookie, first=0x23)) is None


@given(data=st.binary(max_size=80), kind=st.sampled_from(["dns", "ntp"]))
def test_whatever_comes_is_no_answer(data: bytes, kind: str) -> None:
    _, judge = made(**({"dns": "a.test A"} if kind == "dns" else {"ntp": True}))()
    assert judge(data) is None
