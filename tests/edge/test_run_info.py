"""Everything that `info` shows stands in the manual."""

from __future__ import annotations

from pathlib import Path

import pytest

from built import NAMES
from host import free_port
from manual import says, section
from proxy import Proxy, config, until

NAMED = f"""[[session-acl]]
name = "named"
from = ["*.example.org"]
plug-to = "server.example.org:9"
[resolver]
servers = ["127.0.0.1:{free_port()}"]
"""


@pytest.mark.parametrize("engine", NAMES)
def test_every_figure_is_in_the_manual(tmp_path: Path, engine: str) -> None:
    top = f'max-sessions = 5\ntag = "words"\nengine = "{engine}"'
    manual = section("udp-proxy.8", "COUNTERS")
    with Proxy(tmp_path, config(free_port(), "127.0.0.1:9", top=top, more=NAMED)) as proxy:
        found: set[str] = set()
        for role in ("parent", "reg", "acr", "apr"):
            found |= until(lambda: set(proxy.info(role)))  # noqa: B023
    assert "answered" in found
    missing = sorted(name for name in found if not says(manual, name))
    assert " ".join(missing) == ""
