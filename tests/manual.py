"""The manual pages, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def plain(page: str) -> str:
    """A manual page's source without the escapes that stand inside words."""
    text = (ROOT / "man" / page).read_text()
    return re.sub(r"\\f[BIPR]", "", text).replace(r"\-", "-").replace(r"\(dq", '"')


def section(page: str, title: str) -> str:
    """From one .SH to the next."""
    found = re.search(
        rf'^\.SH "?{re.escape(title)}"?\n(.*?)(?=^\.SH |\Z)', plain(page), re.DOTALL | re.MULTILINE
    )
    assert found, f"{page} has no section {title}"
    return found[1]


def says(text: str, word: str) -> bool:
    """Is `word` there, not only as a part of another?"""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None
