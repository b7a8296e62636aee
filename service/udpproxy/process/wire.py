"""The messages between our processes and from `ctl`: one JSON object a packet.

Rules. What cannot be read is a LinkError, whatever the bytes. A long answer is several Answer
messages, all but the last with `more`: one packet ends near 212 kB.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from udpproxy.errors import LinkError

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What JSON can carry."""

LARGEST = 200_000
"""Bytes in a packet, with room to the kernel's limit."""

MOST_DESCRIPTORS = 250
MOST_TEXT = 500
"""Characters of an error's text: it may quote what somebody sent."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: who I am. Roles: reg, acr, apr, ctl."""

    role: str
    version: str


@dataclass(frozen=True, slots=True)
class Lend:
    """Descriptors for the other side, one for each of `items`, which say what they are."""

    what: str
    items: list[Plain]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request; the Answer bears its number."""

    number: int
    verb: str
    args: dict[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """`error` None: it was done. `more`: the rest follows."""

    number: int
    value: Plain = None
    error: str | None = None
    more: bool = False


@dataclass(frozen=True, slots=True)
class Tell:
    """News that nobody asked for and nobody answers."""

    what: str
    args: dict[str, Plain] = field(default_factory=dict)


Message = Hello | Lend | Ask | Answer | Tell

_KINDS: dict[str, type[Message]] = {
    "hello": Hello,
    "lend": Lend,
    "ask": Ask,
    "answer": Answer,
    "tell": Tell,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "list[Plain]": (list,),
    "dict[str, Plain]": (dict,),
    "str | None": (str, type(None)),
    "Plain": (object,),
}


def encode(message: Message) -> bytes:
    """One packet; LinkError if it would be too large for one."""
    body = {"": _NAMES[type(message)]}
    for part in dataclasses.fields(message):
        body[part.name] = getattr(message, part.name)
    packet = json.dumps(body, separators=(",", ":")).encode()
    if len(packet) > LARGEST:
        raise LinkError(f"a message of {len(packet)} bytes is too large")
    return packet


def decode(packet: bytes) -> Message:
    """The message, or LinkError."""
    try:
        body = json.loads(packet)
    except (ValueError, RecursionError) as problem:
        raise LinkError(f"not a message: {problem}") from None
    if not isinstance(body, dict):
        raise LinkError("not a message: no object")
    name = body.pop("", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise LinkError(f"no such message: {name!r}")
    known = {part.name: part for part in dataclasses.fields(kind)}
    if unknown := set(body) - set(known):
        raise LinkError(f"{name}: unknown parts {sorted(unknown)}")
    for key, value in body.items():
        if not _fits(value, str(known[key].type)):
            raise LinkError(f"{name}: {key} is a {type(value).__name__}")
    try:
        return kind(**body)
    except TypeError:
        raise LinkError(f"{name}: something is missing") from None


def cut(text: str) -> str:
    """Not longer than an error's text may be."""
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."


def _fits(value: object, kind: str) -> bool:
    # For Python a bool is an int, for us a number is a number.
    return isinstance(value, _TYPES[kind]) and not (kind == "int" and isinstance(value, bool))
