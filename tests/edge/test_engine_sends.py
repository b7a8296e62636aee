"""Sends that fail: what ICMP messages told of is counted as such and loses no datagram; everything
else is a send error. Errors that no test can bring about at a given moment come from failing.c."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from built import NAMES, expect_native

TESTS = Path(__file__).parent.parent
ALWAYS = 1000
MOST = 8
"""Times that one datagram is sent again."""

KINDS = ["normal", "any-port"]
OUR_OWN = ["ENOBUFS", "EPERM", "EMSGSIZE", "EIO", "ENETUNREACH", "EHOSTUNREACH", "EACCES"]

Case = tuple[str, str, str, int]
Figures = tuple[int, int, int]
"""ICMP errors, send errors, datagrams that passed."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """failing.c, built."""
    made = tmp_path_factory.mktemp("failing") / "failing.so"
    command = f"cc -shared -fPIC -O1 -Wall -Wextra -o {made} {TESTS / 'failing.c'} -ldl"
    subprocess.run(command.split(), check=True, timeout=60)
    return made


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "native":
        expect_native()
    return str(request.param)


def found(library: Path, engine: str, cases: list[Case]) -> dict[Case, Figures]:
    """What an engine makes of each, in a process of its own."""
    before = os.environ.get("LD_PRELOAD", "")
    done = subprocess.run(
        [sys.executable, TESTS / "failing.py", library, engine, json.dumps(cases)],
        env={**os.environ, "LD_PRELOAD": f"{before} {library}".strip()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    return {case: (row[0], row[1], row[2]) for case, row in zip(cases, rows, strict=True)}


def test_what_our_own_system_refuses_is_no_icmp_error(library: Path, engine: str) -> None:
    cases = [
        (kind, arrival, problem, ALWAYS)
        for kind, arrival, problem in itertools.product(KINDS, ["upload", "download"], OUR_OWN)
    ]
    wanted = dict.fromkeys(cases, (0, 3, 0))
    # It connects afresh, and its new port has no such trouble.
    wanted["normal", "upload", "ENETUNREACH", ALWAYS] = (0, 0, 3)
    assert found(library, engine, cases) == wanted


def test_a_client_that_refuses_is_no_server(library: Path, engine: str) -> None:
    cases = [(kind, "download", "ECONNREFUSED", ALWAYS) for kind in KINDS]
    assert found(library, engine, cases) == dict.fromkeys(cases, (0, 3, 0))


def test_several_icmp_errors_in_a_row_lose_nothing(library: Path, engine: str) -> None:
    """Each was reported by a call that sent nothing; forged ones come as fast as that."""
    problems = ["ECONNREFUSED", "EHOSTUNREACH"]
    cases = [(*one, MOST) for one in itertools.product(KINDS, ["upload"], problems)]
    assert found(library, engine, cases) == dict.fromkeys(cases, (MOST, 0, 3))


def test_at_last_the_datagram_is_given_up(library: Path, engine: str) -> None:
    case = ("normal", "upload", "ECONNREFUSED", ALWAYS)
    assert found(library, engine, [case]) == {case: (3 * MOST, 3, 0)}
