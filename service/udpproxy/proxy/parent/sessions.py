"""The sessions as the parent reads them from the table; REG is not asked and does not stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from udpproxy.process.wire import Plain
from udpproxy.proxy.config.model import Config, SessionType
from udpproxy.proxy.parent import filters
from udpproxy.proxy.parent.resources import Resources
from udpproxy.proxy.session import record as session_record
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.record import endpoint_text

_TYPES = [kind.value for kind in SessionType]
_STATES = {
    State.OPENING: "opening",
    State.OPEN: "open",
    State.UPLOAD_CLOSED: "upload-closed",
    State.CLOSING: "closing",
}
_OF_ENDS = ("RESULT", "REASON")

Row = dict[str, Plain]


class Sessions:
    """Reads for people and programs; `config` is the one that rules now."""

    def __init__(self, resources: Resources, config: Callable[[], Config]) -> None:
        self._resources = resources
        self._config = config

    def rows(self, wanted: dict[str, Plain]) -> list[Plain]:
        """Every session that has all of `wanted` (SPEC 9); InvalidArgument where none ever can."""
        now = time.monotonic_ns()
        return [self._row(record, now) for _, record in self._matching(wanted)]

    def places(self, wanted: dict[str, Plain]) -> list[tuple[int, int]]:
        """The slots and numbers of the same."""
        return [(slot, one.id) for slot, one in self._matching(wanted)]

    def _matching(self, wanted: dict[str, Plain]) -> Iterator[tuple[int, Record]]:
        config = self._config()
        names = [rule.name for rule in config.rules]
        behind = any(listen.header_from for listen in config.listen)
        listeners = None if behind else self._resources.listeners.by_place
        tests = filters.tests(wanted, names, listeners)
        for slot, record in self._resources.table.records():
            rule = self._rule(record)
            if all(test(record, rule) for test in tests):
                yield slot, record

    def last_records(self, reason: Reason) -> Iterator[dict[str, str]]:
        """Of the sessions that nobody carries any more: they end now."""
        now = time.monotonic_ns()
        for slot, record in list(self._resources.table.records()):
            yield session_record.fields(record, self._rule(record), reason, now)
            self._resources.table.add(record)
            self._resources.table.free(slot)

    def as_they_are(self) -> Iterator[dict[str, str]]:
        """Records without an end."""
        now = time.monotonic_ns()
        for _, record in self._resources.table.records():
            fields = session_record.fields(record, self._rule(record), Reason.TERMINATED, now)
            yield {name: text for name, text in fields.items() if name not in _OF_ENDS}

    def lost_over_a_restart(self) -> Iterator[dict[str, str]]:
        """Of the sessions that a smaller table had no place for, or whose listener is lost."""
        now = time.monotonic_ns()
        for record in self._resources.cut_off:
            yield session_record.fields(record, self._rule(record), Reason.TERMINATED, now)
        for record in self._resources.left_over:
            yield session_record.fields(record, self._rule(record), Reason.ERROR, now)

    def chose_source(self, record: Record) -> bool:
        """Is the session's address one that its rule names (source-address)? Else the system has
        chosen it."""
        rules = self._config().rules
        if record.generation != self._resources.generation or record.rule_number >= len(rules):
            return False
        named = rules[record.rule_number].sources
        own = record.source[0]
        return any((one.packed if one else record.client[0]) == own for one in named)

    def _rule(self, record: Record) -> str:
        rules = self._config().rules
        known = record.generation == self._resources.generation and record.rule_number < len(rules)
        return rules[record.rule_number].name if known else "-"

    def _row(self, record: Record, now: int) -> Row:
        server = record.peer or record.server
        return {
            "session": record.id,
            "client": endpoint_text(*record.client),
            "server": endpoint_text(*server),
            "listener": endpoint_text(record.addressed, record.addressed_port),
            "acl": self._rule(record),
            "type": _TYPES[record.type],
            "state": _STATES[record.state],
            "age": round((now - record.opened) / 1e9, 3),
            "idle": round(max(0, now - record.last) / 1e9, 3),
            "datagrams-up": record.uploads,
            "datagrams-down": record.downloads,
            "bytes-up": record.upload_bytes,
            "bytes-down": record.download_bytes,
            "source": endpoint_text(*record.source),
            "via": endpoint_text(*record.via) if record.via else "",
        }
