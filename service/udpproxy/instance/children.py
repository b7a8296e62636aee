"""The parent's children: which there are to be, who starts them, how those that came are doing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.identity import Identity
from udpproxy.instance.connection import ChildConnection, ChildLost
from udpproxy.instance.options import Mode, RunOptions
from udpproxy.instance.service import Service
from udpproxy.process import messages, wire
from udpproxy.process.logs import Logs
from udpproxy.process.verbs import Arguments
from udpproxy.supervisor.fork import ForkSupervisor
from udpproxy.supervisor.forked import Forked
from udpproxy.supervisor.lifecycle import RestartPolicy, State
from udpproxy.supervisor.roles import Role
from udpproxy.supervisor.single import Inner, SingleSupervisor
from udpproxy.supervisor.units import Unit, UnitSupervisor

Child = Forked | Unit | Inner

_RETRY = 0.5
"""Seconds between attempts to lend what a child needs."""
_TRIES, _PAUSE = 100, 0.02
"""How often, and each how many seconds, a question waits for a child that is not there yet."""


class Watcher(Protocol):
    """Who hears of children, and joins them with the rest."""

    def working(self) -> None:
        """Every child works without which nothing does; again each time one of them is back."""

    def child_ended(self, role: str, count: int) -> None:
        """Unasked, so many times by now."""

    def cannot_go_on(self, why: str) -> None:
        """A child cannot be kept alive, and the instance needs it."""

    def take_link(self, link: socket.socket, role: str) -> None:
        """A child's that is a part of us (single mode)."""

    def restarts(self, unit: str) -> Awaitable[int | None]:
        """How often systemd has restarted that unit; None: it cannot say."""


