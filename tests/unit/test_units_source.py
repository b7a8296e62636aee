"""The units have one source: they are what it makes, and differ only where that is meant."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "units"


def tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "units", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(UNITS / "source", tmp_path / "source")
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_files_are_what_the_source_makes() -> None:
    done = tool("--check")
    assert (done.returncode, done.stderr) == (0, ""), "change units/source, then run tools/units"


def test_every_unit_is_from_the_source(copy: Path) -> None:
    assert tool("--in", copy).returncode == 0
    made = {path.name for path in copy.glob("*.service")}
    assert made == {path.name for path in UNITS.glob("*.service")}


def test_a_change_of_one_file_is_found_and_undone(copy: Path) -> None:
    tool("--in", copy)
    changed = copy / "udp-proxy-reg@.service"
    replace(changed, "ProtectHome=yes\n", "")
    done = tool("--check", "--in", copy)
    assert done.returncode == 1
    assert done.stderr == f"tools/units: {changed} is not what units/source makes\n"
    assert "ProtectHome" not in changed.read_text()
    assert tool("--in", copy).returncode == 0
    assert changed.read_bytes() == (UNITS / changed.name).read_bytes()


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("service.in", "resolver   |Nice=5", "resolvr    |Nice=5", "no unit is resolvr"),
        ("service.in", "resolver   |Nice=5", "Nice=5", "neither a comment nor a line with a bar"),
        ("service.in", "|Nice=5", "|Nice={nice}", "udp-proxy-acr@: KeyError('nice')"),
        ("services.toml", 'task = "relay"', "", "udp-proxy-reg@: KeyError('task')"),
        ("services.toml", 'task = "relay"', "task", "services.toml: "),
    ],
)
def test_a_mistake_in_the_source_is_said(
    copy: Path, name: str, old: str, new: str, said: str
) -> None:
    replace(copy / "source" / name, old, new)
    done = tool("--in", copy)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(copy.glob("*.service"))


ANOTHER = """
[other-one]
title = "Something else"
dashless = "otherone"
module = "otherone.child"
[other-one.parent]
groups = ["network"]
[other-one.hub]
groups = ["child", "network"]
task = "hub"
"""


def test_another_service_needs_only_its_table(copy: Path) -> None:
    services = copy / "source" / "services.toml"
    services.write_text(services.read_text() + ANOTHER)
    assert tool("--in", copy).returncode == 0
    for path in UNITS.glob("*.service"):
        assert (copy / path.name).read_bytes() == path.read_bytes()
    for role in ("@", "-hub@"):
        text = (copy / f"other-one{role}.service").read_text()
        assert "udp-proxy" not in text
        assert "udpproxy" not in text
        assert "\nUser=other-one" in text
        assert "\nProtectSystem=strict\n" in text
