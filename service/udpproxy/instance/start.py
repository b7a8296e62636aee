"""From a file's name to a running proxy, and from every way to fail to an exit status."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from pathlib import Path

from udpproxy import __version__
from udpproxy.config import reading
from udpproxy.config.model import Log
from udpproxy.errors import ConfigError, NoRight, UnitError, lines_of
from udpproxy.instance.options import INTERNAL, Mode, Setting
from udpproxy.instance.parent import Parent
from udpproxy.instance.runtime_directory import AlreadyRunning, Place, runtime_directory
from udpproxy.process import messages
from udpproxy.process.files import give
from udpproxy.process.logs import Logs, level_from
from udpproxy.process.notify import Notifier
from udpproxy.process.privileges import (
    DAC_OVERRIDE,
    NET_BIND_SERVICE,
    SYS_RESOURCE,
    Account,
    raise_descriptor_limit,
)
from udpproxy.process.signals import Signals
from udpproxy.proxy.config import here
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.parent.names import check_name_servers
from udpproxy.proxy.parent.resources import check_descriptors
from udpproxy.proxy.reg import engines, installed

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
    path: Path,
    *,
    mode: Mode,
    level: str | None = None,
    runtime_dir: Path | None = None,
    session_bus: bool = False,
    starter: Starter | None = None,
) -> int:
    """The proxy, to its end: in the foreground, or as the daemon that `starter` waits for."""
    # First of all: from here on no signal kills us on the way.
    signals = Signals()
    logs = Logs(f"udp-proxy/{path.stem}")
    try:
        instance = reading.instance_name(path)
        text = reading.read_text(path)
        config = here.parse_here(text, str(path))
        installed.check(config, str(path))
    except ConfigError as problem:
        for line in lines_of(problem):
            logs.say(messages.CONFIG_MISTAKE, line)
        logs.close()
        return NO_SYSTEM if problem.passing else BAD_CONFIG
    try:
        logs.level = level_from(level, config.log.level) if level else config.log.level
        if config.singleproc and mode is Mode.FORK:
            mode = Mode.SINGLE
        setting = Setting(
            instance=instance,
            path=path.absolute(),
            directory=runtime_directory(instance, runtime_dir),
            mode=mode,
            session_bus=session_bus,
            account=(account := Account(config.user, config.group)),
            keep=_capabilities(config, account) if starter else None,
        )
        return _start(setting, text, config, logs, signals, starter)
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
    setting: Setting,
    text: str,
    config: Config,
    logs: Logs,
    signals: Signals,
    starter: Starter | None,
) -> int:
    limit, why_not_more = raise_descriptor_limit()
    check_descriptors(config, limit)
    if setting.mode is Mode.SINGLE:  # else they may come later
        check_name_servers(config)
    engines.check(config)
    place = Place(setting.directory, setting.account)
    try:
        if starter:
            starter.log_opens(config.log)
            logs.witness = starter.say
        _give_logs(config, setting.account)
        with setting.account.acting():
            # As they are reopened later: what is open now is also writable then.
            logs.configure(config.log, keep_level=True)
        logs.say(messages.STARTING, __version__, setting.instance)
        if why_not_more:
            logs.say(messages.LIMIT_STAYS, limit, why_not_more)
        for warning in config.warnings:
            logs.say(messages.CONFIG_WARNING, warning)
        notifier = starter or Notifier()
        parent = Parent(setting, text, config, logs=logs, signals=signals, notifier=notifier)
        return asyncio.run(parent.run())
    finally:
        place.leave()


def _capabilities(config: Config, account: Account) -> frozenset[int]:
    """What a daemon needs after its start: ports that a reload brings, log files of others, and
    descriptors on their way to REG: those of all root's processes together are as many as one of
    them may have open (unix(7), ETOOMANYREFS), and root is more than we."""
    wanted = set() if account.uid else {SYS_RESOURCE}
    if any(listen.ports.first < 1024 for listen in config.listen):
        wanted.add(NET_BIND_SERVICE)
    files = config.log.target == "file" or config.log.records != "same"
    if files and not account.uid:
        wanted.add(DAC_OVERRIDE)
    return frozenset(wanted)


def _give_logs(config: Config, account: Account) -> None:
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
