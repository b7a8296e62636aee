"""A new configuration into a running proxy: checked whole, then applied, or nothing changed."""

from __future__ import annotations

from udpproxy.config.model import Config
from udpproxy.errors import InvalidArgument, UnitError
from udpproxy.parent.peer import Peer
from udpproxy.parent.resources import Resources, places
from udpproxy.process.wire import Plain

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
