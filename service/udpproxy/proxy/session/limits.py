"""When a session has had enough (SPEC 3, table of limits).

Datagram limits: the datagram that reaches the limit is still passed. Byte limits: one that would
exceed the limit is not passed. What exceeds a rate or the amplification is not passed either, and
the session goes on. 0 is no limit. All times are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from udpproxy.config.model import Rate
from udpproxy.proxy.config.model import Limits

NEVER = 1 << 63
"""A deadline or a budget that is not reached."""


class Verdict(enum.Enum):
    """What becomes of one datagram, and of its session after it."""

    PASS = "pass"
    PASS_LAST = "pass-last"
    """Pass it; upload: the client's side is closed after it, download: the session ends."""
    OVER = "over"
    """Not passed, and the session ends."""


_BURST = 1_000_000_000
"""As many as a second brings may come at once, and one in any case."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A rate as it is kept: by the moment until when somebody has paid, which each one moves on by
    `interval`, and which lies at most `slack` ahead (GCRA). An interval of 0: there is no rate."""

    interval: int = 0
    slack: int = 0

    def __bool__(self) -> bool:
        return self.interval > 0

    def allows(self, paid: int, now: int) -> bool:
        """One more?"""
        return not self or self.pay(paid, now) <= now + self.slack

    def pay(self, paid: int, now: int) -> int:
        """One more it is: until when that is paid. Who has paid for much longer than he can did so
        by a slower pace, before a reload: that does not count. (The clocks of workers are some
        milliseconds apart.)"""
        counts = now < paid <= now + self.slack + _BURST
        return (paid if counts else now) + self.interval


def pace(rate: Rate) -> Pace:
    """A rate of the file."""
    interval = rate.interval
    return Pace(interval, max(_BURST // interval, 1) * interval) if interval else Pace()


ALWAYS = 512
"""Bytes that a reply may have whatever `amplification` says: a DNS answer of the old size."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits in the units of the engine; a limit that is not set is NEVER."""

    idle: int
    lifetime: int
    upload_datagrams: int
    download_datagrams: int
    upload_bytes: int
    download_bytes: int
    silent: int
    new_sessions: Pace = Pace()
    datagrams: Pace = Pace()
    amplification: int = 0
    """0: a reply may be as large as it likes."""

    @property
    def counts_upload(self) -> bool:
        """False: no datagram of the client needs to be judged."""
        return min(self.upload_datagrams, self.upload_bytes) < NEVER or bool(self.datagrams)

    @property
    def counts_download(self) -> bool:
        """False: no datagram of the server needs to be judged."""
        counted = min(self.download_datagrams, self.download_bytes) < NEVER
        return counted or self.amplification > 0


def budget(limits: Limits) -> Budget:
    """The limits of an ACL, compiled once for all its sessions."""
    return Budget(
        idle=_nanoseconds(limits.idle),
        lifetime=_nanoseconds(limits.lifetime),
        upload_datagrams=limits.upload_datagrams or NEVER,
        download_datagrams=limits.download_datagrams or NEVER,
        upload_bytes=limits.upload_bytes or NEVER,
        download_bytes=limits.download_bytes or NEVER,
        silent=_nanoseconds(limits.silent),
        new_sessions=pace(limits.new_sessions_per_client),
        datagrams=pace(limits.datagrams_per_client),
        amplification=limits.amplification,
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9) or NEVER


def judge_upload(budget: Budget, datagrams: int, volume: int, size: int) -> Verdict:
    """`datagrams` and `volume` (bytes) have passed before this one of `size` bytes."""
    return _judge(budget.upload_datagrams, budget.upload_bytes, datagrams, volume, size)


def judge_download(budget: Budget, datagrams: int, volume: int, size: int) -> Verdict:
    """The same for the other direction."""
    return _judge(budget.download_datagrams, budget.download_bytes, datagrams, volume, size)


def is_amplified(budget: Budget, uploaded: int, downloaded: int, size: int) -> bool:
    """Would a reply of `size` bytes make the session give more than the client asked for? So many
    bytes have passed before it."""
    most = budget.amplification
    return most > 0 and downloaded + size > most * uploaded + ALWAYS


def _judge(most: int, most_bytes: int, datagrams: int, volume: int, size: int) -> Verdict:
    if volume + size > most_bytes:
        return Verdict.OVER
    return Verdict.PASS_LAST if datagrams + 1 >= most else Verdict.PASS


TRIED = 1
"""Of `asked`, the moment since which a client has been waiting for an answer, 0: it does not. Such
a moment is even; odd: the session was connected afresh meanwhile."""


def asked_at(now: int) -> int:
    """The `asked` of a client that begins to wait."""
    return now & ~TRIED


def deadline(budget: Budget, opened: int, last: int, asked: int, now: int) -> int:
    """When to look at the session again if nothing more arrives. A client that does not wait may
    begin to at any moment from `now` on, without a word to anybody."""
    patience = _patience(budget, asked) if asked else max(last, now) + budget.silent
    return min(last + budget.idle, opened + budget.lifetime, patience)


def expired(budget: Budget, opened: int, last: int, asked: int, now: int) -> str | None:
    """The reason, or None while the session may go on."""
    if now >= opened + budget.lifetime:
        return "lifetime"
    if now >= last + budget.idle:
        return "idle"
    if asked & TRIED and now >= _patience(budget, asked):
        return "silent"
    return None


def is_to_try(budget: Budget, asked: int, now: int) -> bool:
    """Is the session to be connected afresh, for its server does not answer?"""
    return asked != 0 and not asked & TRIED and now >= _patience(budget, asked)


def _patience(budget: Budget, asked: int) -> int:
    """The end of it: once until the session is connected afresh, then as long again."""
    return asked + budget.silent * (2 if asked & TRIED else 1)


EVICTIONS_AT_ONCE = 250
NS_PER_EVICTION = 1_000_000
"""How fast newcomers may replace sessions that wait for their first reply. One that a flood
replaces would be gone before its server can answer, and making and ending sessions at the rate of
a flood costs those that are there."""

CHANCES_AT_ONCE = 250
NS_PER_CHANCE = 500_000
"""The same for decisions about newcomers while all sessions are in use."""


class Allowance:
    """So many of something at once, and one more after each `interval` (nanoseconds)."""

    def __init__(self, at_once: int, interval: int) -> None:
        self._slack = at_once * interval
        self._interval = interval
        self._paid = 0

    def allows(self, now: int) -> bool:
        """One more?"""
        return self._paid < now + self._slack

    def pay(self, now: int) -> None:
        """One more it is."""
        self._paid = max(self._paid, now) + self._interval
