"""Records that the parent writes itself, from the table: of sessions that end with the proxy, or
may have ended with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from udpproxy.process.logs import Logs
from udpproxy.proxy.session import record


class Records:
    """`written` counts them."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self.written = 0

    def write(self, records: Iterable[dict[str, str]]) -> None:
        """All of them; waits for the log now and then, as no datagram does."""
        for fields in self._slowly(records):
            self._logs.record(record.text(fields), fields)
            self.written += 1

    def note(self, records: Iterable[dict[str, str]]) -> None:
        """The same, of sessions that may go on."""
        for fields in self._slowly(records):
            self._logs.note(record.text(fields), fields)

    def _slowly(self, records: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
        patient = True
        for number, fields in enumerate(records, 1):
            yield fields
            # Thousands at once are more than a journal takes without a wait.
            if patient and number % 1000 == 0:
                patient = self._logs.drain(2.0)
