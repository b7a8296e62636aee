"""Messages of rtnetlink(7): what they are about."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpproxy.proxy.parent.network import Kind, kind_of


def message(kind: int, body: bytes = b"") -> bytes:
    """With struct nlmsghdr before it, and filled up as the kernel does."""
    packet = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
    return packet + bytes(-len(packet) % 4)


LINKS, ADDRESSES, ROUTES, ANYTHING = Kind.LINKS, Kind.ADDRESSES, Kind.ROUTES, Kind.ANYTHING


@pytest.mark.parametrize(
    ("packet", "wanted"),
    [
        (b"", Kind.NOTHING),
        (message(16, bytes(16)), LINKS | ROUTES),
        (message(17), LINKS | ROUTES),
        (message(20, bytes(8)), ADDRESSES),
        (message(21), ADDRESSES),
        (message(24, bytes(12)), ROUTES),
        (message(25), ROUTES),
        (message(32), ROUTES),
        (message(105), ROUTES),
        (message(28), Kind.NOTHING),
        (message(3), Kind.NOTHING),
        (message(4), ANYTHING),
        (message(20, b"odd") + message(24), ADDRESSES | ROUTES),
        (message(28) * 5 + message(21, bytes(5)), ADDRESSES),
        (message(28)[:15], ANYTHING),
        (message(28) + b"\0" * 4, ANYTHING),
        (message(28) + bytes(16), ANYTHING),
        (struct.pack("=IHHII", 17, 28, 0, 0, 0), ANYTHING),
        (struct.pack("=IHHII", 0xFFFFFFFF, 28, 0, 0, 0), ANYTHING),
    ],
)
def test_kinds(packet: bytes, wanted: Kind) -> None:
    assert kind_of(packet) == wanted


@given(st.binary(max_size=200))
def test_any_bytes(packet: bytes) -> None:
    assert kind_of(packet) in ANYTHING


@given(st.lists(st.tuples(st.sampled_from([16, 20, 24, 28]), st.binary(max_size=40))), st.data())
def test_a_message_that_is_cut_off(parts: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """Whole ones say what they are; where one is cut there may have been anything."""
    packets = [message(*part) for part in parts]
    known = Kind.NOTHING
    for packet in packets:
        known |= kind_of(packet)
    whole = b"".join(packets)
    assert kind_of(whole) == known
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    assert kind_of(cut) in (ANYTHING, kind_of(cut) & known)
