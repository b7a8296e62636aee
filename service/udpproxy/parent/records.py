"""Records that the parent writes itself: of sessions that end with the proxy, from the table."""

from __future__ import annotations

from collections.abc import Iterable

from udpproxy.process.logs import Logs
from udpproxy.session import record


class Records:
    """`written` counts them."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self.written = 0

    def write(self, records: Iterable[dict[str, str]]) -> None:
        """All of them; waits for the log now and then, as no datagram does."""
        patient = True
        for number, fields in enumerate(records, 1):
            self._logs.record(record.text(fields), fields)
            self.written += 1
            # Thousands at once are more than a journal takes without a wait.
            if patient and number % 1000 == 0:
                patient = self._logs.drain(2.0)
