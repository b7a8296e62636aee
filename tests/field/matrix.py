"""The matrix of weathers, from the reports of a run: a row for each, a column for each engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

TITLE = "weather: lost/sent, seconds until the last loss was over, what the log said"


def lines(reports: Iterable[object]) -> Iterator[str]:
    """None where no test of a weather was run."""
    cells: dict[str, dict[str, str]] = {}
    for report in reports:
        if isinstance(report, pytest.TestReport):
            found = dict(report.user_properties)
            if "weather" in found:
                text = found.get("outcome") if report.passed else _result(report)
                cells.setdefault(str(found["weather"]), {})[str(found["engine"])] = str(text)
    if cells:
        engines = sorted({engine for row in cells.values() for engine in row}, reverse=True)
        yield f"| weather | {' | '.join(engines)} |"
        yield "| --- " * (1 + len(engines)) + "|"
        for weather, row in cells.items():
            yield f"| {weather} | {' | '.join(row.get(each, 'not run') for each in engines)} |"


def _result(report: pytest.TestReport) -> str:
    reason = getattr(report, "wasxfail", "")
    return f"not kept: {reason}" if reason else report.outcome.upper()
