"""The log of one process: a level, a sink, and the messages that are seen.

Session records are seen at every level and can have a file of their own. What a client can
provoke goes through a RateLimit: one line a second and key, with the count of those held back.
The last lines are remembered, whatever became of them.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from udpproxy.config.model import Log as LogConfig
from udpproxy.config.sections import LEVEL_WORDS
from udpproxy.errors import InvalidArgument, UnitError
from udpproxy.process import messages
from udpproxy.process.files import FileSink
from udpproxy.process.messages import LEVELS, Message
from udpproxy.process.receivers import JournalSink, SyslogSink, stderr_is_nowhere
from udpproxy.process.recent_lines import LastLines
from udpproxy.process.sinks import Entry, Sink, StderrSink, stderr_is_journal

LEAST, MOST = 3, 9
_ALARMING = 4
SOON = 0.01
"""Seconds until the next flush() while lines flow off: a syslog daemon has room for a few only."""
HOLD_LIMIT = 60.0
"""Seconds after which held files are written again, whether somebody reopened them or not."""
NAMES = {
    "error": 3,
    "warning": 4,
    "notice": 5,
    "normal": 6,
    "debug": 7,
    "trace": 8,
    "full": 9,
}
_NAME_OF = {number: name for name, number in NAMES.items()}
# Also what turns the direction of writing: a line would show as another than it is.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def level_name(level: int) -> str:
    """The level's name and number, as people read it."""
    return f"{_NAME_OF[level]} ({level})"


def level_from(word: str, current: int) -> int:
    """The level that `word` asks for: "+1" and "-1" from `current` on and clamped, a number 3..9
    or a name. InvalidArgument for all else."""
    if re.fullmatch(r"[+-][0-9]{1,2}", word):
        return max(LEAST, min(MOST, current + int(word)))
    if word in NAMES | LEVEL_WORDS:
        return (NAMES | LEVEL_WORDS)[word]
    if re.fullmatch(r"[0-9]", word) and LEAST <= int(word) <= MOST:
        return int(word)
    names = ", ".join(NAMES)
    raise InvalidArgument(f"log level {word!r}: give +1, -1, 3 to 9, or one of {names}")


