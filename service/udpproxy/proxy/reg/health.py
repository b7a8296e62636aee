"""Which servers of groups live (SPEC 10): what probes found out and what their sessions saw.

The engine is told who is up, and new sessions go there; those that there are go on, unless
`down-sessions` says otherwise. Where all servers of a group are down, all are used.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from udpproxy.process import messages
from udpproxy.process.commands import Figures
from udpproxy.process.logs import Logs, RateLimit
from udpproxy.proxy.config.model import Config, Group, Server
from udpproxy.proxy.engine.interface import Engine
from udpproxy.proxy.reg.members import Key, MemberNumbers, key_of, servers_of
from udpproxy.proxy.session.balance import DOWN, DRAINED, UP

QUIET = 10.0
"""Seconds between two lines about one server: one that comes and goes fills no log."""
_PART = 256
"""Servers looked at in one go."""
_SHOWN = 8
"""In `info`."""

Changed = Callable[[Key, bool, str], object]
"""A server is down now, and why; or up."""


@dataclass(slots=True)
class _Known:
    group: Group
    server: Server
    number: int
    standby: bool
    down: bool = False
    drained: bool = False
    why: str = ""
    since: float = 0.0
    """Wall clock, of the last change; 0: there was none."""
    bad: int = 0
    good: int = 0
    """Probes, or trials, in a row."""
    answered: int = 0
    """First answers by the last look."""
    excused: int = 0
    """Failures in a row that count no more: it came up in spite of them."""
    trial_at: float = 0.0
    told: bool = False
    """Did the log hear that it is down? Only then it hears of the end."""

    @property
    def state(self) -> int:
        return (DOWN if self.down else UP) | (DRAINED if self.drained else 0)


class Health:
    """All servers of all groups. `moved` has those of its sessions that are to go elsewhere seen
    to, `changed` tells the parent."""

    def __init__(
        self,
        logs: Logs,
        changed: Changed,
        moved: Callable[[int, str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logs = logs
        self._changed = changed
        self._moved = moved
        self._clock = clock
        self._known: dict[Key, _Known] = {}
        self._groups: deque[list[_Known]] = deque()
        """In the order in which they are looked at."""
        self._engine: Engine | None = None
        self._down_before: Mapping[Key, str] = {}
        self._drained: Collection[Key] = ()
        self._rate_limit = RateLimit(QUIET)
        self._all_down: set[str] = set()

    def configure(self, config: Config, numbers: MemberNumbers) -> None:
        """Another configuration: who stays is as well as before."""
        before, self._known = self._known, {}
        used = {rule.group.name for rule in config.rules if rule.accept and rule.group}
        for group, server in servers_of(config):
            if group.name not in used:
                continue
            key = key_of(group, server)
            known = before.get(key) or self._new(key, group, server)
            known.group, known.number = group, numbers[key]
            known.standby = server not in group.members
            self._known[key] = known
        names = {known.group.name: known.group for known in self._known.values()}
        self._groups = deque(self._of(group) for group in names.values())
        self._tell_engine()

    def _new(self, key: Key, group: Group, server: Server) -> _Known:
        known = _Known(group, server, 0, standby=False)
        known.down, known.why = key in self._down_before, self._down_before.get(key, "")
        known.drained = key in self._drained
        known.trial_at = self._clock() + group.health.retry
        return known

    def begin(self, engine: Engine) -> None:
        """This one relays."""
        self._engine = engine
        self._tell_engine()

    def resume(self, down: Mapping[Key, str], drained: Collection[Key]) -> None:
        """What was known before our start, of a configuration that is still to come."""
        self._down_before = down
        self.drain(drained)

    def drain(self, drained: Collection[Key]) -> None:
        """These get no new sessions, and no others."""
        self._drained = drained
        for key, known in self._known.items():
            known.drained = key in drained
        self._tell_engine()

    def probed(self, group: str, server: str, good: bool, why: str) -> None:  # noqa: FBT001
        """What a probe found out."""
        known = self._known.get((group, server))
        if known is None or known.group.health.probe is None:
            return
        health = known.group.health
        known.good, known.bad = (known.good + 1, 0) if good else (0, known.bad + 1)
        if known.down and known.good >= health.rise:
            self._rise(known)
        elif not known.down and known.bad >= health.fall:
            self._fall(known, f"{known.bad} probes in a row failed: {why}")

    def look(self) -> None:
        """What their sessions saw since the last time; now and then, and where there are many of
        them only some."""
        engine, seen = self._engine, 0
        if engine is None:
            return
        for _ in range(len(self._groups)):
            group = self._groups[0]
            self._groups.rotate(-1)
            # Where nobody ever answered, nobody expects it.
            expected = any(known.answered for known in group)
            for known in group:
                if known.group.health.passive and known.number:
                    self._look_at(known, engine, expected=expected)
            seen += len(group)
            if seen >= _PART:
                break

    def _look_at(self, known: _Known, engine: Engine, *, expected: bool) -> None:
        member, health = engine.member(known.number), known.group.health
        answers = member.answered - known.answered
        known.answered = member.answered
        if answers:
            known.excused = 0
        failed = member.errors + (member.unanswered if expected else 0) - known.excused
        if not known.down:
            if failed >= health.fall:
                reason = "cannot be reached, as ICMP says" if member.errors else "had no answer"
                self._fall(known, f"{failed} sessions in a row {reason}")
        elif health.probe is None:
            self._try(known, engine, answers, failed=failed > 0)

    def _try(self, known: _Known, engine: Engine, answers: int, *, failed: bool) -> None:
        """Without probes a new session now and then shows whether it lives."""
        known.good = known.good + answers if answers or not failed else 0
        if known.good >= known.group.health.rise:
            self._rise(known)
        elif self._clock() >= known.trial_at:
            known.trial_at = self._clock() + known.group.health.retry
            engine.set_member(known.number, known.state, trial=True)

    def _fall(self, known: _Known, why: str) -> None:
        known.down, known.why, known.since = True, why, time.time()
        known.good = known.bad = 0
        if self._engine:
            # A trial's failure is to be told from those that brought it down.
            member = self._engine.member(known.number)
            known.excused = member.errors + member.unanswered
        known.trial_at = self._clock() + known.group.health.retry
        self._tell_engine([known])
        known.told = self._say(known, messages.MEMBER_DOWN, why)
        self._look_at_all(known.group)
        self._changed(key_of(known.group, known.server), True, why)  # noqa: FBT003
        if known.group.down_sessions != "keep":
            self._moved(known.number, known.group.down_sessions)

    def _rise(self, known: _Known) -> None:
        seconds = round(time.time() - known.since) if known.since else 0
        known.down, known.why, known.since = False, "", time.time()
        known.good = known.bad = 0
        if self._engine:
            member = self._engine.member(known.number)
            known.excused = member.errors + member.unanswered
        self._tell_engine([known])
        if known.told:
            self._say(known, messages.MEMBER_UP, seconds, always=True)
        self._look_at_all(known.group)
        self._changed(key_of(known.group, known.server), False, "")  # noqa: FBT003

    def _say(
        self, known: _Known, message: messages.Message, word: object, *, always: bool = False
    ) -> bool:
        """False: it is held back."""
        group, server = key = key_of(known.group, known.server)
        held = self._rate_limit.allow(key, always=always)
        if held is None:
            return False
        its = self._of(known.group)
        up = sum(not one.down for one in its)
        self._logs.say(message, server, group, word, up, len(its), held, GROUP=group, SERVER=server)
        return True

    def _look_at_all(self, group: Group) -> None:
        """Said once when it begins."""
        name = group.name
        if any(not one.down for one in self._of(group)):
            self._all_down.discard(name)
        elif name not in self._all_down:
            self._all_down.add(name)
            self._logs.say(messages.ALL_DOWN, name, GROUP=name)

    def _of(self, group: Group) -> list[_Known]:
        keys = (key_of(group, server) for server in group.servers)
        return [self._known[key] for key in keys if key in self._known]

    def _tell_engine(self, some: Iterable[_Known] | None = None) -> None:
        if self._engine:
            for known in self._known.values() if some is None else some:
                self._engine.set_member(known.number, known.state)

    def rows(self) -> list[dict[str, str | int]]:
        """Each server, for people and programs."""
        return [self._row(known) for known in self._known.values()]

    def _row(self, known: _Known) -> dict[str, str | int]:
        members = known.group.members
        weight = known.group.weights[members.index(known.server)] if not known.standby else 1
        engine = self._engine
        return {
            "group": known.group.name,
            "server": str(known.server),
            "state": " ".join(_words(known)),
            "weight": weight,
            "sessions": engine.member(known.number).sessions if engine and known.number else 0,
            "since": _moment(known.since),
            "why": known.why,
        }

    def figures(self) -> Figures:
        """How many are down now, and some of them."""
        if not self._known:
            return {}
        down = [one for one in self._known.values() if one.down]
        figures: Figures = {"servers": len(self._known), "servers-down": len(down)}
        if down:
            figures["down"] = "; ".join(_brief(down[:_SHOWN]))
        return figures


def _brief(down: Iterable[_Known]) -> Iterable[str]:
    return (
        f"{one.server} of {one.group.name}: {one.why} (since {_moment(one.since)})" for one in down
    )


def _words(known: _Known) -> Iterable[str]:
    yield "down" if known.down else "up"
    if known.drained:
        yield "drained"
    if known.standby:
        yield "standby"


def _moment(since: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if since else "-"
