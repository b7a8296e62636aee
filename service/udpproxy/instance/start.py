"""From a file's name to a running instance, and from every way to fail to an exit status."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

from udpproxy.config import reading
from udpproxy.config.model import InstanceConfig, Log
from udpproxy.errors import ConfigError, NoRight, UnitError, lines_of
from udpproxy.instance.options import INTERNAL, Mode, RunOptions
from udpproxy.instance.parent import Parent
from udpproxy.instance.runtime_directory import (
    AlreadyRunning,
    RuntimeDirectory,
    runtime_directory,
)
from udpproxy.instance.service import Product
from udpproxy.process import messages
from udpproxy.process.files import give
from udpproxy.process.logs import Logs, level_from
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import (
    DAC_OVERRIDE,
    SYS_RESOURCE,
    Account,
    raise_descriptor_limit,
)
from udpproxy.process.signals import Signals
from udpproxy.process.verbs import signals_of

BAD_CONFIG, NO_RIGHT, NO_SYSTEM, RUNS_ALREADY = 78, 77, 71, 75
"""EX_CONFIG, EX_NOPERM, EX_OSERR and EX_TEMPFAIL of sysexits.h."""


class Starter(Notifier):
    """Who waits for a daemon's start: readiness, and until then warnings and errors."""

    @abstractmethod
    def log_opens(self, log: Log) -> None:
        """stderr is not needed any longer where the log goes elsewhere."""

    @abstractmethod
    def say(self, text: str) -> None:
        """For people."""


def run(
    product: Product[Any],
    path: Path,
    *,
    mode: Mode,
    level: str | None = None,
    runtime_dir: Path | None = None,
    session_bus: bool = False,
    starter: Starter | None = None,
) -> int:
    """The instance, to its end: in the foreground, or as the daemon that `starter` waits for."""
    # First of all: from here on no signal kills us on the way.
    signals = Signals(signals_of(product.verbs))
    identity = product.identity
    logs = Logs(identity.speaker(path.stem))
    try:
        instance = reading.instance_name(path)
        text = reading.read_text(path, identity.name)
        config = product.parse(text, str(path))
    except ConfigError as problem:
        for line in lines_of(problem):
            logs.say(messages.CONFIG_MISTAKE, line)
        logs.close()
        return NO_SYSTEM if problem.passing else BAD_CONFIG
    try:
        logs.level = level_from(level, config.log.level) if level else config.log.level
        options = RunOptions(
            instance=instance,
            path=path.absolute(),
            directory=runtime_directory(identity, instance, runtime_dir),
            mode=product.mode(config, mode),
            session_bus=session_bus,
            account=(account := Account(config.user, config.group)),
            keep=_capabilities(product, config, account) if starter else None,
        )
        return _start(product, options, text, config, logs, signals, starter)
    except AlreadyRunning as problem:
        logs.say(messages.START_FAILED, problem)
        return RUNS_ALREADY
    except NoRight as problem:
        logs.say(messages.START_FAILED, problem)
        return NO_RIGHT
    except (UnitError, ValueError) as problem:
        logs.say(messages.START_FAILED, problem)
        return NO_SYSTEM
    except Exception as problem:
        logs.failure(problem)
        return INTERNAL
    finally:
        logs.close()


def _start(
    product: Product[Any],
    options: RunOptions,
    text: str,
    config: InstanceConfig,
    logs: Logs,
    signals: Signals,
    starter: Starter | None,
) -> int:
    limit, why_not_more = raise_descriptor_limit()
    product.check(config, options.mode, limit)
    identity = product.identity
    directory = RuntimeDirectory(identity, options.directory, options.account)
    try:
        if starter:
            starter.log_opens(config.log)
            logs.witness = starter.say
        _give_logs(config, options.account)
        with options.account.acting():
            # As they are reopened later: what is open now is also writable then.
            logs.configure(config.log, keep_level=True)
        logs.say(messages.STARTING, identity.name, identity.version, options.instance)
        if why_not_more:
            logs.say(messages.LIMIT_STAYS, limit, why_not_more)
        for warning in config.warnings:
            logs.say(messages.CONFIG_WARNING, warning)
        notifier = starter or Notifier()
        parent = Parent(product, options, logs=logs, signals=signals, notifier=notifier)
        return asyncio.run(parent.run(text, config))
    finally:
        directory.leave()


def _capabilities(
    product: Product[Any], config: InstanceConfig, account: Account
) -> frozenset[int]:
    """What a daemon needs after its start: log files of others, descriptors on their way to a child
    (those of all root's processes together are as many as one of them may have open (unix(7),
    ETOOMANYREFS), and root is more than we), and what the product does."""
    wanted = set() if account.uid else {SYS_RESOURCE}
    files = config.log.target == "file" or config.log.records != "same"
    if files and not account.uid:
        wanted.add(DAC_OVERRIDE)
    return product.capabilities(config) | wanted


def _give_logs(config: InstanceConfig, account: Account) -> None:
    """Files that only root can make, for whom we become."""
    if os.getuid() != 0 or not account.uid:
        return
    named = [config.log.file] if config.log.target == "file" else []
    named += [config.log.records] if config.log.records != "same" else []
    for path in named:
        if path:
            try:
                give(Path(path), account.uid, -1 if account.gid is None else account.gid)
            except OSError as problem:
                raise UnitError("log", f"{path}: {problem.strerror}") from None
