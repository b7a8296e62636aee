"""Where log lines go: stderr, a file, syslog, the journal. None of them may block a relay.

What a sink does not take at once waits, in order; what does not fit into the waiting room is
counted and said as soon as there is room again. Nothing a client sends can forge a line: control
characters are escaped before a line gets here.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import select
import socket
import stat
import struct
import time
from abc import ABC, abstractmethod
from pathlib import Path

_MOST_WAITING = 20_000
_LAST_PATIENCE = 1.0
_JOURNAL = "/run/systemd/journal/socket"
_SYSLOG = "/dev/log"
_PRIORITIES = {"C": 2, "E": 3, "W": 4, "N": 5, "I": 6}
_FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7,
    "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11, "local0": 16, "local1": 17, "local2": 18,
    "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}  # fmt: skip


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


class Sink(ABC):
    """Entries in, and never a wait."""

    with_fields = False
    """Are an entry's fields written, or only its text?"""

    def __init__(self, who: str) -> None:
        """`who` is the sender's name in each line: instance and role."""
        self.who = who
        self.dropped = 0
        self._waiting: collections.deque[bytes] = collections.deque()

    def emit(self, entry: Entry) -> None:
        """Write it, or let it wait its turn."""
        line = self._format(entry)
        if (self._waiting and not self.flush()) or not self._write(line):
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(line)
            else:
                self.dropped += 1

    def emit_lines(self, ident: str, severity: str, texts: list[str]) -> None:
        """Several of one kind, without fields."""
        for text in texts:
            self.emit(Entry(ident, severity, text, "", {}))

    def flush(self) -> bool:
        """Write what waits; True: nothing waits any more."""
        while self._waiting:
            line = self._waiting.popleft()
            if not self._write(line):
                self._waiting.appendleft(line)
                return False
        return True

    def drain(self, patience: float) -> bool:
        """flush() that waits so many seconds for whoever receives: not where datagrams wait."""
        deadline = time.monotonic() + patience
        while not self.flush():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def reopen(self) -> None:
        """After a rotation, or a restart of whoever receives."""
        self.flush()

    def close(self) -> None:
        """What still waits gets a last try."""
        self.flush()

    @abstractmethod
    def _format(self, entry: Entry) -> bytes:
        """The entry as this sink writes it."""

    @abstractmethod
    def _write(self, line: bytes) -> bool:
        """False: not now."""

    def _line(self, entry: Entry) -> bytes:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(entry.when))
        return (
            f"{seconds}.{int(entry.when % 1 * 1000):03} {self.who}[{os.getpid()}]: "
            f"{entry.id} {entry.text}\n"
        ).encode("utf-8", "backslashreplace")


class StderrSink(Sink):
    """Lines on stderr, which may be a pipe that nobody reads at the moment."""

    def __init__(self, who: str) -> None:
        super().__init__(who)
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)

    def _format(self, entry: Entry) -> bytes:
        return self._line(entry)

    def _write(self, line: bytes) -> bool:
        # Not O_NONBLOCK: that would hold for everybody who shares the terminal with us. A pipe
        # that is writable takes PIPE_BUF bytes without a wait, and no more is sure (pipe(7)).
        done = 0
        while done < len(line):
            if not self._poll.poll(0):
                break
            try:
                done += os.write(2, line[done : done + select.PIPE_BUF])
            except BlockingIOError:
                break
            except OSError:
                return True  # nobody will ever read it
        if 0 < done < len(line):
            self._waiting.appendleft(line[done:])
        return done > 0