def clean(text: str) -> str:
    """The text as one line that cannot be taken for two."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


@dataclass(frozen=True, slots=True)
class Opened:
    """The sinks of another configuration, that for records last; none where they stay."""

    config: LogConfig
    sinks: tuple[()] | tuple[Sink, Sink | None]

    def close(self) -> None:
        """Nobody wants them."""
        for sink in self.sinks:
            if sink:
                sink.close()


class Logs:
    """Starts where stderr leads to; configure() says where the log really goes."""

    def __init__(self, who: str, level: int = 6) -> None:
        self.who = who
        self.level = level
        self._sink: Sink = _sink(who, LogConfig())
        self._records: Sink | None = None
        self._alarms: Sink | None = None
        """Warnings and errors besides: whoever looks at a unit sees its journal, not our file."""
        self._config: LogConfig | None = None
        self._replaced: list[tuple[Sink, float]] = []
        """Sinks of an earlier configuration that still have lines, and until when they may."""
        self._lost_before = 0
        self._told = 0
        """How many of those dropped have been spoken of."""
        self._held_until: float | None = None
        self._taken_at = -1e9
        """When lines that waited were taken for the last time."""
        self.last = LastLines(who)
        self.witness: Callable[[str], None] | None = None
        """Who is told of warnings and errors besides."""

    @property
    def target(self) -> str:
        """Where lines go, as `[log] target` names it; "auto" is resolved."""
        target = self._config.target if self._config else "auto"
        return _resolved(target)

    @property
    def dropped(self) -> int:
        """Lines that no sink took in time; it never falls."""
        return self._lost_before + sum(sink.dropped for sink in self._all())

    @property
    def waiting(self) -> int:
        """Lines that no sink has taken yet."""
        return sum(sink.waiting for sink in self._all())

    def _own(self) -> list[Sink]:
        return [sink for sink in (self._sink, self._records, self._alarms) if sink]

    def _all(self) -> list[Sink]:
        return [*self._own(), *(sink for sink, _ in self._replaced)]

    def configure(self, config: LogConfig, *, keep_level: bool = False) -> None:
        """Another level, sink, records' file; UnitError and no change where one cannot be had."""
        self.take(self.opened(config), keep_level=keep_level)

    def opened(self, config: LogConfig) -> Opened:
        """What configure() opens, for take(), which cannot fail; whoever changes his mind closes
        it. UnitError where it cannot be had."""
        if self._config is not None and _place(config) == _place(self._config):
            return Opened(config, ())
        try:
            return Opened(config, _sinks(self.who, config))
        except OSError as problem:
            raise UnitError("log", f"{problem.filename}: {problem.strerror}") from None

    def take(self, opened: Opened, *, keep_level: bool = False) -> None:
        """The log goes there from now on."""
        config = opened.config
        if opened.sinks:
            self._release()
            # Datagrams wait while we do this: nobody is waited for here.
            until = time.monotonic() + _REPLACED_PATIENCE
            self._replaced += [(each, until) for each in self._own()]
            self._sink, self._records = opened.sinks
            apart = config.target == "file" and stderr_is_journal()
            self._alarms = JournalSink(self.who) if apart else None
            self._see_off()
        self._config = config
        if not keep_level:
            self.level = config.level

    def _see_off(self) -> None:
        """Sinks that were replaced, once they have no more lines or no more time."""
        now, remaining = time.monotonic(), []
        for sink, until in self._replaced:
            if not sink.flush() and now < until:
                remaining.append((sink, until))
                continue
            self._lost_before += sink.dropped + sink.waiting
            sink.close()
        self._replaced = remaining

    def follow(self, config: LogConfig) -> None:
        """configure() for a child, whose parent could open what we cannot: the log goes on where
        it went, and says so."""
        try:
            self.configure(config, keep_level=True)
        except UnitError as problem:
            self.say(messages.LOG_STAYS, problem)

    def say(self, message: Message, *args: object, **fields: object) -> None:
        """Log it if the level is high enough; `fields` go to the journal, in capitals."""
        if self.witness and message.level <= _ALARMING:
            self.witness(f"{message.id} {message.text % args}")
        if message.level <= self.level:
            self._say(message, message.text % args, fields)

    def seen(self, message: Message) -> bool:
        """Would say() write it? For arguments that cost something to make."""
        return message.level <= self.level

    def record(self, text: str, fields: dict[str, str]) -> None:
        """A session's record: at every level."""
        self._record(messages.RECORD, _RECORD_ID, text, fields)

    def note(self, text: str, fields: dict[str, str]) -> None:
        """What may be the last that is heard of a session, in the place of its record."""
        self._record(messages.KEPT_IN_DOUBT, messages.KEPT_IN_DOUBT.journal_id, text, fields)

    def _record(
        self, message: messages.Message, journal_id: str, text: str, fields: dict[str, str]
    ) -> None:
        entry = Entry(message.id, message.severity, text, journal_id, fields)
        if self._records:
            self._records.emit(entry)
        else:
            self._emit(entry)

    @property
    def writes_lines(self) -> bool:
        """Do records need no fields, as they do in the journal?"""
        return not (self._records or self._sink).with_fields

    def record_lines(self, texts: list[str]) -> None:
        """Records of many sessions, as lines."""
        ident, severity = messages.RECORD.id, messages.RECORD.severity
        if self._records is None:
            self.last.add_all(ident, severity, texts)
        (self._records or self._sink).emit_lines(ident, severity, texts)

    def failure(self, problem: BaseException) -> None:
        """A mistake of ours, with its traceback, a line each."""
        self.say(messages.INTERNAL, repr(problem))
        for line in traceback.format_exception(problem):
            for part in line.rstrip().split("\n"):
                self._say(messages.INTERNAL, part, {})

    def hold(self) -> None:
        """Nothing is written to files, their lines wait, until reopen() or HOLD_LIMIT is over: for
        a rotation that copies and truncates them."""
        self._held_until = time.monotonic() + HOLD_LIMIT
        for sink in self._own():
            sink.held = True

    def reopen(self) -> None:
        """Files by their names, sockets anew; UnitError for files that cannot be opened, whose old
        ones go on."""
        self._release()
        problems = []
        for sink in self._own():
            try:
                sink.reopen()
            except OSError as problem:
                problems.append(f"{problem.filename}: {problem.strerror}")
        if problems:
            raise UnitError("log", "; ".join(problems))

    def _release(self) -> None:
        self._held_until = None
        for sink in self._own():
            sink.held = False

    def flush(self) -> bool:
        """Write what could not be written at once; call it now and then. True: call again SOON,
        more waits and whoever receives was taking it a moment ago."""
        if self._held_until is not None and time.monotonic() >= self._held_until:
            self._release()
            self.say(messages.HELD_TOO_LONG, HOLD_LIMIT)
        before = self.waiting
        done = self._sink.flush()
        for sink in self._own()[1:]:
            sink.flush()
        self._see_off()
        if done and self.dropped > self._told:
            lost, self._told = self.dropped - self._told, self.dropped
            self.say(messages.LINES_LOST, lost)
        now, after = time.monotonic(), self.waiting
        if after < before:
            self._taken_at = now
        return after > 0 and now - self._taken_at < 1.0

    def drain(self, patience: float) -> bool:
        """flush() that waits so many seconds; False: something still waits."""
        return self._sink.drain(patience) and (not self._records or self._records.drain(patience))

    def close(self) -> None:
        """The last lines. What nobody took is lost now, and stderr hears how much."""
        self._release()
        for sink in self._all():
            sink.drain(sink.patience)
        lost = self.dropped + self.waiting - self._told
        for sink in self._all():
            sink.close()
        if lost:
            message = messages.LINES_LOST
            StderrSink(self.who).emit(
                Entry(message.id, message.severity, message.text % lost, message.journal_id, {})
            )

    def _say(self, message: Message, text: str, fields: dict[str, object]) -> None:
        clear = {name: clean(str(value)) for name, value in fields.items()}
        entry = Entry(message.id, message.severity, clean(text), message.journal_id, clear)
        self._emit(entry)

    def _emit(self, entry: Entry) -> None:
        self.last.add(entry)
        self._sink.emit(entry)
        if self._alarms and LEVELS[entry.severity] <= _ALARMING:
            self._alarms.emit(entry)


