"""What a product gives to the frame, and what the frame is to a product.

A Product reads files and makes a Service; the Service is what an instance serves, as its parent
sees it. Parent, children, control server, bus and daemon know no more of either than stands here.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from udpproxy.bus import Value
from udpproxy.config.model import InstanceConfig
from udpproxy.errors import InvalidArgument
from udpproxy.identity import Identity
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.options import Mode, RunOptions
from udpproxy.process.commands import Figures
from udpproxy.process.logs import Logs
from udpproxy.process.notify import Notifier
from udpproxy.process.verbs import Verb
from udpproxy.process.wire import Plain, Tell
from udpproxy.supervisor.roles import Role
from udpproxy.supervisor.single import Part

C = TypeVar("C", bound=InstanceConfig)
"""A product's configuration."""

RESTART_KEYS = {"user": "user", "group": "group"}
"""Fields of every configuration whose change needs a restart, and their keys."""


class Instance(Protocol):
    """The parent, as its service sees it."""

    options: RunOptions
    logs: Logs
    notifier: Notifier

    @property
    def peers(self) -> Mapping[str, ChildConnection]:
        """The children that have come, by role."""

    def stored_more(self) -> None:
        """What systemd is to have of us has changed: does it?"""

    def announce(self, member: str, signature: str, body: list[object]) -> None:
        """A signal of the main object on the bus."""

    def discard(self, child: ChildConnection, why: str) -> None:
        """It is out of step with us: whoever replaces it is given everything anew."""

    async def ask(self, role: str, verb: str, arguments: dict[str, Plain]) -> Plain:
        """A child's answer to a question of the service's own; one that is being replaced is waited
        for. LinkError or InvalidArgument."""


class Service(ABC, Generic[C]):
    """What an instance serves. `config` is the configuration that holds, `verbs` what can be asked
    beside the verbs of every product."""

    config: C

    @abstractmethod
    def roles(self) -> Sequence[Role]:
        """The children that there are to be, with the configuration that holds; asked again after
        each reload."""

    @abstractmethod
    def every_role(self) -> Sequence[str]:
        """The names of all that there can be with this configuration, whether they are needed or
        not: those that a command can be for, and that are on the bus."""

    @abstractmethod
    def hand_over(self, child: ChildConnection) -> None:
        """Everything that it needs, and the word to begin. OSError before anything was lent: it is
        tried again."""

    def ready(self, child: ChildConnection, news: Mapping[str, Plain]) -> None:
        """It works, and told so with these words."""

    def heard(self, child: ChildConnection, news: Tell) -> None:
        """Anything else that it tells unasked."""

    def ended(self, role: str, left: int, *, killed: bool | None) -> None:
        """One that nobody asked to end has ended, and `left` more such ends are the last."""

    def within(
        self, role: str, link: socket.socket, notifier: Notifier, left: Callable[[str], None]
    ) -> Part:
        """That child as a part of this process (single mode)."""
        raise InvalidArgument("there is no single mode")

    async def perform(self, verb: Verb, arguments: dict[str, Plain]) -> Plain:
        """A verb of the product's own; InvalidArgument or LinkError where it cannot be done."""
        raise InvalidArgument(f"this process knows no verb {verb.name!r}")

    # A reload is a transaction: prepare() does everything that can fail, then either commit(),
    # which cannot, or rollback(). What others can see comes last in prepare().

    @abstractmethod
    async def prepare(self, config: C, text: str) -> None:
        """Everything for another configuration that can fail: InvalidArgument, UnitError, OSError
        or LinkError, and rollback() follows."""

    @abstractmethod
    def rollback(self) -> None:
        """As if nothing had been tried; also after a prepare() that did not come to its end."""

    @abstractmethod
    def commit(self) -> None:
        """It holds, but for the children, who are told next."""

    async def take_over(self) -> Plain:
        """The children that are there take it over; what `reload` answers. Children that the new
        roles have no more are still there, and new ones not yet."""
        return None

    def reloaded(self) -> None:
        """It is all done: say it."""

    # What it tells of itself.

    @abstractmethod
    def brief(self) -> Figures:
        """What everybody on the bus may see."""

    def details(self) -> Figures:
        """What `info` says besides."""
        return {}

    def totals(self) -> Mapping[str, int]:
        """Counters; from a moment ago at most."""
        return {}

    @abstractmethod
    def status(self) -> str:
        """The rest of the status line, after the state."""

    @abstractmethod
    def readiness(self) -> str:
        """What is said once it is ready."""

    def properties(self, names: Collection[str] | None) -> dict[str, Value]:
        """Of the main object on the bus; `names`: the others, which may cost something, need not be
        there."""
        return {}

    changing: frozenset[str] = frozenset()
    """Those whose change is told, looked at once a second."""

    @property
    def stored(self) -> int:
        """How many descriptors systemd is to have of us."""
        return 0

    # The end.

    def stop_serving(self) -> None:
        """An end that keeps nothing begins: nobody new is served."""

    def keeps(self) -> str:
        """What is there for the next one, where systemd starts us again."""
        return "descriptors"

    @abstractmethod
    def finish(self, *, kept: bool, in_doubt: bool) -> None:
        """The children have gone. `kept`: systemd starts us again, and what its store has is for
        the next; `in_doubt`: nobody knows whether it does."""

    @abstractmethod
    def close(self) -> None:
        """Nothing of ours stays open; also where we were never served by anybody."""

    @abstractmethod
    def farewell(self) -> str:
        """What the last line says of all that was."""


class Product(ABC, Generic[C]):
    """A program that runs on the frame."""

    identity: Identity
    verbs: Mapping[str, Verb]
    """All of them, by name."""
    restart_keys: Mapping[str, str] = RESTART_KEYS

    @abstractmethod
    def parse(self, text: str, origin: str) -> C:
        """The file's text; ConfigError with every mistake."""

    def mode(self, config: C, asked: Mode) -> Mode:
        """How it runs where it is started so."""
        return asked

    def check(self, config: C, mode: Mode, descriptors: int) -> None:
        """Before anything is made: UnitError where the host cannot bear it. `descriptors`: how many
        a process may have open."""

    def capabilities(self, config: C) -> frozenset[int]:
        """What a daemon keeps when it becomes another user."""
        return frozenset()

    @abstractmethod
    def serve(self, instance: Instance, config: C, text: str, path: Path) -> Service[C]:
        """With the rights that the process was started with. UnitError, and nothing stays open."""
