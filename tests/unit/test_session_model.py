"""The rules of sessions together, against a model that is too simple to be wrong.

The driver does what an engine does, with the same parts and without sockets. The model has a list
of sessions, looks at all of them each time, and does its own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from ipaddress import ip_address

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.session import index as index_module
from udpproxy.proxy.session import layout
from udpproxy.proxy.session import table as t
from udpproxy.proxy.session.index import Session, SessionIndex
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.limits import (
    NEVER,
    TRIED,
    Verdict,
    asked_at,
    budget,
    judge_download,
    judge_upload,
)
from udpproxy.proxy.session.peers import Endpoint, PeerRule, Reply, judge
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import Table

SECOND = 1_000_000_000
CAPACITY = 4
STALE = 6
TYPES = list(SessionType)
SERVER = ("10.0.0.1", 53)
SENDERS = [SERVER, ("10.0.0.1", 99), ("10.0.0.2", 53), ("192.0.2.1", 53)]
NETWORK = ("10.0.0.0", "10.0.0.255")
CLIENTS = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1)]
RULES = [
    Limits(idle=10),
    Limits(idle=10, lifetime=15),
    Limits(idle=0, lifetime=25),
    Limits(idle=20, upload_datagrams=2),
    Limits(idle=20, upload_datagrams=1, download_datagrams=1),
    Limits(idle=20, download_datagrams=2),
    Limits(idle=20, upload_bytes=100, download_bytes=100),
    Limits(idle=0),
    Limits(idle=0, silent=4),
    Limits(idle=20, silent=5),
]
SIZES = st.sampled_from([0, 1, 40, 60, 100, 101])


@dataclass
class Expected:
    """A session as the model sees it."""

    number: int
    client: tuple[str, int]
    kind: SessionType
    limits: Limits
    opened: int
    last: int
    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    download_bytes: int = 0
    stray: int = 0
    peer: Endpoint | None = None
    takes_uploads: bool = True
    asked: int | None = None

    def over(self, now: int) -> str | None:
        lifetime, idle = round(self.limits.lifetime * SECOND), round(self.limits.idle * SECOND)
        if lifetime and now - self.opened >= lifetime:
            return "lifetime"
        if idle and now - self.last >= idle:
            return "idle"
        silent = round(self.limits.silent * SECOND)
        if silent and self.asked is not None and now > self.asked + 2 * silent:
            return "silent"
        return None

    def may_reply(self, sender: Endpoint) -> str:
        if self.peer:
            return "pass" if sender == self.peer else "ignore"
        allowed = {
            SessionType.NORMAL: sender == SERVER,
            SessionType.ONE_WAY: sender == SERVER,
            SessionType.ANY_PORT: sender[0] == SERVER[0],
            SessionType.ANY_SOCK: True,
            SessionType.BROADCAST: sender[0].startswith("10.0.0.") and sender[1] == SERVER[1],
        }[self.kind]
        if not allowed:
            return "ignore"
        return "end" if self.kind is SessionType.ONE_WAY else "pass"


class Carried(Session):
    """What the driver needs beside the book's session."""

    def __init__(self, kind: SessionType, **known: object) -> None:
        super().__init__(**known)  # type: ignore[arg-type]
        self.rule = PeerRule(
            kind, SERVER, network=(ip_address(NETWORK[0]).packed, ip_address(NETWORK[1]).packed)
        )
        self.peer: Endpoint | None = None
        self.answered = False


