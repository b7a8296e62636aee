"""Messages: what is sent arrives, and whatever else arrives is a LinkError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.errors import LinkError
from udpproxy.process import wire
from udpproxy.process.wire import Answer, Ask, Hello, Lend, Message, Tell, decode, encode

KINDS = (Hello, Lend, Ask, Answer, Tell)
WORDS = st.text(max_size=20)
NUMBERS = st.integers(-(1 << 70), 1 << 70)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | WORDS,
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(WORDS, deeper, max_size=3),
    max_leaves=8,
)
ARGS = st.dictionaries(WORDS, PLAIN, max_size=3)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, WORDS, WORDS),
    st.builds(Lend, WORDS, st.lists(PLAIN, max_size=3)),
    st.builds(Ask, NUMBERS, WORDS, ARGS),
    st.builds(Answer, NUMBERS, PLAIN, st.none() | WORDS, st.booleans()),
    st.builds(Tell, WORDS, ARGS),
)


def outcome(packet: bytes) -> Message | None:
    try:
        return decode(packet)
    except LinkError:
        return None


@settings(max_examples=60)
@given(MESSAGES)
def test_what_is_sent_arrives(message: Message) -> None:
    assert decode(encode(message)) == message


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes(packet: bytes) -> None:
    assert outcome(packet) is None or isinstance(decode(packet), KINDS)


@settings(max_examples=60)
@given(MESSAGES, st.data())
def test_broken_messages(message: Message, data: st.DataObject) -> None:
    packet = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(packet) - 1))
        packet[where : where + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assert outcome(bytes(packet)) is None or isinstance(decode(bytes(packet)), KINDS)


PARTS = st.sampled_from(["", "role", "version", "what", "items", "number", "verb", "args", "more"])


@settings(max_examples=60)
@given(st.dictionaries(PARTS | WORDS, PLAIN, max_size=5), st.sampled_from(sorted(wire._KINDS)))
def test_any_object(body: dict[str, object], kind: str) -> None:
    for candidate in (body, body | {"": kind}):
        packet = json.dumps(candidate).encode()
        assert outcome(packet) is None or isinstance(decode(packet), KINDS)


@pytest.mark.parametrize(
    ("packet", "problem"),
    [
        (b"", "not a message"),
        (b"\xff\xfe\x00", "not a message"),
        (b"[" * 100_000, "not a message"),
        (b"9" * 5_000, "not a message"),
        (b"[]", "no object"),
        (b"{}", "no such message: None"),
        (b'{"":7}', "no such message: 7"),
        (b'{"":{}}', "no such message"),
        (b'{"":"bye"}', "no such message: 'bye'"),
        (b'{"":"hello","role":"reg"}', "something is missing"),
        (b'{"":"hello","role":"reg","version":1}', "version is a int"),
        (b'{"":"hello","role":"reg","version":"1","x":1}', r"unknown parts \['x'\]"),
        (b'{"":"ask","number":true,"verb":"info"}', "number is a bool"),
        (b'{"":"ask","number":1.5,"verb":"info"}', "number is a float"),
        (b'{"":"ask","number":1,"verb":"info","args":[]}', "args is a list"),
        (b'{"":"lend","what":"table","items":{}}', "items is a dict"),
        (b'{"":"answer","number":1,"more":1}', "more is a int"),
        (b'{"":"answer","number":1,"error":1}', "error is a int"),
    ],
)
def test_what_is_no_message(packet: bytes, problem: str) -> None:
    with pytest.raises(LinkError, match=problem):
        decode(packet)


def test_parts_that_may_be_left_out() -> None:
    assert decode(b'{"":"ask","number":1,"verb":"info"}') == Ask(1, "info")
    assert decode(b'{"":"answer","number":1}') == Answer(1)
    assert decode(b'{"":"tell","what":"ready"}') == Tell("ready")


def test_the_largest_message() -> None:
    room = wire.LARGEST - len(encode(Tell("")))
    assert len(encode(Tell("x" * room))) == wire.LARGEST
    with pytest.raises(LinkError, match="too large"):
        encode(Tell("x" * (room + 1)))
