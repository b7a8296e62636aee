"""What a proxy can be asked beside the verbs of every product."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from types import NoneType

from udpproxy.errors import LinkError
from udpproxy.process.verbs import (
    COMMON,
    TERMINATE,
    Arguments,
    OfChild,
    Pairs,
    Readiness,
    Verb,
    Word,
    pairs,
    table,
)

_FILTER = Pairs(
    "filter",
    frozenset({"client", "server", "listener", "rule", "acl"}),
    "client, server, rule, listener",
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A session by its number, or all that a filter finds; over the bus only the number goes."""

    signature: str = "t"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """At least one word."""
        parser.add_argument(
            "filter", metavar="ID | KEY=VALUE", nargs="+", help="a number, or as for sessions"
        )

    def given(self, words: argparse.Namespace) -> Arguments:
        """A word that can be neither goes as it is: the proxy says what is wrong with it."""
        if len(words.filter) == 1 and "=" not in words.filter[0]:
            (word,) = words.filter
            return {"session": int(word) if word.isdecimal() and len(word) < 20 else word}
        return {"filter": pairs(words.filter)}

    def from_bus(self, value: object) -> Arguments:
        """A number."""
        return {"session": int(str(value))}

    def to_bus(self, arguments: Arguments) -> object:
        """The same."""
        number = arguments["session"]
        if not isinstance(number, int):
            raise LinkError(f"{number!r} is no session's number")
        return number


SESSIONS = Verb(
    name="sessions",
    help="list the sessions",
    arguments=(_FILTER,),
    readiness=Readiness.STARTED,
    while_stopping=True,
    member="ListSessions",
    answer="aa{sv}",
    rows="sessions",
)
KILL = Verb(
    name="kill",
    help="end sessions",
    arguments=(Chosen(),),
    of_child=OfChild.SAME,
    member="KillSession",
)
SERVERS = Verb(
    name="servers",
    help="list the servers of groups",
    member="ListServers",
    answer="aa{sv}",
    rows="servers",
)
DRAIN = Verb(
    name="drain",
    help="give a server of a group no new sessions",
    arguments=(Word("server", "SERVER", "as in the configuration, or GROUP/SERVER"),),
    member="Drain",
)
UNDRAIN = Verb(
    name="undrain",
    help="give it new sessions again",
    arguments=(Word("server", "SERVER", "as in the configuration, or GROUP/SERVER"),),
    member="Undrain",
)
RESOLVE_NOW = Verb(
    name="resolve-now",
    help="look up all names again",
    of_child=OfChild.ASKED,
    child_answers=(dict, NoneType),
    member="ResolveNow",
)
SEGMENTATION = Verb(
    name="segmentation",
    help="datagrams to the kernel several at once, or not",
    arguments=(Word("mode", "auto|off", "as in the configuration"),),
    of_child=OfChild.SAME,
    member="Segmentation",
)
EXPLAIN = Verb(
    name="explain",
    help="which rule decides, and why",
    arguments=(Pairs("question", frozenset({"from", "to", "at"}), "from, to, at"),),
    readiness=Readiness.NOTHING,
    while_stopping=True,
    on_command_line=False,  # there it is a command that needs no running proxy
    member="Explain",
    answer="a{sv}",
)

VERBS = table(
    *(
        replace(verb, help="end the proxy and all its sessions") if verb is TERMINATE else verb
        for verb in COMMON
    ),
    SESSIONS,
    KILL,
    SERVERS,
    DRAIN,
    UNDRAIN,
    RESOLVE_NOW,
    SEGMENTATION,
    EXPLAIN,
)
