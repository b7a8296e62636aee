"""REG's dealings with names: ACR tells, APR is asked, sessions wait meanwhile.

REG itself looks nothing up and waits for nobody: a datagram whose session needs a name is put
aside and given to the engine when the name is there or its time is over.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

from udpproxy.config.model import Address
from udpproxy.errors import LinkError
from udpproxy.process import messages, wire
from udpproxy.process.faults import said_by
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs, RateLimit
from udpproxy.process.loop import Reactor, Timer
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.config.names import names, probed
from udpproxy.proxy.engine.interface import Arrival, ListenerSocket, PendingName
from udpproxy.proxy.reg.asking import Asking
from udpproxy.proxy.reg.changes import NamedSessions
from udpproxy.proxy.reg.members import key_of
from udpproxy.proxy.reg.name_cache import NameCache, NameChange
from udpproxy.proxy.reg.pending import PendingSession, PendingSessions
from udpproxy.resolver import outcomes, resolved
from udpproxy.resolver.bounds import total
from udpproxy.resolver.resolved import ClientNames, Resolved
from udpproxy.resolver.result import Failure

Blocking = Callable[[Address], ClientNames | Failure]
"""A client's names; the caller waits."""

Probed = Callable[[str, str, bool, str], object]
"""Group, server, whether it is well, and why not."""

NO_ANSWER = 5.0
"""Seconds for which a client whose look-up gave no answer is taken to have no name."""
_NAMELESS = ClientNames((), NO_ANSWER)

_SLACK = 1.0
"""Seconds beyond a look-up's own limit until APR is called late."""
_REST = 1.0
"""Seconds until APR is asked again for a server that it could not resolve."""
_PART = 16
"""Waiting sessions given to the engine in one go."""
_NEWS = 32
"""Names seen to in one go: each costs the engine all it remembers of decisions."""


