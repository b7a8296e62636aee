"""What can be asked of a file without a running proxy: check, explain, show.

Each prints its answer and returns the exit status: 0, 2 for a bad value on the command line, 78
for mistakes in the file.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from udpproxy.config import load
from udpproxy.config import show as shown
from udpproxy.errors import ConfigError, InvalidArgument
from udpproxy.policy import explain as asked

_DONE = 0
_USAGE = 2
_CONFIG = 78


def check(path: Path, *, resolve: bool) -> int:
    """Say whether the file is right, with every mistake in it."""
    try:
        config = load.read(path)
    except ConfigError as error:
        return _mistaken(error)
    for warning in config.warnings:
        _tell(f"warning: {warning}")
    try:
        load.instance_name(path)
    except ConfigError as error:
        # A draft beside the real file may be called anything.
        _tell(f"warning: {error}")
    if resolve:
        print(f"{path}: no names to resolve")
    print(f"{path}: ok")
    return _DONE


def explain(path: Path, *, client: str, to: str | None, at: str | None) -> int:
    """Say which ACL decides for a client, and why none before it did."""
    try:
        config = load.read(path)
        question = asked.question(config, client, to)
        moment = asked.moment(at, datetime.now())
    except ConfigError as error:
        return _mistaken(error)
    except InvalidArgument as error:
        _tell(f"udp-proxy explain: {error}")
        return _USAGE
    if not asked.takers(config, question):
        _tell("note: no listener takes such a datagram")
    print("\n".join(asked.explanation(config, question, moment).lines()))
    return _DONE


def show(path: Path, *, defaults: bool) -> int:
    """Print the file as it was understood."""
    try:
        config = load.read(path)
    except ConfigError as error:
        return _mistaken(error)
    print(shown.render(config, defaults=defaults), end="")
    return _DONE


def _mistaken(error: ConfigError) -> int:
    _tell(str(error))
    return _CONFIG


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
