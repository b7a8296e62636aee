"""A short run of a part of bench/grow.py: the structures alone, made as their makers want it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from built import of_native

BENCH = Path(__file__).parents[2] / "bench"

pytestmark = of_native


def test_the_structures_can_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location("grow", BENCH / "grow.py")
    assert spec is not None
    assert spec.loader is not None
    grow = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "grow", grow)
    spec.loader.exec_module(grow)
    monkeypatch.setattr(grow, "MILLION", 2000)
    grow.structures()
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 9
    assert all(row.startswith("| ") for row in rows)
