"""What a reload changes in what the parent owns, and how REG takes it over."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from udpproxy.errors import InvalidArgument, LinkError, UnitError
from udpproxy.instance.connection import ChildConnection
from udpproxy.instance.options import Mode
from udpproxy.instance.service import Instance
from udpproxy.process.wire import Plain, cut
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.parent.names import NameRegistry, check_name_servers
from udpproxy.proxy.parent.resources import Resources, check_descriptors, places, text_file

HAND_OVER_LIMIT = 10.0
"""Seconds that REG has to take a new configuration over."""
_MOST = 1 << 32
"""Of sessions: more than a table's, for they come and go while REG counts."""


class Change:
    """Another configuration: prepare(), then commit() or rollback()."""

    def __init__(
        self, mode: Mode, resources: Resources, naming: NameRegistry, config: Config, text: str
    ) -> None:
        self._mode = mode
        self._resources = resources
        self._naming = naming
        self.config = config
        self._text = text
        self._undo = contextlib.ExitStack()

    def prepare(self, room: int | None) -> None:
        """UnitError or OSError, and rollback() must follow. `room`: how many descriptors REG can
        open, if it says so."""
        new = self.config
        check_descriptors(new, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        if self._mode is Mode.SINGLE:
            check_name_servers(new)
        os.close(text_file(self._text))  # children get one of these each
        if self._mode is Mode.SINGLE:
            self._naming.look_up_all(new)
        families = self._resources.fill_pool(new)
        self._undo.callback(self._resources.drop_pool, families)
        mirrors = self._resources.fill_mirrors(new)
        self._undo.callback(self._resources.mirrors.drop, mirrors)
        needed = len(mirrors) + (self._resources.room_needed(new, families) if families else 0)
        if needed and room is not None and room < needed:
            raise UnitError(
                "descriptors",
                f"reg can open {room} more and needs {needed}: raise the limit of descriptors of "
                "its unit, or lower max-sessions",
            )
        # What others can see comes last: from bind() on datagrams may go to the new sockets.
        wanted, bound = dict.fromkeys(places(new)), self._resources.listeners.by_place
        added = [place for place in wanted if place not in bound]
        self._removed = [place for place in bound if place not in wanted]
        self._resources.bind(added)
        self._undo.callback(self._resources.listeners.unbind, added)

    def commit(self, path: Path) -> None:
        """It holds."""
        self._undo.pop_all()
        self._resources.replace(self.config, self._text, str(path), self._removed)

    def rollback(self) -> None:
        """As if nothing had been tried."""
        self._undo.close()


@dataclass(frozen=True, slots=True)
class Moved:
    """How many sessions a reload ended, and of those whose rule leads elsewhere how many follow it
    and how many stay."""

    ended: int = 0
    follow: int = 0
    stay: int = 0


async def hand_over(
    instance: Instance, reg: ChildConnection, resources: Resources, level: int | None
) -> Moved:
    """REG takes the configuration over; what that did to sessions. One that goes meanwhile is
    replaced by one that starts with all of it, and so is one that does not do as it should.
    `level`: of its log, where that is another one now."""
    try:
        resources.send_text(reg.link)
        resources.send_own(reg.link)
        removed: list[Plain] = [*resources.send_difference(reg.link)]
        answer = await reg.ask("reconsider", {"removed": removed}, limit=HAND_OVER_LIMIT)
        if level is not None:
            await reg.ask("loglevel", {"level": str(level)})
    except (InvalidArgument, LinkError, UnitError, OSError) as problem:
        instance.discard(reg, f"it has not taken the new configuration over: {problem}")
        return Moved()
    moved = _moved(answer)
    if moved is None:
        said = cut(repr(answer))
        instance.discard(reg, f"{said} is nothing that a reload can do to sessions")
        return Moved()
    return moved


def _moved(answer: Plain) -> Moved | None:
    match answer:
        case {"ended": int(ended), "follow": int(follow), "stay": int(stay)}:
            numbers = (ended, follow, stay)
            if all(type(number) is int and 0 <= number <= _MOST for number in numbers):
                return Moved(*numbers)
    return None
