"""The journal's explanations: one for each message, none for anything else."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from udpproxy.process import messages

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "units" / "udp-proxy.catalog").read_text()
KNOWN = {message.journal_id: message for message in messages.ALL}
MOST_LINES, WIDEST = 6, 88


@dataclass(frozen=True)
class Entry:
    """What stands between two lines that begin with --."""

    comment: str
    number: str
    headers: dict[str, str]
    body: list[str]


def entries() -> list[Entry]:
    """As systemd reads them: catalog.c, catalog_import_file()."""
    found = []
    for part in re.split(r"\n(?=# \S+\n-- )", TEXT)[1:]:
        comment, number, *rest = part.strip().split("\n")
        assert "" in rest, f"{comment}: an empty line is missing after the headers"
        middle = rest.index("")
        headers = dict(line.split(": ", 1) for line in rest[:middle])
        found.append(Entry(comment[2:], number[3:], headers, rest[middle + 1 :]))
    return found


def test_every_message_has_one_entry() -> None:
    numbers = [entry.number for entry in entries()]
    missing = [message.id for message in messages.ALL if message.journal_id not in numbers]
    assert not missing, "write entries for these, tools/catalogue-ids prints their numbers"
    assert len(numbers) == len(set(numbers))
    assert len(numbers) == len(re.findall(r"^-- ", TEXT, re.MULTILINE))


def test_ids_are_given_once() -> None:
    ids = [message.id for message in messages.ALL]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.comment)
def test_entry(entry: Entry) -> None:
    assert entry.number in KNOWN, "no message has this number"
    assert entry.comment == KNOWN[entry.number].id
    assert list(entry.headers) == ["Subject", "Defined-By", "Support"]
    assert entry.headers["Subject"]
    assert entry.headers["Defined-By"] == "udp-proxy"
    page = re.fullmatch(r"man:([a-z0-9.-]+)\((\d)\)", entry.headers["Support"])
    assert page
    assert (ROOT / "man" / f"{page[1]}.{page[2]}").exists()
    assert 1 <= len(entry.body) <= MOST_LINES
    for line in entry.body:
        assert line == line.strip() != ""
        assert len(line) <= WIDEST
        assert not line.startswith(("#", "--"))


def test_the_tool_prints_what_an_entry_needs() -> None:
    tool = ROOT / "tools" / "catalogue-ids"
    done = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == sorted(
        f"{message.id} {message.journal_id}" for message in messages.ALL
    )
    one = subprocess.run([sys.executable, tool, "UDPS-999-X"], capture_output=True, check=False)
    assert (one.returncode, one.stdout) == (1, b"")
