"""Servers that cannot be reached, as ICMP says: one line when it begins, one when they answer."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Container
from dataclasses import dataclass

from udpproxy.process import messages
from udpproxy.process.commands import Figures
from udpproxy.process.logs import Logs
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.record import endpoint_text

MOST_SERVERS = 256
"""That are remembered, oldest forgotten first: rules name them, so strangers cannot add any."""
QUIET = 60.0
"""Seconds between two lines about one server: one that comes and goes fills no log."""
_SHOWN = 8
"""In `info`."""
_WORDS = {
    errno.ECONNREFUSED: "port unreachable",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ENOPROTOOPT: "protocol unreachable",
    errno.EACCES: "communication prohibited",
}


@dataclass(slots=True)
class _Server:
    why: str = ""
    since: float = 0.0
    """Wall clock, of the first error since the last reply; 0: it answers."""
    sessions: int = 0
    told_at: float = -1e9
    told: bool = False
    """Did the log hear of what is so now? Only then it hears of its end."""
    held: int = 0


class Servers:
    """One entry for each server of a rule that was unreachable some time."""

    def __init__(self, logs: Logs, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._clock = clock
        self._known: dict[tuple[str, str], _Server] = {}
        self._awaiting = False
        self.await_answers: Callable[[bool], object] = lambda on: None
        """Told at once when each session's first reply is wanted, and when no longer."""

    def _look(self) -> None:
        awaiting = any(one.since for one in self._known.values())
        if awaiting != self._awaiting:
            self._awaiting = awaiting
            self.await_answers(awaiting)

    def unreachable(self, record: Record, rule: str, problem: int) -> None:
        """The first ICMP error of a session since it had a reply."""
        if record.peer is not None:
            return  # not the server's own port: a transfer's, say, which ends some time
        where = endpoint_text(*record.server)
        one = self._known.pop((where, rule), None) or _Server()
        if len(self._known) >= MOST_SERVERS:
            del self._known[next(iter(self._known))]
        self._known[where, rule] = one
        one.why = _WORDS.get(problem) or (os.strerror(problem) if problem else "unreachable")
        one.since = one.since or time.time()
        one.sessions += 1
        self._look()
        now = self._clock()
        if now - one.told_at < QUIET:
            one.held += 1
            return
        held = f" ({one.held} more held back)" if one.held else ""
        one.told_at, one.told, one.held = now, True, 0
        client = endpoint_text(*record.client)
        self._logs.say(
            messages.SERVER_UNREACHABLE, where, rule, client, one.why, held,
            CLIENT_ADDR=client.rpartition(":")[0].strip("[]"), SERVER=where, RULE=rule,
            SESSION=record.id,
        )  # fmt: skip

    def answers(self, record: Record, rule: str) -> None:
        """A session had a reply."""
        where = endpoint_text(*record.server)
        one = self._known.get((where, rule))
        if one is None or not one.since:
            return
        if one.told:
            seconds = round(time.time() - one.since)
            self._logs.say(
                messages.SERVER_ANSWERS, where, rule, one.sessions, seconds,
                SERVER=where, RULE=rule,
            )  # fmt: skip
        one.since, one.sessions, one.told = 0.0, 0, False
        self._look()

    def keep(self, rules: Container[str]) -> None:
        """Others are there no more."""
        self._known = {key: one for key, one in self._known.items() if key[1] in rules}
        self._look()

    def figures(self) -> Figures:
        """How many are unreachable now, and some of them."""
        down = [(key, one) for key, one in self._known.items() if one.since]
        figures: Figures = {"servers-unreachable": len(down)}
        if down:
            figures["unreachable"] = "; ".join(
                f"{where} of rule {rule}: {one.why} since "
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(one.since))}, "
                f"{one.sessions} sessions"
                for (where, rule), one in down[:_SHOWN]
            )
        return figures