class FileSink(Sink):
    """Lines in a file, reopened after a rotation."""

    def __init__(self, who: str, path: Path) -> None:
        """OSError where the file cannot be written."""
        super().__init__(who)
        self._path = path
        self._fd = self._opened()

    def reopen(self) -> None:
        """The file by its name; the old one stays open where that fails."""
        with contextlib.suppress(OSError):
            fresh = self._opened()
            self.flush()
            os.close(self._fd)
            self._fd = fresh

    def close(self) -> None:
        """What still waits gets a last try."""
        super().close()
        os.close(self._fd)

    def emit_lines(self, ident: str, severity: str, texts: list[str]) -> None:
        """All in one write, where nothing waits."""
        head = self._line(Entry(ident, severity, "", "", {}))[:-1]
        lines = [head + text.encode("utf-8", "backslashreplace") + b"\n" for text in texts]
        if not texts or self._waiting or not self._write(b"".join(lines)):
            super().emit_lines(ident, severity, texts)

    def _opened(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path, flags, 0o640)

    def _format(self, entry: Entry) -> bytes:
        return self._line(entry)

    def _write(self, line: bytes) -> bool:
        try:
            written = os.write(self._fd, line)
        except OSError:
            return False  # a full disk: it waits until there is room
        if written < len(line):
            self._waiting.appendleft(line[written:])
        return True


class _DatagramSink(Sink):
    """A receiver behind a UNIX datagram socket, who may be restarted at any time."""

    def __init__(self, who: str, path: str) -> None:
        super().__init__(who)
        self._path = path
        self._socket: socket.socket | None = None

    def reopen(self) -> None:
        """A new connection."""
        self._disconnect()
        self.flush()

    def close(self) -> None:
        """What still waits is the end of the story: the receiver gets some time for it."""
        self.drain(_LAST_PATIENCE)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _write(self, line: bytes) -> bool:
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.settimeout(0)
                    self._socket.connect(self._path)
                self._send(self._socket, line)
            except BlockingIOError:
                return False
            except OSError:
                # The receiver was restarted: once more, on a new connection.
                self._disconnect()
            else:
                return True
        return False

    def _send(self, sock: socket.socket, line: bytes) -> None:
        sock.send(line)


class SyslogSink(_DatagramSink):
    """The host's syslog daemon, as syslog(3) speaks to it."""

    def __init__(self, who: str, facility: str) -> None:
        super().__init__(who, _SYSLOG)
        self._facility = _FACILITIES[facility] * 8

    def _format(self, entry: Entry) -> bytes:
        now = time.strftime("%b %e %H:%M:%S", time.localtime(entry.when))
        head = f"<{self._facility + priority(entry.severity)}>{now} {self.who}[{os.getpid()}]: "
        return f"{head}{entry.id} {entry.text}".encode("utf-8", "backslashreplace")


class JournalSink(_DatagramSink):
    """journald's native protocol: fields, so that `journalctl SESSION=7` works."""

    with_fields = True

    def __init__(self, who: str) -> None:
        super().__init__(who, _JOURNAL)

    def _format(self, entry: Entry) -> bytes:
        fields = {
            "MESSAGE": f"{entry.id} {entry.text}",
            "PRIORITY": str(priority(entry.severity)),
            "MESSAGE_ID": entry.journal_id,
            "SYSLOG_IDENTIFIER": self.who,
            "UDP_PROXY_ID": entry.id,
            **entry.fields,
        }
        parts: list[bytes] = []
        for name, value in fields.items():
            raw = value.encode("utf-8", "backslashreplace")
            if b"\n" in raw:
                parts.append(name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
            elif raw:
                parts.append(name.encode() + b"=" + raw + b"\n")
        return b"".join(parts)

    def _send(self, sock: socket.socket, line: bytes) -> None:
        try:
            sock.send(line)
        except OSError as problem:
            if isinstance(problem, BlockingIOError) or len(line) < 65536:
                raise
            # Too large for a datagram: journald takes a sealed memfd instead.
            memory = os.memfd_create("entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.write(memory, line)
                _seal(memory)
                socket.send_fds(sock, [b""], [memory])
            finally:
                os.close(memory)


def _seal(memory: int) -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)


def stderr_is_journal() -> bool:
    """Did systemd connect our stderr to the journal (JOURNAL_STREAM, systemd.exec(5))?"""
    try:
        device, inode = map(int, os.environ.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(2)
    except (OSError, ValueError):
        return False
    return stat.S_ISSOCK(status.st_mode) and (status.st_dev, status.st_ino) == (device, inode)
