"""docs/bounds.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "service" / "udpproxy"
_ROW = re.compile(r"\| [^|]+ \| (?P<value>[^|]+) \| `(?P<file>[\w/.]+)::(?P<name>\w+)` \| [^|]+ \|")
ROWS = [
    match.group("file", "name", "value")
    for line in (ROOT / "docs" / "bounds.md").read_text("utf-8").splitlines()
    if (match := _ROW.fullmatch(line))
]


def values(text: str, name: str) -> list[str]:
    """What that constant is set to, in Python, Cython or C."""
    pair = re.search(rf"^(\w+, .*\b{name}\b.*|{name}, .*) = (.+)$", text, re.MULTILINE)
    if pair:
        names = [one.strip() for one in pair[1].split(",")]
        return [pair[2].split(",")[names.index(name)].strip()]
    found = re.search(
        rf"(?:^|[{{\s,]){name}\s*=\s*(?:range\()?([\w. <]+?)\)?\s*(?:[,;}}#]|//|$)",
        text,
        re.MULTILINE,
    )
    return [found[1].strip()] if found else []


@pytest.mark.parametrize(("file", "name", "value"), ROWS)
def test_the_page_and_the_code_agree(file: str, name: str, value: str) -> None:
    assert values((PACKAGE / file).read_text("utf-8"), name) == [value]


def test_every_row_of_the_page_names_its_constant() -> None:
    lines = (ROOT / "docs" / "bounds.md").read_text("utf-8").splitlines()
    rows = [
        line for line in lines if line.startswith("| ") and not line.startswith(("| what", "| ---"))
    ]
    assert len(rows) == len(ROWS) > 40
