"""The relay's C files without Python: what tests/relay has, built and run."""

from __future__ import annotations

import mmap
import subprocess
from pathlib import Path

import pytest

import udpproxy
from built import of_native
from host import descriptors_left
from rig import Witness
from udpproxy.process.loop import EpollLoop
from udpproxy.proxy.engine.pool import Pool
from udpproxy.proxy.session.table import Table, size

pytestmark = of_native

TESTS = Path(__file__).parent.parent / "relay"
ENGINE = Path(udpproxy.__file__).parent / "proxy" / "engine"


WRAPPED = {"single": ["sendmmsg"], "moments": ["calloc", "epoll_wait"], "threads": [], "meters": []}
"""Functions of libc that a program puts its own in front of."""


@pytest.mark.parametrize(
    "words", [["single"], ["moments"], ["meters"], ["threads", "3"]], ids=lambda words: words[0]
)
def test_in_c(tmp_path: Path, words: list[str]) -> None:
    program = tmp_path / words[0]
    sources = [TESTS / f"{words[0]}.c", *sorted((ENGINE / "relay").glob("*.c"))]
    compiler = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread"]
    wrapped = [f"-Wl,--wrap={name}" for name in WRAPPED[words[0]]]
    built = subprocess.run(
        [*compiler, "-I", ENGINE, "-o", program, *sources, *wrapped, "-lm"],
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
    """Names such as `attach` and `upload` would stand in for those of other libraries."""
    from udpproxy.proxy.engine import native

    command = ["nm", "--dynamic", "--defined-only", "--format=just-symbols", native.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PyInit_native"]


@pytest.mark.parametrize("left", range(4))
def test_what_it_lacks_is_said(left: int) -> None:
    from udpproxy.proxy.engine.native import NativeEngine

    table = Table(memoryview(mmap.mmap(-1, size(10))), 10, fresh=True)
    reactor, pool, host = EpollLoop(), Pool([]), Witness()
    with descriptors_left(left), pytest.raises(OSError, match="Too many open files"):
        NativeEngine(
            reactor, table, pool, host,
            per_client=0, prefix6=64, evict=False, workers=2, threads=True, lasting=None,
        )  # fmt: skip
    reactor.close()
