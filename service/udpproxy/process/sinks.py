"""What takes log lines and never makes a relay wait: here stderr; see also files, receivers.

What a sink does not take at once waits, in order; what does not fit into the waiting room is
counted and said as soon as there is room again. Nothing a client sends can forge a line: control
characters are escaped before a line gets here.
"""

from __future__ import annotations

import collections
import os
import select
import stat
import time
from abc import ABC, abstractmethod

_MOST_WAITING = 20_000
_MOST_BYTES = 16 << 20
"""Of all that waits: at level full a line can have 131 kB."""
_PRIORITIES = {"C": 2, "E": 3, "W": 4, "N": 5, "I": 6}


def priority(severity: str) -> int:
    """syslog(3) priority of a severity letter; all that is below normal is debug."""
    return _PRIORITIES.get(severity, 7)


class Entry:
    """One thing to log, ready for any sink."""

    __slots__ = ("fields", "id", "journal_id", "severity", "text", "when")

    def __init__(
        self, ident: str, severity: str, text: str, journal_id: str, fields: dict[str, str]
    ) -> None:
        self.id = ident
        self.severity = severity
        self.text = text
        self.journal_id = journal_id
        self.fields = fields
        self.when = time.time()

    def shortened(self, text: str) -> Entry:
        """The same of the same moment, with this text and no fields."""
        short = Entry(self.id, self.severity, text, "", {})
        short.when = self.when
        return short


def line_of(who: str, entry: Entry) -> str:
    """The entry as people read it, on stderr and in files, without the line's end."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(entry.when))
    part = int(entry.when % 1 * 1000)
    return f"{seconds}.{part:03} {who}[{os.getpid()}]: {entry.id} {entry.text}"


class Sink(ABC):
    """Entries in, and never a wait."""

    with_fields = False
    """Are an entry's fields written, or only its text?"""
    patience = 0.0
    """Seconds that whoever receives may have for the last lines."""

    def __init__(self, who: str) -> None:
        """`who` is the sender's name in each line: instance and role."""
        self.who = who
        self.held = False
        """Nothing is to be written for the moment; only files can be held."""
        self.dropped = 0
        self._waiting: collections.deque[bytes] = collections.deque()
        self._bytes_waiting = 0

    @property
    def waiting(self) -> int:
        """Lines that were not taken yet."""
        return len(self._waiting)

    def emit(self, entry: Entry) -> None:
        """Write it, or let it wait its turn."""
        self._put(self._format(entry))

    def emit_lines(self, ident: str, severity: str, texts: list[str]) -> None:
        """Several of one kind, without fields."""
        for text in texts:
            self.emit(Entry(ident, severity, text, "", {}))

    def flush(self) -> bool:
        """Write what waits; True: nothing waits any more."""
        while self._waiting:
            line = self._waiting.popleft()
            self._bytes_waiting -= len(line)
            done = self._write(line)
            if done < len(line):
                self._waiting.appendleft(line[done:])
                self._bytes_waiting += len(line) - done
                return False
        return True

    def drain(self, patience: float) -> bool:
        """flush() that waits so many seconds for whoever receives: not where datagrams wait."""
        deadline = time.monotonic() + patience
        while not self.flush():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        return True

    def reopen(self) -> None:
        """After a rotation, or a restart of whoever receives. OSError: it goes on as before."""
        self.flush()

    def close(self) -> None:
        """What still waits gets a last try."""
        self.flush()

    @abstractmethod
    def _format(self, entry: Entry) -> bytes:
        """The entry as this sink writes it."""

    @abstractmethod
    def _write(self, line: bytes) -> int:
        """How many bytes are done with; the rest has to wait."""

    def _put(self, line: bytes) -> None:
        done = 0
        if not self._waiting or self.flush():
            done = self._write(line)
        if done == len(line):
            return
        room = len(self._waiting) < _MOST_WAITING
        if done or (room and self._bytes_waiting + len(line) <= _MOST_BYTES):
            self._waiting.append(line[done:])
            self._bytes_waiting += len(line) - done
        else:
            self.dropped += 1

    def _line(self, entry: Entry) -> bytes:
        return f"{line_of(self.who, entry)}\n".encode("utf-8", "backslashreplace")


class StderrSink(Sink):
    """Lines on stderr, which may be a pipe that nobody reads at the moment."""

    def __init__(self, who: str) -> None:
        super().__init__(who)
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)

    def _format(self, entry: Entry) -> bytes:
        return self._line(entry)

    def _write(self, line: bytes) -> int:
        # Not O_NONBLOCK: that would hold for everybody who shares the terminal with us. A pipe
        # that is writable takes PIPE_BUF bytes without a wait, and no more is sure (pipe(7)).
        done = 0
        while done < len(line) and self._poll.poll(0):
            try:
                done += os.write(2, line[done : done + select.PIPE_BUF])
            except BlockingIOError:
                break
            except OSError:
                return len(line)  # nobody will ever read it
        return done


def stderr_is_journal() -> bool:
    """Did systemd connect our stderr to the journal (JOURNAL_STREAM, systemd.exec(5))?"""
    try:
        device, inode = map(int, os.environ.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(2)
    except (OSError, ValueError):
        return False
    return stat.S_ISSOCK(status.st_mode) and (status.st_dev, status.st_ino) == (device, inode)
