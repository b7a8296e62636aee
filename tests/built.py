"""Whether tests of the native engine run here. They fail, not skip, where it was not built: a
compiler that is there and a relay that is not would otherwise pass for a success. Who means to be
without says so: PYTHON_ENGINE_ONLY=1."""

from __future__ import annotations

import os

import pytest

WITHOUT = os.environ.get("PYTHON_ENGINE_ONLY", "") not in ("", "0")
NAMES = ["python"] if WITHOUT else ["python", "native"]
"""The engines that tests run over."""

of_native = [
    pytest.mark.skipif(WITHOUT, reason="PYTHON_ENGINE_ONLY says that it is not wanted"),
    pytest.mark.usefixtures("native"),
]
"""The `pytestmark` of a file that needs the native engine."""


def expect_native() -> None:
    """The test fails, with the reason, where the native engine cannot be imported."""
    try:
        import udpproxy.proxy.engine.native  # noqa: F401
    except ImportError as problem:
        pytest.fail(
            f"the native engine is not built ({problem}): make build, and see why it was left "
            "out, or set PYTHON_ENGINE_ONLY=1 where that is meant"
        )
