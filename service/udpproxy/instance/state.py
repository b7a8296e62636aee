"""The instance's state, as `info`, the status line and the bus show it."""

from __future__ import annotations

import os
import time
from typing import Any

from udpproxy import __version__
from udpproxy.instance.children import Children
from udpproxy.instance.commands import PARENT
from udpproxy.instance.options import RunOptions
from udpproxy.instance.service import Service
from udpproxy.process.commands import Figures


class State:
    """`word` is starting, running or stopping."""

    def __init__(self, options: RunOptions, children: Children, service: Service[Any]) -> None:
        self._options = options
        self._children = children
        self._service = service
        self._born = time.monotonic()
        self.word = "starting"

    def brief(self) -> Figures:
        """What everybody on the bus may see."""
        figures: Figures = {
            "version": __version__,
            "instance": self._options.instance,
            "role": PARENT,
            "mode": self._options.mode.value,
            "state": self.text,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._born, 1),
            **self._service.brief(),
        }
        tag = self._service.config.tag
        return figures | ({"tag": tag} if tag else {})

    def figures(self, refused: int) -> Figures:
        """All of it. `refused`: connections to our sockets that were turned away."""
        figures = self.brief() | self._service.details()
        for role in self._children.all():
            pid, state, ends = self.process(role)
            figures |= {f"{role}-pid": pid, f"{role}-state": state, f"{role}-ends": ends}
        return figures | {"connections-refused": refused} | {**self._service.totals()}

    @property
    def text(self) -> str:
        """`word`, and what is missing while something is."""
        down = self._children.down
        if self.word != "running" or not down:
            return self.word
        role = self._children.most_missed()
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(down[role]))
        return f"degraded: {self._children.spoken(role)} is down since {since}"

    def process(self, role: str) -> tuple[int, str, int]:
        """(pid, state, unasked ends) of the process in that role."""
        if role == PARENT:
            return os.getpid(), "ready" if self.word == "running" else self.word, 0
        child = self._children.all().get(role)
        if child is None:
            return 0, "stopped", 0
        return child.pid, child.policy.state.value, child.policy.ends_counted

    def line(self) -> str:
        """For `systemctl status`."""
        log = self._service.config.log
        line = f"{self.text}: {self._service.status()}"
        return f"{line}; log in {log.file}" if log.target == "file" else line
