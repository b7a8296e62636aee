"""The words of `udp-proxy daemon`."""

from __future__ import annotations

import argparse
import re
import signal
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words after `daemon`."""
    parser = commands.add_parser("daemon", help="control a daemon by its PID file")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    start = _action(actions, "start", "start it, and return when it is ready")
    start.add_argument(
        "--simulate", action="store_true", help="in the foreground, without any of it"
    )
    start.add_argument("--level", metavar="L", help="log level, as of run")
    _timeout(start, "seconds until it must be ready")
    stop = _action(actions, "stop", "end it, and return when it is gone")
    stop.add_argument("--force", action="store_true", help="kill it after the time-out")
    _timeout(stop, "seconds until it must be gone")
    reload = _action(actions, "reload", "have it read its configuration again")
    _action(actions, "status", "say whether it runs")
    send = _action(actions, "signal", "send it a signal")
    send.add_argument(
        "--signal", metavar="S", type=signal_number, required=True, help="name, number"
    )
    for each in (start, reload):
        each.add_argument("--runtime-dir", metavar="D", type=Path, help="as of run")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text)
    parser.add_argument("file", metavar="FILE", type=Path, help="the instance's TOML file")
    parser.add_argument("--pid-file", metavar="P", type=Path, help="must be given")
    parser.add_argument("--guard-file", metavar="G", type=Path, help="instead of P's .lock")
    return parser


def _timeout(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--timeout", metavar="SECONDS", type=_seconds, help=text)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{word!r} is no time in seconds")
    return seconds


def signal_number(word: str) -> int:
    """The signal that a name (with or without SIG, RTMIN+2 as well) or a number means."""
    if match := re.fullmatch(r"(?:SIG)?RTMIN\+([0-9]{1,2})", word.upper()):
        number = signal.SIGRTMIN + int(match[1])
    elif word.isdecimal() and len(word) < 4:
        number = int(word)
    else:
        name = word.upper().removeprefix("SIG")
        number = next((each for each in signal.Signals if each.name == f"SIG{name}"), 0)
    if not 1 <= number <= signal.SIGRTMAX:
        raise argparse.ArgumentTypeError(f"{word!r} is no signal")
    return int(number)