class Children:
    """`peers` are those that have come, by role; `all_work` is set while the vital ones do."""

    def __init__(
        self,
        logs: Logs,
        identity: Identity,
        options: RunOptions,
        service: Service[Any],
        watcher: Watcher,
    ) -> None:
        self._logs = logs
        self._service = service
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[str, Role] = {}
        self._lacking: ChildConnection | None = None
        """Who was the last for whom there was no room."""
        self._work: set[str] = set()
        self.down: dict[str, float] = {}
        """Since when there is none that works, of those that did; seconds since the epoch."""
        self.peers: dict[str, ChildConnection] = {}
        self.all_work = asyncio.Event()
        self._supervisor: ForkSupervisor | SingleSupervisor | UnitSupervisor
        match options.mode:
            case Mode.SINGLE:
                self._supervisor = SingleSupervisor(watcher.take_link, service.within, self)
            case Mode.UNITS:
                self._supervisor = UnitSupervisor(
                    logs,
                    unit=lambda role: identity.unit(options.instance, role),
                    restarts=watcher.restarts,
                    events=self,
                )
            case Mode.FORK:
                self._supervisor = ForkSupervisor(
                    logs, identity.child, options.instance, options.directory, self
                )

    def all(self) -> Mapping[str, Child]:
        """Those that there are to be, by role."""
        return self._supervisor.children()

    def most_missed(self) -> str:
        """The role of one that is down; a vital one if there is any."""
        return min(self.down, key=lambda role: (role not in self._vital(), role))

    def spoken(self, role: str) -> str:
        """What people call it."""
        wanted = self._wanted.get(role)
        return (wanted.spoken if wanted else "") or role

    def follow(self) -> None:
        """Have the children that the configuration needs, and no others."""
        wanted = {role.name: role for role in self._service.roles()}
        for name in [name for name in self._wanted if name not in wanted]:
            del self._wanted[name]
            self._work.discard(name)
            self.down.pop(name, None)
            self._supervisor.drop(name, self._service.config.stop_timeout)
        config = self._service.config
        for name, role in wanted.items():
            known, self._wanted[name] = name in self._wanted, role
            if not known:
                policy = RestartPolicy(
                    limit=config.crash_limit,
                    window=config.crash_window,
                    stop_on_death=config.stop_on_child_death,
                )
                self._supervisor.start(name, policy)

    def judge(self) -> None:
        """By the limits of the configuration that holds, from the next end on."""
        config = self._service.config
        for child in self.all().values():
            child.policy.judge_by(
                config.crash_limit, config.crash_window, stop=config.stop_on_child_death
            )

    def expect_end(self) -> None:
        """We are about to end, and systemd ends the units meanwhile."""
        self._supervisor.expect_end()

    async def stop(self) -> bool:
        """End them all; `stop-timeout` is the limit. False: not all left in order."""
        return await self._supervisor.stop(self._service.config.stop_timeout)

    def close(self) -> None:
        """After stop(), or in place of begin()."""
        self._supervisor.close()

    async def ask(self, role: str, verb: str, arguments: Arguments) -> wire.Plain:
        """A child's answer. One that starts or is being replaced has a moment to come; what one
        did not read any more, its successor is asked. LinkError, or InvalidArgument where it
        refuses."""
        child = await self._there(role)
        try:
            return await child.ask(verb, arguments)
        except ChildLost:
            # It was dead when it was asked: its end is heard of a moment later.
            return await (await self._there(role)).ask(verb, arguments)

    async def ask_to_leave(self, role: str, arguments: Arguments) -> None:
        """It need not answer."""
        child = await self._there(role)
        with contextlib.suppress(LinkError):
            await child.ask("terminate", arguments)

    async def _there(self, role: str) -> ChildConnection:
        for _ in range(_TRIES):
            if child := self.peers.get(role):
                return child
            known = self.all().get(role)
            if known is None:
                raise InvalidArgument(f"{role} is not running: the configuration does not need it")
            if known.policy.state is State.FAILED:
                raise LinkError(f"{role} has failed: it could not be kept alive")
            await asyncio.sleep(_PAUSE)
        raise LinkError(f"{role} is being replaced: try again")

    async def ask_all(self, verb: str, arguments: Arguments) -> None:
        """Every child, at the same time; LinkError names those that were silent."""
        answers = await asyncio.gather(
            *(child.ask(verb, arguments) for child in self.peers.values()), return_exceptions=True
        )
        problems = [answer for answer in answers if isinstance(answer, BaseException)]
        for problem in problems:
            if not isinstance(problem, LinkError | InvalidArgument):
                raise problem  # a mistake of ours is not their silence
        if problems:
            raise LinkError("; ".join(map(str, problems)))

    def discard(self, child: ChildConnection, why: str) -> None:
        """It is out of step with us: whoever replaces it is given everything anew."""
        if self.peers.get(child.role) is child and not child.link.gone:
            child.link.fail(why)
            self._supervisor.discard(child.role)

    # For the control server.

    def vouch(self, pid: int, uid: int) -> str:
        """See Family."""
        return self._supervisor.vouch(pid, uid)

    def admit(self, role: str, pid: int) -> bool | None:
        """See Family."""
        return self._supervisor.knows(role, pid)

    def entered(self, child: ChildConnection) -> None:
        """A child has come: it gets everything it needs, and then the word to begin."""
        self.peers[child.role] = child
        self._supervisor.entered(child.role, child.link.peer[0])
        self._equip(child)

    def _equip(self, child: ChildConnection) -> None:
        """At once, or as soon as the system has what we lack: the child's end would not bring it,
        and it is no fault of its own."""
        if self.peers.get(child.role) is not child:
            return
        try:
            self._service.hand_over(child)
        except OSError as problem:
            if self._lacking != child:
                self._lacking = child
                why = problem.strerror or problem
                self._logs.say(messages.NOT_LENT, child.role, why, PROCESS=child.role)
            self._loop.call_later(_RETRY, self._equip, child)

    def heard(self, child: ChildConnection, news: wire.Tell) -> None:
        """What a child tells unasked."""
        if news.what != "ready":
            self._service.heard(child, news)
            return
        self._supervisor.ready(child.role)
        self.down.pop(child.role, None)
        self._work.add(child.role)
        self._service.ready(child, news.args)
        role = self._wanted.get(child.role)
        if role and role.vital and self._vital() <= self._work:
            self.all_work.set()
            self._watcher.working()

    def _vital(self) -> set[str]:
        return {name for name, role in self._wanted.items() if role.vital}

    def left(self, child: ChildConnection) -> None:
        """A child's link is closed."""
        if self.peers.get(child.role) is not child:
            return
        del self.peers[child.role]
        self._work.discard(child.role)
        self._supervisor.left(child.role)
        if child.role in self._wanted:
            self.down.setdefault(child.role, time.time())
            if self._wanted[child.role].vital:
                self.all_work.clear()

    # For the supervisor.

    def ended_unasked(self, role: str, *, killed: bool | None) -> None:
        """See ChildEvents."""
        policy = self.all()[role].policy
        self._service.ended(role, policy.limit - policy.recent, killed=killed)
        self._watcher.child_ended(role, policy.ends_counted)

    def dismiss(self, role: str) -> None:
        """See ChildEvents."""
        dropped = role not in self._wanted
        with contextlib.suppress(LinkError, OSError, KeyError):
            ask = wire.Ask(0, "terminate", {"for-good": True} if dropped else {})
            self.peers[role].link.send(ask)

    def given_up(self, role: str) -> None:
        """See ChildEvents."""
        policy = self.all()[role].policy
        self._logs.say(messages.TOO_MANY_ENDS, role, policy.recent, policy.window, PROCESS=role)
        if self._wanted[role].essential:
            self._watcher.cannot_go_on(f"{role} cannot be kept alive")
