"""A short run of bench/fuzz_answers.py; the long one has a million inputs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "bench" / "fuzz_answers.py"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_answer_breaks_a_look_up(seed: int) -> None:
    spec = importlib.util.spec_from_file_location("fuzz_answers", PATH)
    assert spec is not None
    assert spec.loader is not None
    fuzzing = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = fuzzing  # dataclasses look there
    spec.loader.exec_module(fuzzing)
    tally = fuzzing.fuzz(1500, seed)
    assert tally.finished > 50
    assert tally.believed > 0
