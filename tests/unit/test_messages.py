"""The ids of messages are a promise to whoever searches for them."""

from __future__ import annotations

import collections
import re

import pytest

from udpproxy.process import messages
from udpproxy.process.messages import ALL, LEVELS, Message

SHARED = {"UDPP-821"}
"""The decision of an ACL, one id in two severities, as the reference system has it."""


def names() -> dict[str, Message]:
    return {name: value for name, value in vars(messages).items() if isinstance(value, Message)}


@pytest.mark.parametrize("name", names())
def test_form(name: str) -> None:
    message = names()[name]
    assert re.fullmatch(r"[A-Z]{4}-\d{3}-[CEWNIDTF]", message.id)
    assert message.severity == message.id[-1]
    assert message.level == LEVELS[message.severity]
    assert "\n" not in message.text


def test_no_number_has_two_meanings() -> None:
    numbers = collections.Counter(message.id[:-2] for message in ALL)
    assert {number for number, count in numbers.items() if count > 1} == SHARED


def test_journal_ids_are_unique_and_stable() -> None:
    journal = {message.id: message.journal_id for message in ALL}
    assert len(journal) == len(set(journal.values())) == len(ALL)
    assert all(re.fullmatch(r"[0-9a-f]{32}", value) for value in journal.values())
    assert journal["UDPP-888-I"] == "d68e304bbdd7534c827b1c0bc07fee16"


def test_all_are_known() -> None:
    assert set(ALL) == set(names().values())


def test_the_reference_systems_ids_are_kept() -> None:
    assert messages.TOO_MANY_ENDS.id == "UDPS-510-C"
    assert messages.UNEXPECTED_REPLY.id == "UDPS-630-W"
    assert messages.ACCEPTED.id[:8] == messages.REFUSED.id[:8] == "UDPP-821"
    assert messages.RECORD.id == "UDPP-888-I"
