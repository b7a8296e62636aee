"""The last lines of a process's log, for whoever asks how it came to its state."""

from __future__ import annotations

import collections
import json

from udpproxy.process.sinks import Entry, line_of

MOST_LINES = 200
_LONGEST = 800
"""Characters of a text that are remembered."""
_ANSWER = 180_000
"""Bytes that the lines may have in an answer, which is one message."""


class LastLines:
    """Lines as they were logged, also those that the log did not take."""

    def __init__(self, who: str) -> None:
        """`who` as in the log's own lines."""
        self._who = who
        self._entries: collections.deque[Entry] = collections.deque(maxlen=MOST_LINES)

    def add(self, entry: Entry) -> None:
        """The newest one."""
        if len(entry.text) > _LONGEST:
            text = f"{entry.text[:_LONGEST]}... ({len(entry.text)} characters)"
            entry = entry.shortened(text)
        self._entries.append(entry)

    def add_all(self, ident: str, severity: str, texts: list[str]) -> None:
        """Many of one kind."""
        for text in texts[-MOST_LINES:]:
            self.add(Entry(ident, severity, text, "", {}))

    def newest(self, count: int) -> list[str]:
        """At most so many, the oldest first; fewer where they are too long for one answer."""
        found: list[str] = []
        size = 0
        for entry in reversed(self._entries):
            line = line_of(self._who, entry)
            size += len(json.dumps(line)) + 1
            if len(found) == count or size > _ANSWER:
                break
            found.append(line)
        return found[::-1]
