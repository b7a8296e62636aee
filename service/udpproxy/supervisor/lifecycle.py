"""The life of one child as a table: what follows from what. No process, no clock.

A child that ends unasked is replaced at once; the limit-th such end within the window ends the
whole proxy (SPEC 1). Where the policy is to stop on a death, the first end does.
"""

from __future__ import annotations

import collections
import enum


class State(enum.Enum):
    """What a child is doing, as far as its supervisor knows."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class NextStep(enum.Enum):
    """What the supervisor does now."""

    NOTHING = "nothing"
    SPAWN = "spawn"
    GIVE_UP = "give up"


class RestartPolicy:
    """One child; every event returns what to do. `now` in seconds of any steady clock."""

    def __init__(self, *, limit: int, window: float, stop_on_death: bool) -> None:
        self.state = State.STOPPED
        self.ends_counted = 0
        """All unasked ends in the proxy's life, for info."""
        self.limit = limit
        self.window = window
        self.stop_on_death = stop_on_death
        self._ends: collections.deque[float] = collections.deque()

    @property
    def recent(self) -> int:
        """Unasked ends within the window at the last one."""
        return len(self._ends)

    def judge_by(self, limit: int, window: float, *, stop: bool) -> None:
        """The rules that hold from the next end on."""
        self.limit, self.window, self.stop_on_death = limit, window, stop

    def start(self) -> NextStep:
        """The proxy wants the child."""
        if self.state is not State.STOPPED:
            return NextStep.NOTHING
        self.state = State.STARTING
        return NextStep.SPAWN

    def ready(self) -> NextStep:
        """The child says that it works."""
        if self.state is State.STARTING:
            self.state = State.READY
        return NextStep.NOTHING

    def stop(self) -> NextStep:
        """The proxy ends."""
        if self.state in (State.STARTING, State.READY):
            self.state = State.STOPPING
        return NextStep.NOTHING

    def exited(self, now: float) -> NextStep:
        """The child has ended."""
        if self.state not in (State.STARTING, State.READY):
            self.state = State.FAILED if self.state is State.FAILED else State.STOPPED
            return NextStep.NOTHING
        self.ends_counted += 1
        self._ends.append(now)
        while self._ends[0] <= now - self.window:
            self._ends.popleft()
        if self.stop_on_death or len(self._ends) >= self.limit:
            self.state = State.FAILED
            return NextStep.GIVE_UP
        self.state = State.STARTING
        return NextStep.SPAWN
