"""A new configuration into a running proxy: checked whole, then applied, or nothing changed."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from udpproxy.config import reading
from udpproxy.errors import ConfigError, InvalidArgument, LinkError, UnitError, lines_of
from udpproxy.instance.children import Children
from udpproxy.instance.connection import Peer
from udpproxy.instance.options import Mode
from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.process.wire import Plain, cut
from udpproxy.proxy.config import here
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.parent.names import Naming, check_name_servers
from udpproxy.proxy.parent.resources import Resources, check_descriptors, places, text_file
from udpproxy.proxy.reg import installed

HAND_OVER_LIMIT = 10.0
"""Seconds that REG has to take a new configuration over."""
_MOST = 1 << 32
"""Of sessions: more than a table's, for they come and go while REG counts."""

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
    """Another configuration as a transaction. prepare() does everything that can fail; then either
    commit(), which cannot, or rollback(), after which nothing is left of it."""

    def __init__(
        self, mode: Mode, logs: Logs, resources: Resources, naming: Naming, path: Path
    ) -> None:
        self._mode = mode
        self._logs = logs
        self._resources = resources
        self._naming = naming
        self._path = path
        self._undo = contextlib.ExitStack()

    def prepare(self, old: Config, room: int | None) -> None:
        """ConfigError, InvalidArgument, UnitError or OSError, and rollback() must follow. `room`:
        how many descriptors REG can open, if it says so."""
        self._text = reading.read_text(self._path)
        new = here.parse_here(self._text, str(self._path))
        installed.check(new, str(self._path))
        refuse_restart_keys(old, new)
        check_descriptors(new, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        if self._mode is Mode.SINGLE:
            check_name_servers(new)
        self.old, self.new = old, new
        # What others can see comes last: from bind() on datagrams may go to the new sockets.
        self._log = self._logs.opened(new.log)
        self._undo.callback(self._log.close)
        os.close(text_file(self._text))  # children get one of these each
        if self._mode is Mode.SINGLE:
            self._naming.look_up_all(new)
        families = self._resources.fill_pool(new)
        self._undo.callback(self._resources.drop_pool, families)
        needed = len(families) * self._resources.table.capacity
        if room is not None and room < needed:
            raise UnitError(
                "descriptors",
                f"reg can open {room} more and needs {needed}: raise the limit of descriptors of "
                "its unit, or lower max-sessions",
            )
        wanted, bound = dict.fromkeys(places(new)), self._resources.listeners.by_place
        added = [place for place in wanted if place not in bound]
        self._removed = [place for place in bound if place not in wanted]
        self._resources.bind(added)
        self._undo.callback(self._resources.listeners.unbind, added)

    def commit(self) -> None:
        """All of it holds, but for the children, who are told next."""
        self._undo.pop_all()
        self._resources.replace(self.new, self._text, str(self._path), self._removed)
        self._logs.take(self._log, keep_level=self.old.log.level == self.new.log.level)
        for warning in self.new.warnings:
            self._logs.say(messages.CONFIG_WARNING, warning)

    def rollback(self) -> None:
        """As if nothing had been tried."""
        self._undo.close()


@dataclass(frozen=True, slots=True)
class Led:
    """How many sessions a reload ended, and of those whose rule leads elsewhere how many follow it
    and how many stay."""

    ended: int = 0
    follow: int = 0
    stay: int = 0


class Current:
    """`config` is the configuration that holds."""

    def __init__(self, logs: Logs, path: Path, config: Config) -> None:
        self._logs = logs
        self._path = path
        self.config = config

    async def reload(
        self,
        mode: Mode,
        resources: Resources,
        naming: Naming,
        children: Children,
        room: int | None,
    ) -> Led:
        """The file as it is now takes its place; what that did to sessions. InvalidArgument
        and nothing changed where it has mistakes. `room`: see Children.room()."""
        change = Change(mode, self._logs, resources, naming, self._path)
        try:
            change.prepare(self.config, room)
        except (ConfigError, InvalidArgument, UnitError, OSError) as problem:
            change.rollback()
            for line in lines_of(problem):
                self._logs.say(messages.RELOAD_FAILED, line)
            raise InvalidArgument(str(problem)) from None
        except BaseException:
            change.rollback()
            raise
        change.commit()
        old, new = change.old, change.new
        self.config = new
        if old.segmentation != new.segmentation:
            children.segmented(new.segmentation)
        for child in children.all().values():
            child.life.judge_by(new.crash_limit, new.crash_window, stop=new.stop_on_child_death)
        led = Led()
        if reg := children.peers.get("reg"):
            if mode is Mode.SINGLE:
                naming.resume(reg.link)
            led = await self._hand_over(reg, resources, children, old)
        naming.reloaded(new, children.peers)
        children.start_helpers()
        self._logs.say(messages.RELOADED, len(resources.listeners.by_place), len(new.acls))
        if led.ended:
            self._logs.say(messages.SESSIONS_WITHDRAWN, led.ended)
        if led.follow or led.stay:
            self._logs.say(messages.SESSIONS_LED, led.follow, led.stay)
        return led

    async def _hand_over(
        self, reg: Peer, resources: Resources, children: Children, old: Config
    ) -> Led:
        """REG takes it over; what that did to sessions. One that goes meanwhile is replaced by
        one that starts with all of it, and so is one that does not do as it should."""
        level = self.config.log.level
        try:
            resources.lend_text(reg.link)
            removed: list[Plain] = [*resources.lend_difference(reg.link)]
            answer = await reg.ask("reconsider", {"removed": removed}, limit=HAND_OVER_LIMIT)
            if level != old.log.level:
                await reg.ask("loglevel", {"level": str(level)})
        except (InvalidArgument, LinkError, UnitError, OSError) as problem:
            children.discard(reg, f"it has not taken the new configuration over: {problem}")
            return Led()
        led = _led(answer)
        if led is None:
            said = cut(repr(answer))
            children.discard(reg, f"{said} is nothing that a reload can do to sessions")
            return Led()
        return led


def _led(answer: Plain) -> Led | None:
    match answer:
        case {"ended": int(ended), "follow": int(follow), "stay": int(stay)}:
            numbers = (ended, follow, stay)
            if all(type(number) is int and 0 <= number <= _MOST for number in numbers):
                return Led(*numbers)
    return None
