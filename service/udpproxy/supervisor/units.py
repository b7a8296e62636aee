"""Children that systemd starts as units: we only see them come and go.

systemd replaces them; we count, by the ends of their links, and while one stays away by what
systemd says of its restarts (a child that dies before it can say hello has no link).

Who is a child, systemd says by the control group that it has put a process in: only it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from udpproxy.process import messages
from udpproxy.process.lasting import lasting
from udpproxy.process.logs import Logs
from udpproxy.supervisor import groups
from udpproxy.supervisor.lifecycle import NextStep, RestartPolicy, State
from udpproxy.supervisor.roles import ChildEvents

STOP_DELAY = 0.5
"""Seconds in which our own stop may still follow that of a child: systemd stops all at once."""
PATIENCE = 10.0
"""Seconds without a child that count as one more end where systemd cannot be asked."""


class Unit:
    """One child as a unit."""

    def __init__(self, role: str, policy: RestartPolicy) -> None:
        self.role = role
        self.policy = policy
        self.pid = 0
        self.last_pid = 0
        self.restarts: int | None = None
        """As systemd counts them; None: not known yet. What was before our time is not ours."""
        self.missed_since = 0.0
        self.asked = False
        """While it is there: has systemd been asked? What it says does not change then."""
        self.verdict: asyncio.TimerHandle | None = None
        """Set while it is not known whether its end was part of ours."""


class UnitSupervisor:
    """`unit` names a role's unit; `restarts` asks systemd how often it has restarted one, None:
    cannot say."""

    def __init__(
        self,
        logs: Logs,
        *,
        unit: Callable[[str], str],
        restarts: Callable[[str], Awaitable[int | None]],
        events: ChildEvents,
    ) -> None:
        self._logs = logs
        self._unit = unit
        self._restarts = restarts
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._units: dict[str, Unit] = {}
        self._stopping = False
        self._failure = ""
        """The last one of the question to systemd: it may come once a second."""
        self._gone = asyncio.Event()
        self._watch = asyncio.ensure_future(lasting(logs, self._look))

    def start(self, role: str, policy: RestartPolicy) -> None:
        """The unit was started with ours, or will be."""
        if self._stopping:
            return
        policy.start()
        unit = self._units[role] = Unit(role, policy)
        unit.missed_since = self._loop.time()

    def vouch(self, pid: int, uid: int) -> str:
        """The role whose unit that process is in, "" for none. Its user does not matter: units may
        have one of their own."""
        for role in self._units:
            if pid > 0 and groups.is_in(pid, self._unit(role)):
                return role
        return ""

    def knows(self, role: str, pid: int) -> bool | None:
        """One process in each role, while we want any; the door knows already whose it is. None: we
        are to end, as its unit is, which it need not have heard yet."""
        if self._stopping:
            return None
        unit = self._units.get(role)
        if unit is not None and unit.verdict is not None:
            self._judge(unit)  # it is back, so it was not stopped
        return unit is not None and unit.pid == 0 and unit.policy.state is State.STARTING

    def children(self) -> dict[str, Unit]:
        """By role."""
        return self._units

    def entered(self, role: str, pid: int) -> None:
        """It has said hello."""
        unit = self._units[role]
        unit.pid, unit.asked = pid, False

    def ready(self, role: str) -> None:
        """It works."""
        if role in self._units:
            self._units[role].policy.ready()

    def left(self, role: str) -> None:
        """Its link is closed."""
        unit = self._units.get(role)
        if unit is None or not unit.pid:
            return  # one that was dropped; another may be wanted by now, and has not come
        unit.last_pid, unit.pid = unit.pid, 0
        unit.missed_since = self._loop.time()
        self._gone.set()
        if unit.policy.state in (State.STARTING, State.READY):
            unit.verdict = self._loop.call_later(STOP_DELAY, self._judge, unit)

    def discard(self, role: str) -> None:
        """It leaves with its link; if it hangs, its unit's watchdog sees to it."""

    def drop(self, role: str, limit: float) -> None:
        """Have no child in that role any more: it is told to leave, and its unit is not started
        again; if it hangs, its unit's watchdog sees to it."""
        unit = self._units[role]
        unit.policy.stop()
        if unit.pid:
            self._events.dismiss(role)
        if unit.verdict is not None:
            unit.verdict.cancel()
        del self._units[role]

    def _judge(self, unit: Unit) -> None:
        if unit.verdict is not None:
            unit.verdict.cancel()
            unit.verdict = None
        if unit.policy.state in (State.STARTING, State.READY):
            self._logs.say(
                messages.CHILD_ENDED,
                unit.role,
                unit.last_pid,
                "its unit's journal says how",
                PROCESS=unit.role,
            )
            self._count(unit)

    def expect_end(self) -> None:
        """stop() follows: whoever goes from now on goes with us, and nobody comes."""
        self._stopping = True
        for unit in self._units.values():
            unit.policy.stop()

    async def stop(self, limit: float) -> bool:
        """Wait until each child has closed its link. systemd stops the units with or after ours,
        and says itself how they ended: so this is True."""
        self._stopping = True
        deadline = self._loop.time() + limit
        for unit in self._units.values():
            unit.policy.stop()
            if unit.pid:
                self._events.dismiss(unit.role)
        while any(unit.pid for unit in self._units.values()):
            self._gone.clear()
            try:
                await asyncio.wait_for(self._gone.wait(), deadline - self._loop.time())
            except TimeoutError:
                for unit in self._units.values():
                    if unit.pid:
                        self._logs.say(messages.CHILD_LEFT_ALONE, unit.role, unit.pid, limit)
                break
        return True

    def close(self) -> None:
        """After stop()."""
        self._watch.cancel()
        for unit in self._units.values():
            if unit.verdict is not None:
                unit.verdict.cancel()

    def _count(self, unit: Unit) -> None:
        what = unit.policy.exited(self._loop.time())
        self._events.ended_unasked(unit.role, killed=None)  # only systemd knows how
        if what is NextStep.GIVE_UP:
            self._events.given_up(unit.role)

    async def _look(self) -> None:
        """Once a second, at first more often: has a child that is away died again meanwhile? One
        that has come is asked about once, to count on from there."""
        pause = 0.05
        while True:
            pause = min(1.0, 2 * pause)
            due = self._loop.time() + pause
            await asyncio.sleep(pause)
            # While we were stopped ourselves, frozen or suspended, nobody was missed.
            late = self._loop.time() - due
            for unit in [one for one in self._units.values() if one.verdict is None]:
                unit.missed_since += late
                pid = unit.pid
                if pid and unit.asked:
                    continue
                told = await self._told(unit)
                if unit.pid == pid:
                    unit.asked = told is not None
                    self._compare(unit, told)

    async def _told(self, unit: Unit) -> int | None:
        """How often systemd has restarted it. Whatever goes wrong with the question, the watch goes
        on without an answer: else nobody would count any more."""
        try:
            return await self._restarts(self._unit(unit.role))
        except Exception as problem:
            if repr(problem) != self._failure:
                self._failure = repr(problem)
                self._logs.failure(problem)
            return None

    def _compare(self, unit: Unit, told: int | None) -> None:
        """What systemd says with what we know."""
        away = unit.pid == 0 and unit.policy.state is State.STARTING
        known = unit.restarts
        if told is not None:
            if away and known is not None:
                # The end that we saw ourselves, by its link, is among the restarts.
                for _ in range(max(0, min(told - known - 1, unit.policy.limit))):
                    self._count(unit)
                told = max(known, told - 1)
            unit.restarts = told
        elif away and self._loop.time() - unit.missed_since > PATIENCE:
            unit.missed_since = self._loop.time()
            self._count(unit)
