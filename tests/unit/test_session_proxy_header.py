"""The header that proxies write for each other, byte for byte."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpproxy.proxy.session import proxy_header
from udpproxy.proxy.session.proxy_header import Header, local, make, parse, without_simple

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
MAPPED = bytes(10) + b"\xff\xff"


def v4(command: int = 0x21, family: int = 0x12, length: int = 12, tail: bytes = b"") -> bytes:
    """From 192.0.2.1 port 40000 to 198.51.100.2 port 53."""
    addresses = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack("!HH", 40_000, 53)
    return SIGNATURE + struct.pack("!BBH", command, family, length) + addresses + tail


CLIENT, ADDRESSED = (bytes([192, 0, 2, 1]), 40_000), (bytes([198, 51, 100, 2]), 53)
CLIENT6 = ip_address("2001:db8::1").packed, 5060
ADDRESSED6 = ip_address("2001:db8::2").packed, 5061

ports = st.integers(0, 65535)
packed4 = st.binary(min_size=4, max_size=4)
packed6 = st.binary(min_size=16, max_size=16).filter(lambda packed: packed[:12] != MAPPED)
ends = st.one_of(
    *(st.tuples(st.tuples(one, ports), st.tuples(one, ports)) for one in (packed4, packed6))
)


def test_the_proxy_speaks_for_itself() -> None:
    header = local("v2")
    assert header == SIGNATURE + b"\x20\0\0\0"
    assert parse(header + b"probe") == Header(16)
    assert (local("spp"), local("")) == (b"", b"")


def test_what_is_written_is_what_the_document_says() -> None:
    assert make("v2", CLIENT, ADDRESSED, 4711) == v4(length=19, tail=b"\x05\0\x044711")
    six = make("v2", CLIENT6, ADDRESSED6, 1)
    assert six[:16] == SIGNATURE + bytes.fromhex("2122 0028")
    assert six[16:] == CLIENT6[0] + ADDRESSED6[0] + struct.pack("!HH", 5060, 5061) + b"\x05\0\x011"
    assert make("", CLIENT, ADDRESSED, 1) == b""


def test_the_simple_one() -> None:
    header = make("spp", CLIENT, ADDRESSED, 1)
    assert header == b"\x56\xec" + MAPPED + CLIENT[0] + MAPPED + ADDRESSED[0] + struct.pack(
        "!HH", 40_000, 53
    )
    assert len(header) == len(make("spp", CLIENT6, ADDRESSED6, 1)) == 38


@given(ends=ends, number=st.integers(0, 2**64 - 1), payload=st.binary(max_size=100))
def test_what_is_written_is_read(
    ends: tuple[tuple[bytes, int], tuple[bytes, int]], number: int, payload: bytes
) -> None:
    header = make("v2", *ends, number)
    assert len(header) <= 75
    assert parse(header + payload) == Header(len(header), *ends)


@given(ends=ends, number=st.integers(0, 2**64 - 1), data=st.data())
def test_a_part_of_a_header_is_none(
    ends: tuple[tuple[bytes, int], tuple[bytes, int]], number: int, data: st.DataObject
) -> None:
    header = make("v2", *ends, number)
    assert parse(header[: data.draw(st.integers(0, len(header) - 1))]) is None


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\x05\0\x02id",
        b"\x03\0\x04\0\0\0\0",  # a checksum, which nobody looks at
        b"\x04\0\0",  # a NOOP that is empty
        b"\xe0\0\x01x" * proxy_header.MOST_TLVS,
    ],
)
def test_what_else_it_may_say(tail: bytes) -> None:
    header = v4(length=12 + len(tail), tail=tail)
    assert parse(header + b"payload") == Header(len(header), CLIENT, ADDRESSED)


def test_a_second_header_is_payload() -> None:
    assert parse(v4() + v4()) == Header(28, CLIENT, ADDRESSED)


@pytest.mark.parametrize("block", [b"", b"\x01", v4()[16:], b"\xff" * 300])
def test_a_proxy_that_speaks_for_itself(block: bytes) -> None:
    header = SIGNATURE + struct.pack("!BBH", 0x20, 0, len(block)) + block
    assert parse(header + b"payload") == Header(len(header))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"payload that is long enough for one",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 40000 53\r\npayload",
        make("spp", CLIENT, ADDRESSED, 1) + b"payload",
        v4()[:27],
        v4(command=0x11),
        v4(command=0x22),
        v4(command=0x2F),
        v4(family=0x00),
        v4(family=0x11),
        v4(family=0x22),
        v4(family=0x32, length=216, tail=bytes(204)),
        v4(family=0x13),
        v4(length=11),
        v4(length=0),
        v4(length=13) + b"payload",
        v4(length=13),
        v4(length=15, tail=b"\x05\0\x01") + b"payload",
        v4(length=16, tail=b"\x05\xff\xffx") + b"payload",
        v4(length=12 + 65 * 3, tail=b"\xe0\0\0" * 65),
        v4(length=0xFFFF),
        SIGNATURE + struct.pack("!BBH", 0x20, 0, 1),
    ],
    ids=lambda data: data[12:20].hex() or "empty",
)
def test_what_is_none(data: bytes) -> None:
    assert parse(data) is None


@pytest.mark.parametrize("which", [0, 1])
def test_ipv4_in_ipv6s_clothes_is_none(which: int) -> None:
    """A rule that names the client by its IPv4 address would not see it."""
    ends = [CLIENT6, ADDRESSED6]
    ends[which] = MAPPED + CLIENT[0], 1
    assert parse(make("v2", ends[0], ends[1], 1)) is None


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for each in (data, SIGNATURE + data, v4() + data, v4(length=12 + len(data)) + data):
        found = parse(each)
        assert found is None or 16 <= found.size <= len(each)


@given(st.binary(max_size=80))
def test_a_header_that_comes_back_is_taken_off(payload: bytes) -> None:
    header = make("spp", CLIENT, ADDRESSED, 1)
    assert without_simple(header, header + payload) == payload
    another = header[:18] + bytes(16) + header[34:36] + b"\0\0"
    assert without_simple(header, another + payload) == payload


@pytest.mark.parametrize("end", [CLIENT6, (CLIENT[0], 1), (bytes([192, 0, 2, 9]), 40_000)])
def test_what_begins_like_one_is_payload(end: tuple[bytes, int]) -> None:
    """A name server's answer has any two bytes as its number."""
    header = make("spp", CLIENT, ADDRESSED, 1)
    for data in (b"", b"\x56\xec", header[:37], make("spp", end, ADDRESSED, 1) + b"answer"):
        assert without_simple(header, data) == data
