"""What a protocol's own rules build on: the interface of extensions (udp-proxy-extension(7)).

A session ACL names one with `extension = "module:Class"`. REG makes one object of the class for
each such rule and calls it for that rule's sessions, one call after another, in its only thread.
No method may wait for anything: the proxy does nothing else meanwhile. As a unit REG reaches no
network and writes only to its log and to a /tmp of its own. Times are seconds, payloads whole
datagrams of 0 to 65,507 bytes. An error raised in from_client or from_server costs that datagram,
one raised in opened the session; both are counted and logged, at most one line a second.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Endpoint = tuple[str, int]
"""Address, without brackets, and port."""


@dataclass(slots=True, eq=False)
class Session:
    """One session; the same object in every call about it. All but `state` is for reading."""

    number: int
    """As in its record and in `udp-proxy ctl NAME sessions`."""
    rule: str
    """The name of its ACL."""
    type: str
    """As the key `type` has it."""
    client: Endpoint
    addressed: Endpoint
    """What the client wrote to."""
    server: Endpoint
    """Where the session was plugged to when it opened."""
    opened: float
    """Since 1970, UTC."""
    state: object = None
    """The extension's own; a crash of REG loses it."""


class Fate(enum.Enum):
    """What becomes of a datagram that stays as it is."""

    PASS = "pass"
    DROP = "drop"


PASS = Fate.PASS
"""It goes on as if there were no extension."""
DROP = Fate.DROP
"""It goes nowhere; the session stays."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Another payload goes on in its place."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The client gets this from the address it wrote to; the server gets nothing."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The session ends with the reason `extension`, and its datagram goes nowhere; `why` is for
    the log."""

    why: str


FromClient = Fate | Replace | Answer | End
FromServer = Fate | Replace | End


class Extension(Protocol):
    """What a class must have. One that inherits from this has all of it, doing nothing."""

    def __init__(self, rule: str) -> None:
        """`rule` is the ACL's name. An error raised here refuses the ACL's sessions."""

    def opened(self, session: Session, *, adopted: bool) -> None:
        """A session begins, before its first datagram. `adopted`: it was there before, for
        another REG or under other rules, and its `state` is empty."""

    def from_client(self, session: Session, payload: bytes) -> FromClient:
        """A datagram from the client, before the session's limits look at what is made of it."""
        return PASS

    def from_server(self, session: Session, payload: bytes) -> FromServer:
        """A datagram from whom the session's type lets reply, before the limits."""
        return PASS

    def ended(self, session: Session, reason: str) -> None:
        """The session is gone; `reason` as in its record. Not called where the proxy goes."""

    def info(self) -> Mapping[str, int | float | str]:
        """What `info` is to show of this object, besides what the proxy counts."""
        return {}

    def close(self) -> None:
        """Called once: the process ends, in whatever way but SIGKILL, or no rule has the object
        any more. Its sessions may go on in the next process."""
