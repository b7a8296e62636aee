"""Where each key of a TOML text stands: tomllib reads values but forgets their lines.

Rule: this file is only shown text that tomllib has accepted, so it looks for ends and never judges.
Containers inside a value are kept on a list, not on Python's stack: depth cannot break it.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

Path = tuple[str | int, ...]

# No possessive quantifiers: Python 3.11.2, which is Debian 12's, gets them wrong (gh-106052).
_BLANK = re.compile(r"(?:\s+|#[^\n]*)*")
_BETWEEN_ITEMS = re.compile(r"(?:[\s,]+|#[^\n]*)*")
_EQUALS = re.compile(r"[ \t]*=?[ \t]*")
_REST = re.compile(r"[^\n]*")
_QUOTED = r""""[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\n]*'"""
_PART = re.compile(rf"[ \t]*(?P<part>[A-Za-z0-9_-]+|{_QUOTED})[ \t]*(?P<dot>\.?)")
# The longer delimiters first; two quotes may stand before the closing three. The single character
# at the end is never needed by accepted text, but it means that every step goes forward.
_SCALAR = re.compile(
    r"""\"{3}[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"{3,5}"""
    r"""|'{3}[^']*(?:'(?!'')[^']*)*'{3,5}"""
    rf"""|{_QUOTED}|[^,\[\]{{}}\n#"']+|.?""",
    re.DOTALL,
)


def locate(text: str) -> dict[Path, int]:
    """The line of every table, key and list item; items of a list count from 0."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of the path, or of the nearest thing around it that has one."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._breaks = [found.start() for found in re.finditer("\n", text)]
        self._tables: dict[Path, int] = {}  # how many [[tables]] of a path there are so far

    def document(self) -> None:
        table: Path = ()
        while self._peek(_BLANK):
            line = self._line()
            if self._text.startswith("[[", self._at):
                self._at += 2
                table = self._table_of_many(self._key(), line)
            elif self._text.startswith("[", self._at):
                self._at += 1
                table = self._under((), self._key(), line)
                self.lines[table] = line
            else:
                self._value(self._under(table, self._key(), line))
            self._peek(_REST)

    def _peek(self, skipped: re.Pattern[str]) -> str:
        """The character after what is skipped, or nothing at the end."""
        found = skipped.match(self._text, self._at)
        assert found is not None  # each of these patterns also matches nothing
        self._at = found.end()
        return self._text[self._at : self._at + 1]

    def _line(self) -> int:
        return bisect_left(self._breaks, self._at) + 1

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while found := _PART.match(self._text, self._at):
            self._at = found.end()
            parts.append(_plain(found["part"]))
            if not found["dot"]:
                break
        return tuple(parts)

    def _under(self, table: Path, key: tuple[str, ...], line: int) -> Path:
        """The path of the key; where it goes through [[tables]], their last one is meant."""
        path = table
        for part in key:
            path = (*path, part)
            self.lines.setdefault(path, line)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        return path

    def _table_of_many(self, key: tuple[str, ...], line: int) -> Path:
        path = (*self._under((), key[:-1], line), *key[-1:])
        self.lines.setdefault(path, line)
        index = self._tables.get(path, 0)
        self._tables[path] = index + 1
        self.lines[(*path, index)] = line
        return (*path, index)

    def _value(self, path: Path) -> None:
        """Walk over one value, noting what is inside it."""
        around: list[tuple[Path, int]] = []  # the open lists with their next index; -1: a table
        char = self._peek(_EQUALS)
        while True:
            if char in ("[", "{"):
                self._at += 1
                around.append((path, 0 if char == "[" else -1))
            else:
                self._peek(_SCALAR)
            while around and (char := self._peek(_BETWEEN_ITEMS)) in ("]", "}"):
                self._at += 1
                around.pop()
            if not around or not char:
                return
            path = self._next_inside(around)
            char = self._peek(_EQUALS)

    def _next_inside(self, around: list[tuple[Path, int]]) -> Path:
        outer, index = around[-1]
        line = self._line()
        if index < 0:
            return self._under(outer, self._key(), line)
        around[-1] = (outer, index + 1)
        self.lines[(*outer, index)] = line
        return (*outer, index)


def _plain(part: str) -> str:
    if part[0] not in "\"'":
        return part
    if "\\" not in part:
        return part[1:-1]
    unescaped = tomllib.loads(f"key = {part}")["key"]
    return str(unescaped)
