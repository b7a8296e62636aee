"""docs/names.md names modules that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "names.md").read_text("utf-8")


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE))))
def test_a_module_of_the_page_is_there(module: str) -> None:
    assert (ROOT / "service" / "udpproxy" / module).is_file()
