"""What a running instance can be asked: each verb stands here, or in its product's table, once.

From a Verb come the words of `ctl`, the method on D-Bus and how its arguments are checked, what the
parent does with it, and what tests hold the manual and the completion against. What it does, the
parent's Commands or the service know by its name.
"""

from __future__ import annotations

import argparse
import enum
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Protocol

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.process.recent_lines import MOST_LINES
from udpproxy.process.wire import Plain

Arguments = dict[str, Plain]
MOST_TEXT = 256
"""Characters of a text that comes over the bus."""


class Argument(Protocol):
    """One argument of a verb: on the command line, in the question, on D-Bus."""

    @property
    def signature(self) -> str:
        """On D-Bus; "" where it does not go over the bus."""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Its words."""

    def given(self, words: argparse.Namespace) -> Arguments:
        """What they say. LinkError where they make no sense."""

    def from_bus(self, value: object) -> Arguments:
        """What a caller on D-Bus says; InvalidArgument where it makes no sense."""

    def to_bus(self, arguments: Arguments) -> object:
        """The other way round; LinkError where that cannot be said there."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of its own, such as the level of `loglevel`."""

    name: str
    metavar: str
    help: str
    signature: str = "s"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Positional."""
        parser.add_argument(self.name, metavar=self.metavar, help=self.help)

    def given(self, words: argparse.Namespace) -> Arguments:
        """As it is."""
        return {self.name: getattr(words, self.name)}

    def from_bus(self, value: object) -> Arguments:
        """A string."""
        return {self.name: _text(self.name, value)}

    def to_bus(self, arguments: Arguments) -> object:
        """A string."""
        return str(arguments[self.name])


@dataclass(frozen=True, slots=True)
class Lines:
    """`info`: with so many of the last log lines, and without a line of its own for a program."""

    signature: str = ""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """--lines; whoever wants JSON is a program."""
        parser.add_argument(
            "--lines",
            metavar="N",
            type=int,
            default=10,
            help=f"with its last log lines: 10, to {MOST_LINES}",
        )

    def given(self, words: argparse.Namespace) -> Arguments:
        """A program's question, such as monitoring's, may come as often as it likes."""
        return {"lines": words.lines} | ({"quiet": True} if words.json else {})

    def from_bus(self, value: object) -> Arguments:
        """Who reads the state there has the answer."""
        return {"quiet": True}

    def to_bus(self, arguments: Arguments) -> object:
        """It is not said."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """KEY=VALUE, any number of them; `keys` are those that a caller on D-Bus may give."""

    name: str
    keys: frozenset[str]
    help: str
    signature: str = "a{sv}"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """All the rest of the line."""
        parser.add_argument(self.name, metavar="KEY=VALUE", nargs="*", help=self.help)

    def given(self, words: argparse.Namespace) -> Arguments:
        """Each key once."""
        return {self.name: pairs(getattr(words, self.name))}

    def from_bus(self, value: object) -> Arguments:
        """A dictionary of strings."""
        if not isinstance(value, dict):
            raise InvalidArgument("give keys and values")
        if unknown := {str(key) for key in value} - self.keys:
            named = ", ".join(sorted(key[:40] for key in list(unknown)[:4]))
            raise InvalidArgument(f"unknown: {named}; give {', '.join(sorted(self.keys))}")
        return {self.name: {key: _text(key, each) for key, each in value.items()}}

    def to_bus(self, arguments: Arguments) -> object:
        """The same; the bus makes variants of the values."""
        wanted = arguments[self.name]
        assert isinstance(wanted, dict)
        return {key: str(value) for key, value in wanted.items()}


def pairs(items: Iterable[str]) -> Arguments:
    """KEY=VALUE as a dictionary; LinkError where a key is given twice."""
    wanted: Arguments = {}
    for item in items:
        key, _, value = item.partition("=")
        if key in wanted:
            raise LinkError(f"{key} is given twice: a session has one")
        wanted[key] = value
    return wanted


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{key} is a string")
    if len(value) > MOST_TEXT:
        raise InvalidArgument(f"{key} is longer than {MOST_TEXT} characters")
    return value


class Readiness(enum.Enum):
    """What a verb waits for."""

    NOTHING = "nothing"
    STARTED = "the parent has made everything"
    """For a moment: what it knows itself is wanted most while the service is down."""
    WORKING = "the service works"


class OfChild(enum.Enum):
    """What a verb means where one child is named with it."""

    REFUSED = "children do not know it"
    ASKED = "that child carries it out"
    SAME = "the same as without"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """`member` is the method on D-Bus, "" for none; `answer` its signature. `open`: everybody on
    the bus may. `signal` asks for the same."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    readiness: Readiness = Readiness.WORKING
    of_child: OfChild = OfChild.REFUSED
    while_stopping: bool = False
    """It changes nothing, or is asked of a log."""
    on_command_line: bool = True
    child_answers: tuple[type, ...] = (NoneType,)
    """What a child may answer."""
    member: str = ""
    answer: str = ""
    of_process: bool = False
    """The object of each process has the method, too."""
    open: bool = False
    signal: int = 0
    rows: str = ""
    """What the rows of an answer are, where it is a table."""

    @property
    def signature(self) -> str:
        """Of what goes in on D-Bus."""
        return "".join(each.signature for each in self.arguments)

    def from_bus(self, body: list[object]) -> Arguments:
        """What a call says; InvalidArgument. The number and kinds are those of its signature."""
        values, found = iter(body), Arguments()
        for each in self.arguments:
            found |= each.from_bus(next(values) if each.signature else None)
        return found

    def to_bus(self, arguments: Arguments) -> list[object]:
        """The body of the call; LinkError where it cannot be said there."""
        return [each.to_bus(arguments) for each in self.arguments if each.signature]


INFO = Verb(
    name="info",
    help="log the state and print it",
    arguments=(Lines(),),
    readiness=Readiness.STARTED,
    of_child=OfChild.ASKED,
    child_answers=(dict,),
    while_stopping=True,
    member="Info",
    answer="a{sv}",
    of_process=True,
    open=True,
    signal=signal.SIGRTMIN,
)
LOGLEVEL = Verb(
    name="loglevel",
    help="set the log level",
    arguments=(Word("level", "L", "+1, -1, 3 to 9, or a name"),),
    of_child=OfChild.ASKED,
    child_answers=(str,),
    while_stopping=True,
    member="LogLevel",
    answer="s",
    of_process=True,
)
REOPEN = Verb(
    name="reopen",
    help="reopen log files",
    of_child=OfChild.ASKED,
    while_stopping=True,
    member="Reopen",
    of_process=True,
    signal=signal.SIGWINCH,
)
HOLD = Verb(
    name="hold",
    help="write no log file until reopen, for 60 s at most",
    of_child=OfChild.ASKED,
    while_stopping=True,
)
TERMINATE = Verb(
    name="terminate",
    help="end the service and all that it carries",
    readiness=Readiness.NOTHING,
    of_child=OfChild.ASKED,
    while_stopping=True,
    member="Terminate",
    of_process=True,
)
RELOAD = Verb(name="reload", help="read the configuration again", member="Reload")

COMMON = (INFO, LOGLEVEL, REOPEN, HOLD, TERMINATE, RELOAD)
"""Those of every product."""


def table(*several: Verb) -> Mapping[str, Verb]:
    """By name."""
    return MappingProxyType({verb.name: verb for verb in several})


def signals_of(verbs: Mapping[str, Verb]) -> frozenset[int]:
    """Those that ask for verbs."""
    return frozenset(int(verb.signal) for verb in verbs.values() if verb.signal)
