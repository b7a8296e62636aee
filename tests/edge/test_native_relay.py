"""The relay's C files without Python: what tests/relay has, built and run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import udpproxy
from built import of_native

pytestmark = of_native

TESTS = Path(__file__).parent.parent / "relay"
ENGINE = Path(udpproxy.__file__).parent / "engine"


@pytest.mark.parametrize("words", [["single"], ["threads", "3"]], ids=lambda words: words[0])
def test_in_c(tmp_path: Path, words: list[str]) -> None:
    program = tmp_path / words[0]
    sources = [TESTS / f"{words[0]}.c", *sorted((ENGINE / "relay").glob("*.c"))]
    compiler = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread"]
    wrapped = ["-Wl,--wrap=sendmmsg"] if words[0] == "single" else []
    built = subprocess.run(
        [*compiler, "-I", ENGINE, "-o", program, *sources, *wrapped],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    done = subprocess.run(
        [program, *words[1:]], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_shows_nothing_of_the_relay() -> None:
    """Names such as `find` and `flush` would stand in for those of other libraries."""
    from udpproxy.engine import native

    command = ["nm", "--dynamic", "--defined-only", "--format=just-symbols", native.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PyInit_native"]
