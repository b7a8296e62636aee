"""The plain values: each parser takes what TOML gave and returns what it means.

A mistake is a ValueError whose text says what was found and what is expected; whoever calls adds
the line and the key. `bool` is an `int` to Python but never to us.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from udpproxy.config.model import NO_RATE, RATE_UNITS, Rate

T = TypeVar("T")
Parser = Callable[[object], T]

# Beyond these nobody means it, and the native engine counts in 64 bits.
LONGEST = 100 * 365 * 86400
LARGEST = 2**63 - 1
_SHOWN = 60

_DURATION = re.compile(
    r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?:in)?)?(?:([0-9]+(?:\.[0-9]{1,9})?)s)?(?:([0-9]+)ms)?"
)
_RATE = re.compile(rf"([1-9][0-9]{{0,10}})/({'|'.join(RATE_UNITS)})")
_SHORTEST = 1000
_SIZE = re.compile(r"(\d+)([kKMG]?)", re.ASCII)
_FACTORS = {"": 1, "k": 2**10, "K": 2**10, "M": 2**20, "G": 2**30}
_LABEL = r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)"
_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_CLASS = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?|#[0-9]{1,10}")


def said(value: object) -> str:
    """The value for a message: short, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
            return json.dumps(shown, ensure_ascii=not shown.isprintable())
        case int() if abs(value) > LARGEST:  # str() itself refuses the longest of them
            return "a number far too large"
        case int() | float():
            return str(value)
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return "a date or time"


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text in quotes, found {said(value)}")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {said(value)}")
    return value


def whole(first: int, last: int = LARGEST) -> Parser[int]:
    """A parser of whole numbers within the bounds."""
    wanted = f"a number from {first}" + (f" to {last}" if last < LARGEST else "")

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not first <= value <= last:
            raise ValueError(f"expected {wanted}, found {said(value)}")
        return value

    return parse


def choice(words: Mapping[str, T]) -> Parser[T]:
    """A parser of one of the words."""

    def parse(value: object) -> T:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"expected one of {', '.join(map(said, words))}, found {said(value)}")
        return words[value]

    return parse


def one_of(*words: str) -> Parser[str]:
    return choice({word: word for word in words})


def duration(value: object) -> float:
    """Seconds: a number of them, or d, h, m (min), s and ms in this order."""
    wanted = f'expected a duration such as "90s", "5m", "1h30m", "500ms" or 90, found {said(value)}'
    match value:
        case bool():
            raise ValueError(wanted)
        case int() | float():
            if not 0 <= value <= LONGEST or math.isnan(value):
                raise ValueError(f"{wanted}; it must lie between 0 and 100 years")
            return float(value)
        case str():
            return _written_duration(value, wanted)
        case _:
            raise ValueError(wanted)


def _written_duration(value: str, wanted: str) -> float:
    found = _DURATION.fullmatch(value[:_SHOWN])
    if not value or found is None:
        raise ValueError(wanted)
    days, hours, minutes, milliseconds = (int(found[group] or 0) for group in (1, 2, 3, 5))
    total = ((days * 24 + hours) * 60 + minutes) * 60 + float(found[4] or 0) + milliseconds / 1000
    if total > LONGEST:
        raise ValueError(f"{wanted}; it must lie between 0 and 100 years")
    return total


def positive_duration(value: object) -> float:
    seconds = duration(value)
    if not seconds:
        raise ValueError(f"expected a duration longer than 0, found {said(value)}")
    return seconds


def size(value: object) -> int:
    """Bytes: a number of them, or with k, M or G (of 1024)."""
    wanted = f'expected a size such as 65536, "64k", "2M" or "1G", found {said(value)}'
    if isinstance(value, str):
        found = _SIZE.fullmatch(value[:_SHOWN])
        if found is None:
            raise ValueError(wanted)
        value = int(found[1]) * _FACTORS[found[2]]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise ValueError(wanted)
    return value


def rate(value: object) -> Rate:
    """So many in a unit of time, or 0 for no limit."""
    wanted = (
        f'expected a rate such as "20/s", "600/min" or "1/h", or 0 for none, found {said(value)}'
    )
    if value == 0 and isinstance(value, int) and not isinstance(value, bool):
        return NO_RATE
    found = _RATE.fullmatch(value[:_SHOWN]) if isinstance(value, str) else None
    if found is None:
        raise ValueError(wanted)
    written = Rate(int(found[1]), found[2])
    if written.interval < _SHORTEST:
        raise ValueError(f"{wanted}; it may be at most 1000000 a second")
    return written


def printable(value: object) -> str:
    """Free words; a control character would break the lines they are shown in."""
    words = text(value)
    if not words.isprintable() or len(words) > 256:
        raise ValueError(f"expected at most 256 printable characters, found {said(words)}")
    return words


def label(value: object) -> str:
    """The name of an ACL, as it stands in logs; "-" there means that none matched."""
    word = text(value)
    if not word.strip() or word != word.strip() or not word.isprintable() or len(word) > 64:
        raise ValueError(
            f"expected a name of 1 to 64 printable characters without spaces around it, "
            f"found {said(word)}"
        )
    if word == "-":
        raise ValueError('"-" stands for "no ACL" in logs; choose another name')
    return word


def absolute_path(value: object) -> str:
    word = text(value)
    if not word.startswith("/") or word.endswith("/") or not word.isprintable():
        raise ValueError(f"expected the absolute path of a file, found {said(word)}")
    return word


def account(value: object) -> str:
    """A user or group: a name, or #number."""
    word = text(value)
    if not _ACCOUNT.fullmatch(word):
        raise ValueError(f'expected a name or a number such as "#990", found {said(word)}')
    return word


def class_name(value: object) -> tuple[str, str]:
    """A class of a Python module: the module's name and the class's."""
    word = text(value)
    found = _CLASS.fullmatch(word)
    if found is None or len(word) > 200:
        raise ValueError(f'expected "module:Class", found {said(word)}')
    return found[1], found[2]


def is_name(word: str) -> bool:
    """Whether this could be a host's name; a last label of digits would be a wrong address."""
    return bool(_NAME.fullmatch(word)) and not word.rstrip(".").rpartition(".")[2].isdigit()


def domain(value: object) -> str:
    word = text(value)
    if not is_name(word):
        raise ValueError(f"expected a domain name, found {said(word)}")
    return word
