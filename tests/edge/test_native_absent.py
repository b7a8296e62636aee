"""A native engine that was not built fails the tests that need it, unless that was meant."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import udpproxy

ROOT = Path(__file__).parents[2]
FILES = ["tests/edge/test_native_lifetime.py", "tests/edge/test_engine_paths.py"]


@pytest.mark.parametrize("meant", [False, True])
def test_without_the_native_engine(tmp_path: Path, *, meant: bool) -> None:
    source = tmp_path / "service"
    built = shutil.ignore_patterns("native.*.so", "__pycache__")
    shutil.copytree(Path(udpproxy.__file__).parent, source / "udpproxy", ignore=built)
    words = ["-p", "no:cacheprovider", "-q", "-o", f"pythonpath={source} {ROOT / 'tests'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *FILES],
        cwd=ROOT,
        env=os.environ | {"PYTHON_ENGINE_ONLY": "1" if meant else ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stdout.splitlines()[-1]
    assert "passed" in last  # the Python engine's
    if meant:
        assert (done.returncode, "2 skipped" in last) == (0, True), done.stdout
    else:
        assert (done.returncode, "skipped" in last) == (1, False), done.stdout
        assert "the native engine is not built" in done.stdout
