"""The parent's part in servers of groups: who is drained, which it decides, and who is down, which
REG tells it. The next REG hears of both, and so does the next parent: systemd keeps them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable

from udpproxy.errors import InvalidArgument
from udpproxy.instance.service import Instance
from udpproxy.process import messages, wire
from udpproxy.process.link import Link
from udpproxy.process.loop import Reactor, Timer
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.parent.store import Store

Key = tuple[str, str]
"""A group's name, and a server as the file has it."""

MOST_CHANGES = 20
"""Changes a second that are told on the bus: what is beyond is not told one by one."""
_SOON = 0.1
"""Seconds until systemd has what REG tells, as all servers may change at once. After a kill in
between the next REG finds it out itself."""
_LONGEST = 200
"""Characters of a reason."""


class Servers:
    """`down` with the reason of each."""

    def __init__(
        self,
        instance: Instance,
        store: Store | None,
        config: Callable[[], Config],
        reactor: Reactor,
    ) -> None:
        """With what systemd has kept."""
        self._instance = instance
        self._store = store
        self._config = config
        self._reactor = reactor
        self._timer: Timer | None = None
        self._memory: int | None = None
        self._of: Config | None = None
        self._keys: frozenset[Key] = frozenset()
        self.down: dict[Key, str] = {}
        self.drained: set[Key] = set()
        self._second = self._told = 0
        if store and (found := store.take_servers()) is not None:
            self._memory = found
            with contextlib.suppress(OSError, ValueError, TypeError):
                self._read(json.loads(os.pread(found, os.fstat(found).st_size, 0)))

    def resume(self, link: Link) -> None:
        """All that a REG has to know."""
        self.keep()
        down: list[wire.Plain] = [[*key, why] for key, why in self.down.items()]
        link.send(wire.Tell("servers", {"down": down, "drained": self._drained()}))

    def keep(self) -> None:
        """Those of the configuration alone."""
        there = self._there()
        self.down = {key: why for key, why in self.down.items() if key in there}
        self.drained &= there

    def heard(self, news: wire.Tell) -> None:
        """From REG: a server of a group has changed."""
        match news.args:
            case {"group": str(group), "server": str(server), "down": bool(down), "why": str(why)}:
                key = group, server
            case _:
                return
        if key not in self._there():
            return
        if down:
            self.down[key] = wire.cut(why)[:_LONGEST]
        else:
            self.down.pop(key, None)
        if self._timer is None:
            self._timer = self._reactor.call_later(_SOON, self._write)
        self._announce(key, "down" if down else "up", self.down.get(key, ""))

    def drain(self, word: str, link: Link | None, by: str, *, on: bool) -> None:
        """InvalidArgument where there is no such server, or more than one."""
        key = self._find(word)
        if on == (key in self.drained):
            raise InvalidArgument(f"{word} is {'drained already' if on else 'not drained'}")
        if on:
            self.drained.add(key)
        else:
            self.drained.remove(key)
        self._write()
        if link:
            link.send(wire.Tell("drained", {"servers": self._drained()}))
        group, server = key
        if on:
            self._instance.logs.say(
                messages.MEMBER_DRAINED, server, group, by, GROUP=group, SERVER=server
            )
        else:
            self._instance.logs.say(
                messages.MEMBER_UNDRAINED, server, group, GROUP=group, SERVER=server
            )
        self._announce(key, "drained" if on else "undrained", "")

    def close(self) -> None:
        """The store's duplicate is systemd's."""
        if self._timer:
            self._write()
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    def give_back(self) -> None:
        """The next one begins anew."""
        if self._store and self._memory is not None:
            with contextlib.suppress(OSError):
                self._store.drop_servers()

    @property
    def stored(self) -> int:
        """How many descriptors systemd is to have of us."""
        return int(self._store is not None and self._memory is not None)

    def _there(self) -> frozenset[Key]:
        config = self._config()
        if config is not self._of:
            self._of = config
            self._keys = frozenset(
                (group.name, str(server)) for group in config.groups for server in group.servers
            )
        return self._keys

    def _find(self, word: str) -> Key:
        group, slash, server = word.rpartition("/")
        found = [
            key
            for key in sorted(self._there())
            if key[1] == server and (not slash or key[0] == group)
        ]
        if not found:
            raise InvalidArgument(f"no group has the server {word}: see the verb servers")
        if len(found) > 1:
            named = ", ".join("/".join(key) for key in found)
            raise InvalidArgument(f"several groups have the server {word}: give one of {named}")
        return found[0]

    def _drained(self) -> list[wire.Plain]:
        return [[*key, ""] for key in sorted(self.drained)]

    def _announce(self, key: Key, state: str, why: str) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._told = second, 0
        self._told += 1
        if self._told <= MOST_CHANGES:
            self._instance.announce("ServerChanged", "ssss", [*key, state, why])

    def _read(self, kept: wire.Plain) -> None:
        match kept:
            case {"down": list(down), "drained": list(drained)}:
                for one in down:
                    match one:
                        case [str(group), str(server), str(why)]:
                            self.down[group, server] = why
                for one in drained:
                    match one:
                        case [str(group), str(server), str()]:
                            self.drained.add((group, server))

    def _write(self) -> None:
        """So that a restart, too, finds it as it is."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._store is None:
            return
        down: list[wire.Plain] = [[*key, why] for key, why in self.down.items()]
        text = json.dumps({"down": down, "drained": self._drained()}).encode()
        with contextlib.suppress(OSError):  # then the next change tries again
            if self._memory is None:
                self._memory = _kept(self._store)
            os.ftruncate(self._memory, len(text))
            os.pwrite(self._memory, text, 0)


def _kept(store: Store) -> int:
    """A file that systemd keeps; OSError, and there is none."""
    memory = os.memfd_create("udp-proxy-servers", os.MFD_CLOEXEC)
    try:
        store.keep_servers(memory)
    except OSError:
        os.close(memory)
        raise
    return memory
