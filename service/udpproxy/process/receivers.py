"""Log lines for somebody behind a UNIX datagram socket: the syslog daemon, the journal.

Either may be missing at the start, be restarted, or stop reading; the lines wait for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from udpproxy.process.sinks import Entry, Sink, priority

_JOURNAL = "/run/systemd/journal/socket"
_SYSLOG = "/dev/log"
_LONGEST = 8000
"""Bytes of a syslog line; rsyslogd cuts at 8,192."""
_FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7,
    "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11, "local0": 16, "local1": 17, "local2": 18,
    "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}  # fmt: skip


class _DatagramSink(Sink):
    """A receiver behind a UNIX datagram socket, who may be restarted at any time."""

    patience = 1.0

    def __init__(self, who: str, path: str) -> None:
        super().__init__(who)
        self._path = path
        self._socket: socket.socket | None = None

    def reopen(self) -> None:
        """A new connection."""
        self._disconnect()
        self.flush()

    def close(self) -> None:
        """What still waits gets a last try."""
        super().close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _write(self, line: bytes) -> int:
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.settimeout(0)
                    self._socket.connect(self._path)
                self._send(self._socket, line)
            except BlockingIOError:
                return 0
            except OSError as problem:
                if problem.errno == errno.EMSGSIZE:
                    # It would never be taken, and all behind it would wait for ever.
                    self.dropped += 1
                    return len(line)
                # The receiver was restarted: once more, on a new connection.
                self._disconnect()
            else:
                return len(line)
        return 0

    def _send(self, sock: socket.socket, line: bytes) -> None:
        sock.send(line)


class SyslogSink(_DatagramSink):
    """The host's syslog daemon, as syslog(3) speaks to it: RFC 3164 without the host's name."""

    def __init__(self, who: str, facility: str) -> None:
        super().__init__(who, _SYSLOG)
        self._facility = _FACILITIES[facility] * 8

    def emit(self, entry: Entry) -> None:
        """A long one goes in numbered parts: daemons cut lines, and say nothing."""
        head, text = self._head(entry), entry.text.encode("utf-8", "backslashreplace")
        if len(head) + len(text) <= _LONGEST:
            self._put(head + text)
            return
        parts = list(_parts(text, _LONGEST - len(head) - len(b"[999/999] ")))
        for number, part in enumerate(parts, 1):
            self._put(b"%b[%d/%d] %b" % (head, number, len(parts), part))

    def _head(self, entry: Entry) -> bytes:
        now = time.strftime("%b %e %H:%M:%S", time.localtime(entry.when))
        where = self._facility + priority(entry.severity)
        return f"<{where}>{now} {self.who}[{os.getpid()}]: {entry.id} ".encode()

    def _format(self, entry: Entry) -> bytes:
        return self._head(entry) + entry.text.encode("utf-8", "backslashreplace")


def _parts(text: bytes, length: int) -> Iterator[bytes]:
    """Pieces of at most so many bytes; no character is cut in two."""
    start = 0
    while start < len(text):
        end = min(start + length, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        yield text[start:end]
        start = end


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


def stderr_is_nowhere() -> bool:
    """Is it /dev/null, as in a daemon, and does this host have syslog instead?"""
    try:
        status, nowhere = os.fstat(2), Path(os.devnull).stat()
    except OSError:
        return False
    same = stat.S_ISCHR(status.st_mode) and status.st_rdev == nowhere.st_rdev
    return same and Path(_SYSLOG).exists()
