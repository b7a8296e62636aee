"""Four verbs, many callers: signals, `ctl`, the parent's link and the bus all end here.

One ProcessCommands in each process. The parent's adds "and ask the children".
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress

from udpproxy.errors import InvalidArgument, UnitError
from udpproxy.process import messages, signals
from udpproxy.process.logs import Logs, level_from, level_name
from udpproxy.process.recent_lines import MOST_LINES
from udpproxy.process.wire import Plain

Figures = dict[str, Plain]


class ProcessCommands:
    """What can be asked of a process; `figures` are its state, `leave` ends it."""

    def __init__(
        self, logs: Logs, *, figures: Callable[[], Figures], leave: Callable[[str], None]
    ) -> None:
        self._logs = logs
        self._figures = figures
        self._leave = leave

    def info(self, *, quiet: bool = False, lines: int = 0) -> Figures:
        """Log the state, unless `quiet`, and return it; with so many of the log's last lines."""
        figures = self._figures() | {
            "log-level": level_name(self._logs.level),
            "log-lines-waiting": self._logs.waiting,
            "log-lines-dropped": self._logs.dropped,
        }
        last: list[Plain] = [*self._logs.last.newest(lines)]
        if not quiet:
            text = " ".join(f"{name}={value}" for name, value in figures.items())
            self._logs.say(messages.INFO, text)
        return figures | {"last-lines": last} if lines else figures

    def loglevel(self, word: str) -> str:
        """Set the level; InvalidArgument and no change for a word that names none."""
        self._logs.level = level_from(word, self._logs.level)
        name = level_name(self._logs.level)
        self._logs.say(messages.LEVEL, name)
        return name

    def reopen(self) -> None:
        """Log files by their names, connections anew; InvalidArgument where a file's name does not
        open, and the old file goes on."""
        try:
            self._logs.reopen()
        except UnitError as problem:
            self._logs.say(messages.REOPEN_FAILED, problem)
            raise InvalidArgument(f"not reopened: {problem.reason}") from None
        self._logs.say(messages.REOPENED)

    def hold(self) -> None:
        """Keep lines away from log files until reopen(), which must come soon."""
        self._logs.hold()

    def terminate(self, why: str) -> None:
        """Leave, in order."""
        self._leave(why)

    def perform(self, verb: str, args: dict[str, Plain]) -> Plain:
        """A verb by its name, as it comes over a link."""
        match verb:
            case "info":
                return self.info(quiet=args.get("quiet") is True, lines=_lines(args))
            case "loglevel":
                return self.loglevel(str(args.get("level", "")))
            case "reopen":
                self.reopen()
            case "hold":
                self.hold()
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
            with suppress(InvalidArgument):  # the log has it, and nobody else waits for an answer
                self.reopen()


def _lines(args: dict[str, Plain]) -> int:
    lines = args.get("lines", 0)
    if not isinstance(lines, int) or isinstance(lines, bool) or not 0 <= lines <= MOST_LINES:
        raise InvalidArgument(f"{lines!r} lines: give 0 to {MOST_LINES}")
    return lines
