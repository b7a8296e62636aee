"""Four verbs, many callers: signals, `ctl`, the parent's link and the bus all end here.

One Control in each process. The parent's adds "and ask the children".
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from udpproxy.errors import InvalidArgument
from udpproxy.process import messages, signals
from udpproxy.process.logs import Logs, level_from, level_name
from udpproxy.process.wire import Plain

Figures = dict[str, Plain]


class Control:
    """What can be asked of a process; `figures` are its state, `leave` ends it."""

    def __init__(
        self, logs: Logs, *, figures: Callable[[], Figures], leave: Callable[[str], None]
    ) -> None:
        self._logs = logs
        self._figures = figures
        self._leave = leave

    def info(self, *, quiet: bool = False) -> Figures:
        """Log the state, unless `quiet`, and return it."""
        figures = self._figures() | {"log-level": level_name(self._logs.level)}
        if not quiet:
            text = " ".join(f"{name}={value}" for name, value in figures.items())
            self._logs.say(messages.INFO, text)
        return figures

    def loglevel(self, word: str) -> str:
        """Set the level; InvalidArgument and no change for a word that names none."""
        self._logs.level = level_from(word, self._logs.level)
        name = level_name(self._logs.level)
        self._logs.say(messages.LEVEL, name)
        return name

    def reopen(self) -> None:
        """Log files by their names, connections anew."""
        self._logs.reopen()
        self._logs.say(messages.REOPENED)

    def terminate(self, why: str) -> None:
        """Leave, in order."""
        self._leave(why)

    def perform(self, verb: str, args: dict[str, Plain]) -> Plain:
        """A verb by its name, as it comes over a link."""
        match verb:
            case "info":
                return self.info(quiet=args.get("quiet") is True)
            case "loglevel":
                return self.loglevel(str(args.get("level", "")))
            case "reopen":
                self.reopen()
            case "terminate":
                self.terminate("by command")
            case _:
                raise InvalidArgument(f"this process knows no verb {verb!r}")
        return None

    def signalled(self, number: int) -> None:
        """The same, as a signal asks for it (SPEC 2)."""
        if number in signals.TERMINATE:
            self.terminate(f"signal {signal.Signals(number).name}")
        elif number == signals.INFO:
            self.info()
        elif number == signals.LEVEL_UP:
            self.loglevel("+1")
        elif number == signals.LEVEL_DOWN:
            self.loglevel("-1")
        elif number == signals.REOPEN:
            self.reopen()
