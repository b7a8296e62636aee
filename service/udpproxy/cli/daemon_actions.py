"""`udp-proxy daemon ACTION FILE`: a classic daemon, by its PID file.

Exit status: 0 done, 100 nothing to do, 101 not running, 102 failed (the reason on stderr), 103 a
stale PID file; 2 unknown words.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from udpproxy.cli import ctl
from udpproxy.daemon import commands
from udpproxy.daemon.commands import DaemonCommands, Outcome
from udpproxy.daemon.launch import DaemonStart
from udpproxy.daemon.pidfile import guard_path
from udpproxy.errors import ConfigError, LinkError, UnitError
from udpproxy.instance.runtime_directory import runtime_directory
from udpproxy.proxy.config import here
from udpproxy.proxy.identity import IDENTITY

START_LIMIT = 60.0
"""Seconds until a daemon must be ready."""
STOP_SLACK = 20.0
"""Seconds that an end may take beside stop-timeout: more than its other steps may wait for."""
_STOP_TIMEOUT = 10.0
_USAGE = 2


def run(words: argparse.Namespace) -> int:
    """The exit status."""
    if words.action == "start" and words.simulate:
        return _simulate(words)
    if words.pid_file is None:
        sys.stderr.write("udp-proxy daemon: error: --pid-file must be given\n")
        return _USAGE
    name = words.file.stem
    try:
        pid_file = words.pid_file.absolute()
        guard_file = words.guard_file.absolute() if words.guard_file else guard_path(pid_file)
        outcome = _act(words, DaemonCommands(IDENTITY, name, pid_file, guard_file))
    except (UnitError, LinkError, OSError) as problem:
        outcome = Outcome(commands.FAILED, f"{name}: {words.action} failed: {problem}")
    if words.action == "status" and outcome.result != commands.FAILED:
        print(outcome.text)
    elif outcome.text:
        sys.stderr.write(f"udp-proxy: {outcome.text}\n")
    return outcome.result


def _act(words: argparse.Namespace, daemon: DaemonCommands) -> Outcome:
    match words.action:
        case "start":
            limit = words.timeout or START_LIMIT
            begun = DaemonStart(
                IDENTITY, words.file, level=words.level, runtime_dir=words.runtime_dir, limit=limit
            )
            return daemon.start(begun.launch)
        case "stop":
            return daemon.stop(words.timeout or _stop_limit(words.file), force=words.force)
        case "reload":
            path = runtime_directory(IDENTITY, words.file.stem, words.runtime_dir) / "control.sock"
            return daemon.while_running(lambda _, pid: _reload(path, pid))
        case "signal":
            return daemon.signal(words.signal)
        case _:
            return daemon.status()


def _reload(path: Path, pid: int) -> None:
    try:
        ctl.ask(path, "reload", {}, pid)
    except (ConnectionRefusedError, FileNotFoundError):
        raise UnitError("control socket", f"nobody listens at {path}") from None


def _stop_limit(path: Path) -> float:
    """As long as an end may take by its own limits; a file with mistakes is no reason to fail."""
    try:
        timeout = here.read(path).stop_timeout
    except ConfigError:
        timeout = _STOP_TIMEOUT
    return timeout + STOP_SLACK


def _simulate(words: argparse.Namespace) -> int:
    # Only here, for it is large.
    from udpproxy.instance import start
    from udpproxy.instance.options import Mode
    from udpproxy.proxy.product import PROXY

    return start.run(
        PROXY, words.file, mode=Mode.FORK, level=words.level, runtime_dir=words.runtime_dir
    )