class RateLimit:
    """At most one line a second for each key; how many were held back comes with the next."""

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._last: dict[object, float] = {}
        self._held: dict[object, int] = {}

    def allow(self, key: object, count: int = 1, *, always: bool = False) -> str | None:
        """`count` lines; None: hold them back. Else what to append: "" or " (N more held back)"."""
        now = time.monotonic()
        if not always and now - self._last.get(key, -1e9) < self._interval:
            self._held[key] = self._held.get(key, 0) + count
            return None
        self._last[key] = now
        held = self._held.pop(key, 0) + count - 1
        return f" ({held} more held back)" if held else ""


_REPLACED_PATIENCE = 60.0
_RECORD_ID = messages.RECORD.journal_id


def _place(config: LogConfig) -> tuple[str | None, ...]:
    return config.target, config.file, config.facility, config.records


def _sinks(who: str, config: LogConfig) -> tuple[Sink, Sink | None]:
    sink = _sink(who, config)
    if config.records == "same":
        return sink, None
    try:
        return sink, FileSink(who, Path(config.records))
    except OSError:
        sink.close()
        raise


def _resolved(target: str) -> str:
    if target != "auto":
        return target
    if stderr_is_journal():
        return "journal"
    return "syslog" if stderr_is_nowhere() else "stderr"


def _sink(who: str, config: LogConfig) -> Sink:
    match _resolved(config.target):
        case "journal":
            return JournalSink(who)
        case "syslog":
            return SyslogSink(who, config.facility)
        case "file" if config.file:
            return FileSink(who, Path(config.file))
        case _:
            return StderrSink(who)