class NameWaits:
    """`known` is what the rules ask; `sessions` are there once REG relays. `blocking` (single mode)
    looks clients up at once."""

    def __init__(
        self,
        reactor: Reactor,
        logs: Logs,
        blocking: Blocking | None,
        *,
        lost: Callable[[str], None],
    ) -> None:
        """`lost` is told the role to which there is no way any more."""
        self._reactor = reactor
        self._logs = logs
        self.sessions: NamedSessions | None = None
        self.probed: Probed = lambda group, server, good, why: None
        """Hears of each probe of a server that ACR sent."""
        self._asking = Asking(
            reactor,
            logs,
            answered=self._answered,
            nonsense=lambda why: self._ignore("apr", why),
            lost=lambda: lost("apr"),
        )
        self._channel_lost = lost
        self._acr: Link | None = None
        self._room = PendingSessions()
        self._ready: deque[tuple[PendingSession, bool]] = deque()
        self._injecting: PendingSession | None = None
        self._timer: Timer | None = None
        self._rate_limit = RateLimit()
        self._patience = self._late = 1.0
        self._resting: dict[str, float] = {}
        """Servers' names that APR could not resolve just now."""
        self._ended = self._ignored = 0
        self._wanted: frozenset[str] = frozenset()
        self._probed: frozenset[tuple[str, str]] = frozenset()
        self._news: dict[str, Resolved] = {}
        """Told by ACR and not yet seen to: the last word on each name."""
        self._busy = False
        self._blocking = blocking
        self.known = NameCache(time.monotonic, self._unknown)

    def configure(self, config: Config) -> None:
        """Another configuration."""
        self._patience = config.resolver.initial_timeout
        self._late = total(config.resolver) + _SLACK
        self._resting.clear()
        self._wanted = frozenset(names(config))
        self._probed = frozenset(
            key_of(group, server) for group in probed(config) for server in group.servers
        )
        self.known.keep(self._wanted)

    def connect(self, role: str, descriptor: int) -> None:
        """A new channel to ACR or APR, lent by the parent."""
        sock = socket.socket(fileno=descriptor)
        if role == "apr":
            self._asking.connect(sock)
        elif role == "acr":
            before = self._acr
            failed = said_by(self._logs, role)
            self._acr = Link(
                self._reactor, sock, received=self._told, closed=self._lost, failed=failed
            )
            if before:
                before.close()
        else:
            sock.close()
            raise LinkError(f"lent a way to {role}")

    def close(self) -> None:
        """No way to anybody; whoever waits is forgotten."""
        if self.sessions:
            self.sessions.close()
        self._asking.disconnect()
        acr, self._acr = self._acr, None
        if acr:
            acr.close()
        if self._timer:
            self._timer.cancel()

    def resume(self, found: wire.Plain) -> None:
        """What was known before our start."""
        heard = resolved.read(found)
        for word in heard.words.values():
            self.known.from_acr(word)
        self._logs.say(messages.NAMES_RESUMED, len(heard.words))

    def wait(
        self,
        waiting: PendingName,
        listener: ListenerSocket,
        client: tuple[str, int],
        channel: Arrival,
        data: bytes,
    ) -> None:
        """Keep a datagram until the name is there."""
        now = time.monotonic()
        again = self._injecting
        since, deadline = (again.since, again.deadline) if again else (now, now + self._patience)
        waiter = PendingSession(waiting, listener, client, channel, since, deadline)
        if again:
            waiter.came = again.came - len(again.datagrams)
            waiter.volume = again.volume - sum(map(len, again.datagrams))
        if not self._room.add(waiter, data):
            held = self._rate_limit.allow("room")
            if held is not None:
                self._logs.say(messages.NO_WAITING_ROOM, client[0], held, CLIENT_ADDR=client[0])
        if now >= self._resting.get(waiting.name, 0.0):
            self._asking.want(waiting.kind, waiting.name)
        self._arm()

    def reconsider(self) -> None:
        """The rules have changed: whoever waits may not need to any more."""
        self._go_on(self._room.everybody())

    def look(self) -> None:
        """Now and then: what is late, what has ended?"""
        self._asking.look(self._late)
        for change in self.known.expired():
            self._changed(change)

    def figures(self) -> dict[str, int]:
        """For info."""
        return {
            **self.known.figures(),
            **self._asking.figures(),
            "sessions-waiting": len(self._room) + len(self._ready),
            "sessions-waiting-dropped": self._room.dropped,
            "sessions-unresolved": self._ended,
            "names-ignored": self._ignored,
        }

    def _unknown(self, client: Address) -> tuple[str, ...] | None:
        """Where too much is asked already, no answer is what comes of it."""
        if self._blocking:
            found = self._blocking(client)
            if isinstance(found, Failure):
                found = _NAMELESS
            self.known.put_client(client, replace(found, ttl=found.ttl or NO_ANSWER))
            return found.names
        return () if self._asking.refuses("client", str(client)) else None

    def _told(self, link: Link, message: wire.Message, descriptors: list[int]) -> None:
        for fd in descriptors:
            os.close(fd)
        match message:
            case wire.Tell("names", {"found": found}):
                heard = resolved.read(found, self._wanted)
                if heard.refused:
                    self._ignore("acr", heard.why, heard.refused)
                self._news |= heard.words
                if not self._busy:
                    self._hear()
            case wire.Tell("probed", {"results": results}):
                told = outcomes.read(results, self._probed)
                if told.refused:
                    self._ignore("acr", told.why, told.refused)
                for each in told.found:
                    self.probed(each.group, each.server, each.good, each.why)
            case _:
                # The way stays: nobody would make a new one as long as both sides live.
                self._ignore("acr", f"not from ACR: {type(message).__name__}")

    def _hear(self) -> None:
        """Some of the news; the others when the loop has turned."""
        self._busy = False
        for name in list(itertools.islice(self._news, _NEWS)):
            word = self._news.pop(name)
            if name in self._wanted:
                self._learn(word)
        if self._news:
            self._busy = True
            self._reactor.call_later(0, self._hear)

    def _learn(self, word: Resolved) -> None:
        self._changed(self.known.from_acr(word))
        if word.addresses:
            self._go_on(self._room.needing(("server", word.name)))

    def _ignore(self, who: str, why: str, count: int = 1) -> None:
        self._ignored += count
        held = self._rate_limit.allow(who, count)
        if held is not None:
            self._logs.say(messages.WORD_IGNORED, who, why, held, PROCESS=who)

    def _changed(self, change: NameChange | None) -> None:
        if self.sessions and change:
            self.sessions.changed(change)

    def _lost(self, link: Link, reason: str) -> None:
        if link is self._acr:
            self._acr = None
            self._channel_lost("acr")

    def _answered(self, kind: str, name: str, value: wire.Plain) -> None:
        match kind, value:
            case "client", None:
                self.known.put_client(ip_address(name), _NAMELESS)
            case "client", _:
                told = resolved.read_client(value)
                self.known.put_client(ip_address(name), told)
                self._logs.say(messages.CLIENT_NAMED, name, ", ".join(told.names) or "nameless")
            case "server", None:
                # ACR goes on trying; the session waits for its time to be over.
                self._resting[name] = time.monotonic() + _REST
            case _:
                word = resolved.read_answer(name, value)
                if name in self._wanted:
                    self._changed(self.known.from_apr(word))
        if kind == "client" or self.known.addresses(name):
            self._go_on(self._room.needing((kind, name)))

    def _arm(self) -> None:
        deadline = self._room.deadline
        if self._timer is None and deadline is not None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = self._reactor.call_later(delay, self._time_over)

    def _time_over(self) -> None:
        self._timer = None
        over = self._room.due(time.monotonic(), _PART)
        for waiter in over:
            client = waiter.wait.name if waiter.wait.kind == "client" else None
            # No answer counts as no match, for the client's other datagrams too.
            if client and self.known.cached(ip_address(client)) is None:
                self.known.put_client(ip_address(client), _NAMELESS)
        self._go_on(over, over=True)
        self._arm()

    def _go_on(self, waiters: list[PendingSession], *, over: bool = False) -> None:
        """They wait no longer: the name is there, or their time is `over`."""
        idle = not self._ready
        self._ready.extend((waiter, over) for waiter in waiters)
        if idle and waiters:
            self._work()

    def _work(self) -> None:
        """Some of them; the others when the loop has turned."""
        assert self.sessions  # they have asked us to wait
        for _ in range(min(_PART, len(self._ready))):
            waiter, over = self._ready.popleft()
            if over and waiter.wait.kind == "server":
                self._ended += 1
                self.sessions.give_up(waiter)
                continue
            self._injecting = waiter
            self.sessions.begin(waiter)
            self._injecting = None
        if self._ready:
            self._reactor.call_later(0, self._work)
