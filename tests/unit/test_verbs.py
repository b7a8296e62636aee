"""What can be asked stands once: the contract on D-Bus, the manual and the command line agree."""

from __future__ import annotations

import argparse
from xml.etree import ElementTree

import pytest

from manual import says, section
from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.process import signals
from udpproxy.process.verbs import COMMON, Arguments, OfChild, Verb, signals_of
from udpproxy.proxy.identity import IDENTITY
from udpproxy.proxy.verbs import KILL, SESSIONS, VERBS

ON_BUS = [verb for verb in VERBS.values() if verb.member]


def methods(interface: str) -> dict[str, tuple[str, str]]:
    """What goes in and comes out of each."""
    tree = ElementTree.parse(IDENTITY.interfaces / f"{interface}.xml")
    return {
        each.attrib["name"]: (
            "".join(arg.attrib["type"] for arg in each.findall("arg[@direction='in']")),
            "".join(arg.attrib["type"] for arg in each.findall("arg[@direction='out']")),
        )
        for each in tree.iter("method")
    }


def test_the_contract_has_the_verbs_and_no_others() -> None:
    assert methods(IDENTITY.interface) == {
        verb.member: (verb.signature, verb.answer) for verb in ON_BUS
    }
    assert methods(IDENTITY.process) == {
        verb.member: (verb.signature, verb.answer) for verb in ON_BUS if verb.of_process
    }


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_the_manual_has_it(verb: Verb) -> None:
    if verb.on_command_line:
        assert says(section("udp-proxy.8", "COMMANDS"), verb.name)
    if verb.member:
        assert says(section("org.udpproxy1.5", IDENTITY.interface), verb.member)


def test_what_is_of_every_process_goes_to_one_child() -> None:
    for verb in VERBS.values():
        if verb.of_process:
            assert verb.of_child is OfChild.ASKED, verb.name


def test_signals_are_those_that_are_blocked() -> None:
    assert signals_of(VERBS) <= signals.OURS
    assert {verb.name for verb in COMMON} <= VERBS.keys()


@pytest.mark.parametrize("verb", ON_BUS, ids=lambda verb: verb.name)
def test_what_the_command_line_says_goes_over_the_bus_and_back(verb: Verb) -> None:
    parser = argparse.ArgumentParser()
    parser.set_defaults(json=True)
    words = []
    for argument in verb.arguments:
        argument.add_to(parser)
        words += {"level": ["+1"], "mode": ["off"], "server": ["192.0.2.1:53"]}.get(
            getattr(argument, "name", ""), []
        )
    if verb in (SESSIONS, KILL):
        words = ["client=10.0.0.1"] if verb is SESSIONS else ["7"]
    given = parser.parse_args(words)
    asked: Arguments = {}
    for argument in verb.arguments:
        asked |= argument.given(given)
    there = verb.from_bus(verb.to_bus(asked))
    assert {key: value for key, value in asked.items() if key != "lines"} == there


def test_a_filter_does_not_go_where_a_number_must() -> None:
    with pytest.raises(LinkError, match="'x' is no session's number"):
        KILL.to_bus({"session": "x"})
    with pytest.raises(InvalidArgument, match="unknown: colour; give acl, client"):
        SESSIONS.from_bus([{"colour": "red"}])
