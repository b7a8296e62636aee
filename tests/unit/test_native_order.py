"""The relay's files call only upwards in the list that relay.h has of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

RELAY = Path(__file__).parents[2] / "service" / "udpproxy" / "proxy" / "engine" / "relay"
ORDER = re.findall(r"^//   (\w+)  ", (RELAY / "relay.h").read_text("utf-8"), re.MULTILINE)
FILES = sorted(path.name for path in RELAY.glob("*.[ch]"))
_INCLUDE = re.compile(r'^#\s*include\s*["<](?:.*/)?(\w+)\.([ch])[">]', re.MULTILINE)
_DECLARATION = re.compile(r"^(?!static\b)\w[\w \t*]*\([^{};]*\);", re.MULTILINE)
_EXTERN = re.compile(r"^\s*extern\b", re.MULTILINE)


def mistakes(name: str, text: str) -> list[str]:
    """What this file of the relay may not include or declare."""
    stem, suffix = name.split(".")
    above = ORDER[: ORDER.index(stem)] + ([stem] if suffix == "c" else [])
    found = [
        f'#include "{other}.{kind}"'
        for other, kind in _INCLUDE.findall(text)
        if other in ORDER and (other not in above or kind == "c")
    ]
    if suffix == "c":
        # A function that another file has is known from that one's header alone.
        found += _DECLARATION.findall(text) + _EXTERN.findall(text)
    return found


def test_the_list_has_each_file_once() -> None:
    assert sorted(ORDER) == sorted({name.split(".")[0] for name in FILES})


@pytest.mark.parametrize("stem", [name[:-2] for name in FILES if name.endswith(".c")])
def test_each_source_begins_with_its_own_header(stem: str) -> None:
    text = (RELAY / f"{stem}.c").read_text("utf-8")
    assert _INCLUDE.findall(text)[0] == (stem, "h")


@pytest.mark.parametrize("name", FILES)
def test_each_file_knows_only_those_above_it(name: str) -> None:
    assert mistakes(name, (RELAY / name).read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("book.c", '#include "book.h"\n#include "sessions.h"\n'),
        ("book.c", '#include "../relay/loop.h"\n'),
        ("book.c", '#include "address.c"\n'),
        ("book.c", "#include <loop.h>\n"),
        ("book.c", "void close_session(struct worker *worker,\n    struct session *session);\n"),
        ("book.c", "extern int closed;\n"),
        ("sessions.h", '#include "relay.h"\n'),
        ("sessions.h", '#include "sessions.h"\n'),
    ],
)
def test_others_are_found(name: str, text: str) -> None:
    assert len(mistakes(name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("book.c", '#include "book.h"\n\n#include <time.h>\n\n#include "address.h"\n'),
        ("book.c", "static bool look(const struct session *session);\n"),
        ("sessions.h", '#include "state.h"\nvoid close_session(struct worker *worker);\n'),
    ],
)
def test_what_is_allowed(name: str, text: str) -> None:
    assert mistakes(name, text) == []
