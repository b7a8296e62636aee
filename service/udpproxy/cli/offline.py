"""What can be asked of a file without a running proxy: check, explain, show, transparent.

Each prints its answer and returns the exit status: 0, 2 for a bad value on the command line, 71
where a name cannot be resolved, 78 for mistakes in the file.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from udpproxy.config import reading
from udpproxy.errors import ConfigError, InvalidArgument, UnitError
from udpproxy.proxy.config import firewall, here
from udpproxy.proxy.config import show as shown
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.config.names import looks_up, names
from udpproxy.proxy.identity import IDENTITY
from udpproxy.proxy.policy import explain as asked
from udpproxy.proxy.policy.rules import NameView, Unresolved
from udpproxy.proxy.reg import installed

_DONE = 0
_USAGE = 2
_UNRESOLVED = 71
_CONFIG = 78


def check(path: Path, *, resolve: bool) -> int:
    """Say whether the file is right, with every mistake in it."""
    try:
        config = here.read(path)
        installed.check(config, str(path), loading=True)
    except ConfigError as error:
        return _mistaken(error)
    for warning in config.warnings:
        _tell(f"warning: {warning}")
    if unreadable := reading.unreadable_for(IDENTITY.name, path, IDENTITY.configurations):
        _tell(f"warning: {path}: {unreadable}")
    try:
        reading.instance_name(path)
    except ConfigError as error:
        # A draft beside the real file may be called anything.
        _tell(f"warning: {error}")
    status = _resolve(path, config) if resolve else _DONE
    if status == _DONE:
        print(f"{path}: ok")
    return status


def _resolve(path: Path, config: Config) -> int:
    """Every name as its rules would see it."""
    if not names(config):
        print(f"{path}: no names to resolve")
        return _DONE
    from udpproxy.resolver import blocking

    try:
        results = blocking.look_up_all(names(config), config.resolver)
    except UnitError as problem:
        _tell(f"{path}: {problem}")
        return _UNRESOLVED
    for name, result in results.items():
        told = ", ".join(map(str, result.addresses))
        if result.failure:
            told = f"failed: {result.failure.value}"
        elif result.partial:
            told += f" (for {result.ttl:g} s; the other family failed: {result.partial.value})"
        else:
            told += f" (for {result.ttl:g} s)"
        print(f"{name}: {told}")
    return _UNRESOLVED if any(result.failure for result in results.values()) else _DONE


def explain(path: Path, *, client: str, to: str | None, at: str | None) -> int:
    """Say which ACL decides for a client, and why none before it did."""
    try:
        config = here.read(path)
        question = asked.question(config, client, to, here.is_own)
        moment = asked.moment(at, datetime.now())
    except ConfigError as error:
        return _mistaken(error)
    except InvalidArgument as error:
        _tell(f"udp-proxy explain: {error}")
        return _USAGE
    if not asked.takers(config, question):
        _tell("note: no listener takes such a datagram")
    answer = asked.explanation(config, question, moment, _known(config))
    print("\n".join(answer.lines()))
    return _DONE


def _known(config: Config) -> NameView:
    """What can be found out about names, here and now."""
    if not looks_up(config):
        return Unresolved()
    from udpproxy.resolver.blocking import Asked

    try:
        return Asked(names(config), config.resolver)
    except UnitError as problem:
        _tell(f"note: {problem}")
        return Unresolved()


def transparent(path: Path) -> int:
    """Print nft's and ip's part of it."""
    try:
        config = here.read(path)
    except ConfigError as error:
        return _mistaken(error)
    try:
        name = reading.instance_name(path)
    except ConfigError as error:
        return _mistaken(error)
    print(firewall.rules(config, name), end="")
    return _DONE


def show(path: Path, *, defaults: bool) -> int:
    """Print the file as it was understood."""
    try:
        config = here.read(path)
    except ConfigError as error:
        return _mistaken(error)
    print(shown.render(config, defaults=defaults), end="")
    return _DONE


def _mistaken(error: ConfigError) -> int:
    _tell(str(error))
    return _CONFIG


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