@dataclass
class Driver:
    """What an engine does with book, table, limits and peers."""

    per_client: int
    evict: bool
    table: Table = field(init=False)
    book: SessionIndex = field(init=False)
    owner: dict[Hashable, Session] = field(default_factory=dict)
    ended: dict[int, list[Reason]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        memory = memoryview(bytearray(t.size(CAPACITY)))
        self.table = Table(memory, CAPACITY, fresh=True)
        self.table.grow(CAPACITY)
        self._begin()

    def _begin(self) -> None:
        self.owner.clear()
        self.book = SessionIndex(
            CAPACITY,
            CAPACITY,
            per_client=self.per_client,
            evict=self.evict,
            last=self._last,
            asked=lambda session: self._words(session, layout.ASKED)[0],
        )

    def _last(self, session: Session) -> int:
        record = self.table.read(session.slot)
        assert record
        return record.last

    def _words(self, session: Session, *which: int) -> list[int]:
        at = self.table.at(session.slot)
        return [self.table.words[at + word] for word in which]

    def put_asked(self, session: Session, moment: int) -> None:
        self.table.words[self.table.at(session.slot) + layout.ASKED] = moment

    def _carry(self, session: Session, first: int, now: int, size: int) -> None:
        count, volume = self._words(session, first + 1, first + 2)
        at = (self.table.at(session.slot) + first) * 8
        layout.CARRIED.pack_into(self.table.memory, at, now, count + 1, volume + size)

    def upload(
        self, client: tuple[str, int], kind: SessionType, limits: Limits, size: int, now: int
    ) -> None:
        session = self.owner.get(client) or self._open(client, kind, limits, now)
        if session is None:
            return
        count, volume = self._words(session, layout.UPLOADS, layout.UPLOAD_BYTES)
        verdict = judge_upload(session.budget, count, volume, size)
        if verdict is Verdict.OVER:
            self.close(session, Reason.UPLOAD_BYTES)
            return
        self._carry(session, layout.LAST_UPLOAD, now, size)
        if session.budget.silent < NEVER and not self._words(session, layout.ASKED)[0]:
            self.put_asked(session, asked_at(now))
        if verdict is Verdict.PASS_LAST:
            self.book.close_upload(session)
            self.table.set_state(session.slot, State.UPLOAD_CLOSED)

    def _open(
        self, client: tuple[str, int], kind: SessionType, limits: Limits, now: int
    ) -> Session | None:
        room = self.book.room(client[0])
        if isinstance(room, str):
            self.refused.append(room)
            return None
        if room is not None:
            assert self._words(room, layout.DOWNLOADS) == [0], (
                "an answered session is never evicted"
            )
            self.close(room, Reason.EVICTED)
        slot = self.book.take_slot()
        assert self.table.state(slot) is State.FREE, "no slot is used twice"
        record = Record(
            id=self.table.new_id(), state=State.OPENING, type=TYPES.index(kind),
            rule_number=RULES.index(limits), client=(client[0].encode().ljust(4, b"\0"), client[1]),
            server=(ip_address(SERVER[0]).packed, SERVER[1]), opened=now, last=now,
        )  # fmt: skip
        self.table.write(slot, record)
        self.table.open(slot, (bytes(4), 0))
        session = self._session(slot, record)
        self.book.open(session)
        return session

    def _session(self, slot: int, record: Record) -> Carried:
        client = record.client[0].rstrip(b"\0").decode()
        return Carried(
            TYPES[record.type],
            number=record.id,
            slot=slot,
            owner=self.owner,
            key=(client, record.client[1]),
            client=client,
            budget=budget(RULES[record.rule_number]),
            opened=record.opened,
        )

    def reply(self, session: Carried, sender: Endpoint, size: int, now: int) -> None:
        what = judge(session.rule, session.peer, sender, ip_address(sender[0]).packed)
        if what is Reply.IGNORE:
            self.table.words[self.table.at(session.slot) + layout.STRAY] += 1
            return
        if what is Reply.END:
            self.close(session, Reason.UNEXPECTED_REPLY)
            return
        if what is Reply.PIN:
            session.peer = sender
            self.table.pin(session.slot, (ip_address(sender[0]).packed, sender[1]))
        self.put_asked(session, 0)
        count, volume = self._words(session, layout.DOWNLOADS, layout.DOWNLOAD_BYTES)
        verdict = judge_download(session.budget, count, volume, size)
        if verdict is Verdict.OVER:
            self.close(session, Reason.DOWNLOAD_BYTES)
            return
        self._carry(session, layout.LAST_DOWNLOAD, now, size)
        self.book.answered(session)
        if verdict is Verdict.PASS_LAST:
            self.close(session, Reason.DOWNLOAD_DATAGRAMS)

    def expire(self, now: int) -> None:
        while due := self.book.due(now):
            session, reason = due
            if reason is not None:
                self.close(session, reason)
                continue
            (asked,) = self._words(session, layout.ASKED)
            assert asked
            assert not asked & TRIED
            self.put_asked(session, asked | TRIED)
            self.book.replan(session)

    def close(self, session: Session, reason: Reason) -> None:
        record = self.table.read(session.slot)
        assert record
        self.table.add(record)
        self.ended.setdefault(session.id, []).append(reason)
        self.book.close(session)
        self.table.free(session.slot)

    def relimit(self, session: Session, limits: Limits) -> None:
        session.budget = budget(limits)
        if session.budget.silent == NEVER:
            self.put_asked(session, 0)
        self.table.set_rule(session.slot, RULES.index(limits), 2)
        self.book.replan(session)

    def crash(self) -> None:
        """Only the table is left."""
        found = sorted(self.table.records(), key=lambda item: item[1].id)
        self._begin()
        self.book.reserve({slot for slot, _ in found})
        for slot, record in found:
            session = self._session(slot, record)
            if record.peer:
                session.peer = (str(ip_address(record.peer[0])), record.peer[1])
            keyed = record.state is State.OPEN
            self.book.open(session, answered=record.downloads > 0, keyed=keyed)


class Sessions(RuleBasedStateMachine):
    """Driver and model do the same, and must agree after each step."""

    @initialize(per_client=st.sampled_from([0, 2]), evict=st.booleans())
    def begin(self, per_client: int, *, evict: bool) -> None:
        self.usual, index_module._STALE_ENTRIES = index_module._STALE_ENTRIES, STALE
        self.driver = Driver(per_client, evict)
        self.now = SECOND
        self.live: list[Expected] = []
        self.reasons: dict[int, str] = {}
        self.refusals: list[str] = []
        self.entries = 0
        self.born = 0

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        try:
            for session in self.driver.book:
                self.driver.close(session, Reason.TERMINATED)
            self.nothing_is_left()
        finally:
            index_module._STALE_ENTRIES = self.usual

    def nothing_is_left(self) -> None:
        book, table = self.driver.book, self.driver.table
        assert len(book) == 0
        assert [len(left) for left in (self.driver.owner, book._clients, book._unanswered)] == [
            0
        ] * 3
        assert sorted(book.take_slot() for _ in range(CAPACITY)) == list(range(CAPACITY))
        assert book.room("a") == "refused-table-full"
        assert table.count_live() == 0
        assert book.due(1 << 62) is None
        assert book.next_due() is None
        assert len(self.driver.ended) == table.totals()["sessions-ended"] == self.born

    def end(self, expected: Expected, reason: str) -> None:
        self.live.remove(expected)
        self.reasons[expected.number] = reason

    @rule(
        client=st.sampled_from(CLIENTS),
        kind=st.sampled_from(TYPES),
        limits=st.sampled_from(RULES),
        size=SIZES,
    )
    def upload(self, client: tuple[str, int], kind: SessionType, limits: Limits, size: int) -> None:
        self.driver.upload(client, kind, limits, size, self.now)
        known = [one for one in self.live if one.client == client and one.takes_uploads]
        expected = known[0] if known else self.opened(client, kind, limits)
        if expected is None:
            return
        most = expected.limits.upload_bytes
        if most and expected.upload_bytes + size > most:
            self.end(expected, "upload-bytes")
            return
        expected.uploads += 1
        expected.upload_bytes += size
        expected.last = self.now
        if expected.limits.silent and expected.asked is None:
            expected.asked = self.now & ~TRIED
        most = expected.limits.upload_datagrams
        expected.takes_uploads = not most or expected.uploads < most

    def opened(self, client: tuple[str, int], kind: SessionType, limits: Limits) -> Expected | None:
        cap = self.driver.per_client
        if cap and sum(one.client[0] == client[0] for one in self.live) >= cap:
            self.refusals.append("refused-per-client")
            return None
        if len(self.live) == CAPACITY:
            silent = [one for one in self.live if not one.downloads]
            if not self.driver.evict or not silent:
                self.refusals.append("refused-table-full")
                return None
            self.end(min(silent, key=lambda one: one.number), "evicted")
        self.born += 1
        expected = Expected(self.born, client, kind, limits, self.now, self.now)
        self.live.append(expected)
        return expected

    def pick(self, choose: Callable[[list[Expected]], Expected]) -> tuple[Expected, Carried]:
        expected = choose(self.live)
        session = self.driver.book.get(expected.number)
        assert isinstance(session, Carried)
        return expected, session

    @precondition(lambda self: self.live)
    @rule(data=st.data(), sender=st.sampled_from(SENDERS), size=SIZES)
    def reply(self, data: st.DataObject, sender: Endpoint, size: int) -> None:
        expected, session = self.pick(lambda live: data.draw(st.sampled_from(live)))
        self.driver.reply(session, sender, size, self.now)
        what = expected.may_reply(sender)
        if what == "ignore":
            expected.stray += 1
            return
        if what == "end":
            self.end(expected, "unexpected-reply")
            return
        if expected.kind in (SessionType.ANY_PORT, SessionType.ANY_SOCK):
            expected.peer = sender
        expected.asked = None
        most = expected.limits.download_bytes
        if most and expected.download_bytes + size > most:
            self.end(expected, "download-bytes")
            return
        expected.downloads += 1
        expected.download_bytes += size
        expected.last = self.now
        most = expected.limits.download_datagrams
        if most and expected.downloads >= most:
            self.end(expected, "download-datagrams")

    @rule(step=st.sampled_from([1, SECOND, 4 * SECOND, 10 * SECOND - 1, 10 * SECOND]))
    def time_passes(self, step: int) -> None:
        self.now += step
        self.driver.expire(self.now)
        for expected in list(self.live):
            if reason := expected.over(self.now):
                self.end(expected, reason)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        expected, session = self.pick(lambda live: data.draw(st.sampled_from(live)))
        self.driver.close(session, Reason.KILLED)
        self.end(expected, "killed")
        assert self.driver.book.get(expected.number) is None

    @precondition(lambda self: self.live)
    @rule(data=st.data(), limits=st.sampled_from([*RULES[:3], RULES[-1]]))
    def rules_change(self, data: st.DataObject, limits: Limits) -> None:
        expected, session = self.pick(lambda live: data.draw(st.sampled_from(live)))
        self.driver.relimit(session, limits)
        expected.limits = limits
        if not limits.silent:
            expected.asked = None
        self.time_passes(0)

    @rule()
    def crash(self) -> None:
        self.driver.crash()

    @invariant()
    def both_agree(self) -> None:
        found = {record.id: record for _, record in self.driver.table.records()}
        assert sorted(found) == sorted(one.number for one in self.live)
        for one in self.live:
            record = found[one.number]
            counters = record.uploads, record.upload_bytes, record.downloads, record.download_bytes
            assert counters == (
                one.uploads, one.upload_bytes, one.downloads, one.download_bytes
            )  # fmt: skip
            assert (record.stray, record.opened, record.last) == (one.stray, one.opened, one.last)
            assert (record.state is State.OPEN) == one.takes_uploads
        reasons = {number: [Reason(reason)] for number, reason in self.reasons.items()}
        assert self.driver.ended == reasons, "one reason each, and the right one"
        assert self.driver.refused == self.refusals

    @invariant()
    def the_book_is_in_order(self) -> None:
        book, owner = self.driver.book, self.driver.owner
        assert {session.id for session in book} == {one.number for one in self.live}
        assert len({session.slot for session in book}) == len(book)
        keys = {one.client: one.number for one in self.live if one.takes_uploads}
        assert {key: session.id for key, session in owner.items()} == keys

    @invariant()
    def the_heap_does_not_grow(self) -> None:
        size = len(self.driver.book._due)
        # One more than now live: whoever came in this step may have gone in it, too.
        assert size <= max(self.entries, 2 * (len(self.live) + 1) + STALE)
        self.entries = size

    @invariant()
    def nobody_is_forgotten(self) -> None:
        deadlines = [
            moment
            for one in self.live
            for moment in (
                one.last + round(one.limits.idle * SECOND) if one.limits.idle else None,
                one.opened + round(one.limits.lifetime * SECOND) if one.limits.lifetime else None,
                one.asked + 1 + 2 * round(one.limits.silent * SECOND)
                if one.asked is not None and one.limits.silent
                else None,
            )
            if moment is not None
        ]
        if deadlines:
            next_due = self.driver.book.next_due()
            assert next_due is not None
            assert next_due <= min(deadlines)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
