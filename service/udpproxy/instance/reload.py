"""A new configuration into a running instance: checked whole, then applied, or nothing changed."""

from __future__ import annotations

import contextlib
from typing import Any

from udpproxy.config import reading
from udpproxy.config.model import InstanceConfig
from udpproxy.errors import ConfigError, InvalidArgument, LinkError, UnitError, lines_of
from udpproxy.instance.children import Children
from udpproxy.instance.commands import Lifecycle
from udpproxy.instance.options import RunOptions
from udpproxy.instance.service import Product, Service
from udpproxy.process import messages
from udpproxy.process.logs import Logs, Opened
from udpproxy.process.wire import Plain


def refuse_restart_keys(product: Product[Any], old: InstanceConfig, new: InstanceConfig) -> None:
    """InvalidArgument for a change that only a restart can bring."""
    keys = product.restart_keys.items()
    changed = [key for name, key in keys if getattr(old, name) != getattr(new, name)]
    if changed:
        raise InvalidArgument(f"{', '.join(changed)}: a change needs a restart")


class Reload:
    """One, as a transaction: prepare() does everything that can fail; then either commit(), which
    cannot, or rollback(), after which nothing is left of it."""

    def __init__(
        self, logs: Logs, product: Product[Any], options: RunOptions, service: Service[Any]
    ) -> None:
        self._logs = logs
        self._product = product
        self._options = options
        self._service = service
        self._undo = contextlib.ExitStack()
        self._log: Opened

    async def prepare(self) -> None:
        """ConfigError, InvalidArgument, UnitError, LinkError or OSError, and rollback() must
        follow."""
        path, service = self._options.path, self._service
        text = reading.read_text(path, self._product.identity.name)
        self._old, self._new = service.config, self._product.parse(text, str(path))
        refuse_restart_keys(self._product, self._old, self._new)
        self._log = self._logs.opened(self._new.log)
        self._undo.callback(self._log.close)
        # What others can see comes last.
        self._undo.callback(service.rollback)
        await service.prepare(self._new, text)

    def commit(self) -> None:
        """All of it holds, but for the children, who are told next."""
        self._undo.pop_all()
        self._service.commit()
        self._logs.take(self._log, keep_level=self._old.log.level == self._new.log.level)
        for warning in self._new.warnings:
            self._logs.say(messages.CONFIG_WARNING, warning)

    def rollback(self) -> None:
        """As if nothing had been tried."""
        self._undo.close()


async def reload(
    logs: Logs,
    product: Product[Any],
    options: RunOptions,
    service: Service[Any],
    children: Children,
    life: Lifecycle,
) -> Plain:
    """The file as it is now takes the place of the one that holds; what the service says of it.
    InvalidArgument and nothing changed where it has mistakes."""
    change = Reload(logs, product, options, service)
    try:
        await change.prepare()
        if life.word == "stopping":
            raise LinkError(f"{product.identity.spoken} is stopping")
    except (ConfigError, InvalidArgument, UnitError, OSError) as problem:
        change.rollback()
        for line in lines_of(problem):
            logs.say(messages.RELOAD_FAILED, line)
        raise InvalidArgument(str(problem)) from None
    except BaseException:
        change.rollback()
        raise
    change.commit()
    children.judge()
    answer = await service.take_over()
    children.follow()
    service.reloaded()
    return answer
