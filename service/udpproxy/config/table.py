"""Reading one TOML table: a mistake is noted and reading goes on, so that all of them are found.

Each key is asked for once; what nobody asked for is unknown, and `done` says so.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from udpproxy.config.lines import Path, line_of
from udpproxy.config.values import said
from udpproxy.errors import Problem

T = TypeVar("T")
D = TypeVar("D")


class Notes:
    """What is wrong with the file, and what is merely remarkable."""

    def __init__(self, origin: str, lines: dict[Path, int]) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.top_keys: frozenset[str] = frozenset()
        self.top_tables: set[str] = set()
        self._origin = origin
        self._lines = lines

    def line(self, path: Path) -> int:
        return line_of(self._lines, path)

    def wrong(self, path: Path, text: str, *, passing: bool = False) -> None:
        """`passing`: only as the host is at this moment."""
        self.problems.append(self._problem(path, text, passing=passing))

    def warn(self, path: Path, text: str) -> None:
        self.warnings.append(self._problem(path, text))

    def _problem(self, path: Path, text: str, *, passing: bool = False) -> Problem:
        return Problem(self._origin, self.line(path), written(path), text, passing)


def written(path: Path) -> str:
    """The path for people: `session-acl[2].plug-to`, items counted from 1."""
    parts: list[str] = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part + 1}]")
        else:
            key = part if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part) else said(part)
            parts.append(f".{key}" if parts else key)
    return "".join(parts)


class Table:
    """One table of the file, with where it stands."""

    def __init__(self, data: Mapping[str, object], path: Path, notes: Notes) -> None:
        self.path = path
        self.notes = notes
        self.line = notes.line(path)
        self._data = data
        self._asked: set[str] = set()
        self._wrong: set[str] = set()

    def has(self, key: str) -> bool:
        return key in self._data

    def sound(self, *keys: str) -> bool:
        """Whether no mistake was found in these keys so far; a second one would only repeat it."""
        return self._wrong.isdisjoint(keys)

    def wrong(self, key: str, text: str) -> None:
        self._wrong.add(key)
        self.notes.wrong((*self.path, key), text)

    def take(self, key: str, parse: Callable[[object], T], default: D) -> T | D:
        """The key's value, or the default where it is absent or wrong."""
        self._asked.add(key)
        if key not in self._data:
            return default
        try:
            return parse(self._data[key])
        except ValueError as mistake:
            self.wrong(key, str(mistake))
            return default

    def need(self, key: str, parse: Callable[[object], T], default: D) -> T | D:
        """The same, for a key that must be there."""
        if key not in self._data:
            self.wrong(key, "must be given")
        return self.take(key, parse, default)

    def many(
        self, key: str, parse: Callable[[object], T], *, empty: bool = False
    ) -> tuple[T, ...] | None:
        """The items of a list, None where it is absent; each mistake at its own item."""
        self._asked.add(key)
        items = self._data.get(key)
        if items is None:
            return None
        if not isinstance(items, list):
            self.wrong(key, f'expected a list such as ["..."], found {said(items)}')
            return None
        if not items and not empty:
            self.wrong(key, "the list is empty; leave the key out where anything will do")
        found: list[T] = []
        for index, item in enumerate(items):
            try:
                found.append(parse(item))
            except ValueError as mistake:
                self._wrong.add(key)
                self.notes.wrong((*self.path, key, index), str(mistake))
        return tuple(found)

    def table(self, key: str) -> Table:
        """A table inside this one; an absent one is empty."""
        found = self.take(key, _table, {})
        if not self.path:
            self.notes.top_tables.add(key)
        return Table(found, (*self.path, key), self.notes)

    def tables(self, key: str) -> list[Table]:
        """The [[tables]] of this name, in order."""
        self._asked.add(key)
        items = self._data.get(key, [])
        if not isinstance(items, list):
            self.wrong(key, f"expected a list of tables: write [[{key}]]")
            return []
        found: list[Table] = []
        for index, item in enumerate(items):
            path = (*self.path, key, index)
            if isinstance(item, dict):
                found.append(Table(item, path, self.notes))
            else:
                self._wrong.add(key)
                self.notes.wrong(path, f"expected a table: write [[{key}]], found {said(item)}")
        return found

    def done(self) -> None:
        """Name what is left: a word nobody knows is a mistake, never a comment."""
        if not self.path:
            self.notes.top_keys = frozenset(self._asked)
        for key in self._data:
            if key not in self._asked:
                self.wrong(key, "unknown key" + self._hint(key))

    def _hint(self, key: str) -> str:
        close = difflib.get_close_matches(key[:64], self._asked, n=1)
        close = close or [one for one in self._asked if key in one.split("-")]
        if close:
            return f"; did you mean {close[0]}?"
        if key in self.notes.top_tables:
            return f"; it is a table of its own: [{key}]"
        if key in self.notes.top_keys:
            return "; it belongs at the top of the file, before the first [table]"
        return ""


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a table, found {said(value)}")
    return value
