"""Runs this command again where it can do no harm: in network and process namespaces of its own.

Only a loopback interface exists there, and whatever is still running at the end ends with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

_MARK = "UDPBENCH_INSIDE"


def inside() -> bool:
    return os.environ.get(_MARK) == str(os.getpid()) == "1"


def _command(script: Path, arguments: list[str]) -> list[str]:
    command = ["setpriv", "--pdeathsig", "KILL", "unshare"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    command += ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*command, sys.executable, str(script), *arguments]


def run_inside(script: Path, arguments: list[str]) -> int:
    # Removed by us, as what is killed in there cannot do it.
    with tempfile.TemporaryDirectory(prefix="udpbench-", ignore_cleanup_errors=True) as scratch:
        return _run(_command(script, arguments), {_MARK: "1", "TMPDIR": scratch})


def _run(command: list[str], environment: dict[str, str]) -> int:
    child = subprocess.Popen(command, env={**os.environ, **environment})

    def _on_signal(number: int, _frame: FrameType | None) -> None:
        # unshare ignores SIGTERM; with its death the kernel kills all that runs in there.
        child.kill()
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    try:
        return child.wait()
    finally:
        child.wait()
