"""The native engine's memory belongs to it as long as it lives, whoever else lets go of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import udpproxy
from built import of_native

pytestmark = of_native

# The table is older than what forms the cycle, so the collector comes to its view first.
_SCRIPT = """
import gc, mmap, sys
from udpproxy.proxy.engine.native import NativeEngine
from udpproxy.proxy.engine.pool import Pool
from udpproxy.proxy.session.table import Table, size

class Host: pass

class Loop:
    def __init__(self): self.readers = {}
    def add_reader(self, fd, callback): self.readers[fd] = callback
    def remove_reader(self, fd): del self.readers[fd]

gc.disable()
table = Table(memoryview(mmap.mmap(-1, size(10))), 10, fresh=True)
table.grow(10)
host, loop = Host(), Loop()
host.engine = NativeEngine(loop, table, Pool([]), host, per_client=0, prefix6=64, evict=False,
                           workers=1, threads=True, lasting=None)
for callback in [*loop.readers.values()]:
    callback()  # its thread begins
if "closed" in sys.argv:
    host.engine.close()
del callback, table, host, loop
assert gc.collect() > 0
print("alive")
"""


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_an_engine_in_a_cycle_is_collected(how: str) -> None:
    source = str(Path(udpproxy.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _SCRIPT, how],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
