"""The borders of the project, as tests: who imports whom, types, style."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

LINTERS = {
    "imports go downward": ["lint-imports"],
    "types": ["mypy"],
    "style": ["ruff", "check", "service", "tests", "bench"],
    "format": ["ruff", "format", "--check", "service", "tests", "bench"],
}


@pytest.mark.parametrize("what", LINTERS)
def test_linter(what: str) -> None:
    words = LINTERS[what]
    done = subprocess.run(
        [BIN / words[0], *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dbus_next_is_only_in_one_package() -> None:
    users = {
        path.parent.name
        for path in (ROOT / "service").rglob("*.py")
        if re.search(r"^\s*(import|from) dbus_next", path.read_text(), re.MULTILINE)
    }
    assert users == {"bus"}


@pytest.mark.parametrize("page", sorted((ROOT / "man").glob("*.[1-8]")), ids=lambda p: p.name)
def test_manual_page_renders(page: Path) -> None:
    done = subprocess.run(
        ["man", "--warnings=w", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
    )
    assert (done.returncode, done.stderr) == (0, "")
