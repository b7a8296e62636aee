"""The parent's state, as `info`, the status line and the bus show it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from udpproxy import __version__
from udpproxy.instance.children import Children
from udpproxy.instance.options import Setting
from udpproxy.process.commands import Figures
from udpproxy.process.costly import Costly
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.parent.resources import Resources

_SPOKEN = {"reg": "relay"}


class State:
    """`word` is starting, running or stopping."""

    def __init__(
        self,
        setting: Setting,
        resources: Resources,
        children: Children,
        config: Callable[[], Config],
        refused: Callable[[], int],
    ) -> None:
        """`refused` counts the connections to our sockets that were turned away."""
        self._setting = setting
        self._resources = resources
        self._children = children
        self._config = config
        self._refused = refused
        self._born = time.monotonic()
        self._totals = Costly(lambda: self._resources.table.figures())
        self.word = "starting"

    def totals(self) -> dict[str, int]:
        """What all sessions have carried, those that live too; from a moment ago at most."""
        return self._totals.get()

    def figures(self) -> Figures:
        """All of it; sessions are REG's business, but their number is in the table."""
        mine: Figures = {"connections-refused": self._refused()}
        return self.brief() | self._of_children() | mine | {**self.totals()}

    def brief(self) -> Figures:
        """What everybody on the bus may see."""
        config = self._config()
        figures: Figures = {
            "version": __version__,
            "instance": self._setting.instance,
            "role": "parent",
            "mode": self._setting.mode.value,
            "state": self.text,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._born, 1),
            "listening": len(self._resources.listeners.by_place),
            "rules": len(config.acls),
            "sessions": self.sessions,
            "max-sessions": config.max_sessions,
        }
        return figures | ({"tag": config.tag} if config.tag else {})

    @property
    def text(self) -> str:
        """`word`, and what is missing while something is."""
        down = self._children.down
        if self.word != "running" or not down:
            return self.word
        role = "reg" if "reg" in down else min(down)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(down[role]))
        return f"degraded: {_SPOKEN.get(role, role)} is down since {since}"

    @property
    def sessions(self) -> int:
        """How many there are now."""
        return self._resources.table.count_live()

    def process(self, role: str) -> tuple[int, str, int]:
        """(pid, state, unasked ends) of the process in that role."""
        if role == "parent":
            return os.getpid(), "ready" if self.word == "running" else self.word, 0
        child = self._children.all().get(role)
        if child is None:
            return 0, "stopped", 0
        return child.pid, child.life.state.value, child.life.ends_counted

    def line(self) -> str:
        """For `systemctl status`."""
        listening = len(self._resources.listeners.by_place)
        config = self._config()
        line = f"{self.text}: listening {listening}, sessions {self.sessions}/{config.max_sessions}"
        return f"{line}; log in {config.log.file}" if config.log.target == "file" else line

    def _of_children(self) -> Figures:
        figures: Figures = {"names-ignored": self._children.words_ignored}
        for role in self._children.all():
            pid, state, ends = self.process(role)
            figures |= {f"{role}-pid": pid, f"{role}-state": state, f"{role}-ends": ends}
        return figures
