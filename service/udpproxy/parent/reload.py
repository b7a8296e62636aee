"""A new configuration into a running proxy: checked whole, then applied, or nothing changed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from udpproxy.config import load
from udpproxy.config.model import Config
from udpproxy.errors import ConfigError, InvalidArgument, LinkError, UnitError
from udpproxy.parent.children import Children
from udpproxy.parent.names import Naming, check_name_servers
from udpproxy.parent.peer import Peer
from udpproxy.parent.resources import Resources, places
from udpproxy.parent.setting import Mode
from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.process.wire import Plain
from udpproxy.reg import installed

_FIXED = {
    "max_sessions": "max-sessions",
    "max_sessions_per_client": "max-sessions-per-client",
    "evict_idlest": "overflow",
    "workers": "workers",
    "engine": "engine",
    "singleproc": "singleproc",
    "user": "user",
    "group": "group",
}


def refuse_restart_keys(old: Config, new: Config) -> None:
    """InvalidArgument for a change that only a restart can bring."""
    changed = [key for name, key in _FIXED.items() if getattr(old, name) != getattr(new, name)]
    if changed:
        raise InvalidArgument(f"{', '.join(changed)}: a change needs a restart")


class Change:
    """The difference between two configurations, as it is applied to what the parent owns."""

    def __init__(self, resources: Resources, new: Config) -> None:
        """Opens what is new; InvalidArgument and nothing changed where that fails."""
        self._resources = resources
        wanted = places(new)
        self._added = [place for place in wanted if place not in resources.listeners]
        self._removed = [place for place in resources.listeners if place not in wanted]
        try:
            resources.bind(self._added)
        except UnitError as problem:
            raise InvalidArgument(str(problem)) from None
        try:
            self._families = resources.fill_pool(new)
        except UnitError as problem:
            resources.unbind(self._added)
            raise InvalidArgument(str(problem)) from None

    async def apply(self, reg: Peer | None) -> int:
        """REG takes it over; how many sessions that ended. Where there is none, or it dies
        meanwhile (LinkError): the next one starts with all of it."""
        if reg is None:
            self._resources.unbind(self._removed)
            return 0
        self._resources.lend_text(reg.link)
        self._resources.lend_carriers(reg.link, self._families)
        self._resources.lend_listeners(reg.link, self._added)
        numbers: list[Plain] = [*self._resources.unbind(self._removed)]
        ended = await reg.ask("reconsider", {"removed": numbers}, limit=10.0)
        return int(str(ended))


class Current:
    """`config` is the configuration that holds."""

    def __init__(self, logs: Logs, path: Path, config: Config) -> None:
        self._logs = logs
        self._path = path
        self.config = config

    async def reload(
        self, mode: Mode, resources: Resources, naming: Naming, children: Children
    ) -> int:
        """The file as it is now takes its place; how many sessions that ended. InvalidArgument
        and nothing changed where it has mistakes."""
        try:
            text = load.read_text(self._path)
            new = load.parse(text, str(self._path), ephemeral=load.ephemeral_ports())
            installed.check(new, str(self._path))
            refuse_restart_keys(self.config, new)
            self._logs.check(new.log)
            check_name_servers(new)
            change = Change(resources, new)
        except (ConfigError, InvalidArgument, UnitError) as problem:
            self._logs.say(messages.RELOAD_FAILED, problem)
            raise InvalidArgument(str(problem)) from None
        old, self.config = self.config, new
        resources.set_text(text, str(self._path))
        if old.segmentation != new.segmentation:
            children.segmented(new.segmentation)
        self._logs.configure(new.log, keep_level=old.log.level == new.log.level)
        for warning in new.warnings:
            self._logs.say(messages.CONFIG_WARNING, warning)
        if mode is Mode.SINGLE:
            naming.look_up_all(new)
            naming.resume(children.peers["reg"].link)
        for child in children.all().values():
            child.life.judge_by(new.crash_limit, new.crash_window, stop=new.stop_on_child_death)
        ended = 0
        with contextlib.suppress(LinkError, KeyError):
            ended = await change.apply(children.peers.get("reg"))
            if old.log.level != new.log.level:
                await children.peers["reg"].ask("loglevel", {"level": str(new.log.level)})
        naming.reloaded(new, children.peers)
        children.start_helpers()
        self._logs.say(messages.RELOADED, len(resources.listeners), len(new.acls))
        if ended:
            self._logs.say(messages.SESSIONS_WITHDRAWN, ended)
        return ended
