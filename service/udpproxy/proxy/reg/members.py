"""The numbers by which engine and table know the servers of groups."""

from __future__ import annotations

from collections.abc import Iterator

from udpproxy.proxy.config.model import Config, Group, Server
from udpproxy.proxy.session.balance import MOST_MEMBERS

Key = tuple[str, str]
"""A group's name, and a server as the file has it."""


class MemberNumbers:
    """Each server of a group keeps its number as long as a configuration has it."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}
        self._before: set[Key] = set()

    def configure(self, config: Config) -> None:
        """These are the groups from now on. Numbers of the configuration before are not given to
        others yet, for its sessions are still to be judged."""
        wanted = {key_of(group, server) for group, server in servers_of(config)}
        kept = wanted | self._before
        self._numbers = {key: self._numbers[key] for key in self._numbers if key in kept}
        self._before = wanted
        used = set(self._numbers.values())
        free = (number for number in range(1, MOST_MEMBERS) if number not in used)
        for group, server in servers_of(config):
            key = key_of(group, server)
            if key not in self._numbers:
                self._numbers[key] = next(free, 0)

    def __getitem__(self, key: Key) -> int:
        """0: it is in no configuration."""
        return self._numbers.get(key, 0)


def servers_of(config: Config) -> Iterator[tuple[Group, Server]]:
    """Every server of every group."""
    return ((group, server) for group in config.groups for server in group.servers)


def key_of(group: Group, server: Server) -> Key:
    """What it is known by."""
    return group.name, str(server)
