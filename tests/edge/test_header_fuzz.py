"""A short run of bench/fuzz_headers.py; the long one has a million inputs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from built import of_native

PATH = Path(__file__).parents[2] / "bench" / "fuzz_headers.py"

pytestmark = of_native


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_both_engines_read_the_same(seed: int) -> None:
    spec = importlib.util.spec_from_file_location("fuzz_headers", PATH)
    assert spec is not None
    assert spec.loader is not None
    fuzzing = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = fuzzing  # dataclasses look there
    spec.loader.exec_module(fuzzing)
    tally = fuzzing.fuzz(2000, seed)
    assert tally.inputs == 2000
    assert 200 < tally.believed < 1800
