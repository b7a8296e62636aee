"""The look-up as a whole: candidates, families, the one limit, the result."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.config.model import NameServer, Resolver
from udpproxy.resolver.machine import Action, CloseSockets, ConnectTcp, Done, LookUp, SendUdp
from udpproxy.resolver.question import forward, reverse
from udpproxy.resolver.result import Failure, Family, Result

SERVERS = tuple(NameServer(address=ip_address(f"192.0.2.{last}")) for last in (1, 2, 3))
RESOLVER = Resolver(servers=SERVERS[:2], search=("corp.test",))
V4, V6 = ip_address("198.51.100.1"), ip_address("2001:db8::1")

Zone = dict[tuple[str, str], list[str]]
"""(name, type) to data; a name with any entry exists. "!" as data: SERVFAIL. "": silence."""


def answered(query: bytes, zone: Zone, *, ttl: int = 300, soa: int = 0) -> bytes | None:
    message = dns.message.make_response(dns.message.from_wire(query))
    question = message.question[0]
    name = question.name.to_text().lower()
    data = zone.get((name, dns.rdatatype.to_text(question.rdtype)))
    if data == [""]:
        return None
    if data == ["!"]:
        message.set_rcode(dns.rcode.SERVFAIL)
    elif data:
        kind = question.rdtype
        message.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, *data))
    elif not any(known == name for known, _ in zone):
        message.set_rcode(dns.rcode.NXDOMAIN)
    if soa and not message.answer:
        values = f". . 1 2 3 4 {soa}"
        message.authority.append(dns.rrset.from_text(".", 99999, "IN", "SOA", values))
    return message.to_wire()


@dataclass
class Stage:
    """Drives one look-up against a zone; time passes only when a server is silent."""

    machine: LookUp
    zone: Zone
    ttl: int = 300
    soa: int = 0
    now: float = 100.0
    asked: list[tuple[str, str, int]] = field(default_factory=list, init=False)

    def play(self) -> Result:
        actions = self.machine.started(self.now)
        while self.machine.result is None:
            actions = self.perform(actions)
        assert Done(self.machine.result) == actions[-1]
        assert self.machine.deadline is None
        return self.machine.result

    def perform(self, actions: list[Action]) -> list[Action]:
        last = actions[-1]
        assert isinstance(last, SendUdp)
        question = dns.message.from_wire(last.data).question[0]
        name = question.name.to_text().lower()
        self.asked.append((name, dns.rdatatype.to_text(question.rdtype), last.server))
        self.now += 0.01
        data = answered(last.data, self.zone, ttl=self.ttl, soa=self.soa)
        if data is not None:
            return self.machine.datagram(self.now, last.server, data)
        assert self.machine.deadline is not None
        self.now = self.machine.deadline
        return self.machine.timer(self.now)


def stage(
    text: str,
    zone: Zone,
    *,
    family: Family = Family.BOTH,
    resolver: Resolver = RESOLVER,
    total: float = 15.0,
    ttl: int = 300,
    soa: int = 0,
) -> Stage:
    wanted = forward(text, resolver.search, family)
    return Stage(LookUp(wanted, resolver, total, random.Random(3)), zone, ttl, soa)


def test_both_families() -> None:
    play = stage("db.lab", {("db.lab.", "A"): [str(V4)], ("db.lab.", "AAAA"): [str(V6)]})
    result = play.play()
    assert play.asked == [("db.lab.", "A", 0), ("db.lab.", "AAAA", 0)]
    assert result == Result(
        name="db.lab",
        found="db.lab",
        addresses=(V4, V6),
        ttl=300.0,
        server=SERVERS[0],
        duration=result.duration,
    )
    assert result.duration == pytest.approx(0.02)


@pytest.mark.parametrize(("family", "kind"), [(Family.V4, "A"), (Family.V6, "AAAA")])
def test_one_family(family: Family, kind: str) -> None:
    zone = {("db.lab.", "A"): [str(V4)], ("db.lab.", "AAAA"): [str(V6)]}
    play = stage("db.lab", zone, family=family)
    assert play.play().addresses == ((V4,) if family is Family.V4 else (V6,))
    assert play.asked == [("db.lab.", kind, 0)]


def test_reverse() -> None:
    machine = LookUp(reverse(V4), RESOLVER, 1.0, random.Random(3))
    zone = {("1.100.51.198.in-addr.arpa.", "PTR"): ["Client.Example.org."]}
    result = Stage(machine, zone).play()
    assert (result.name, result.names) == ("198.51.100.1", ("client.example.org",))


def test_denied_names_lead_through_the_search_list() -> None:
    play = stage("db", {("db.", "A"): [str(V4)]}, family=Family.V4)
    result = play.play()
    assert [name for name, _, _ in play.asked] == ["db.corp.test.", "db."]
    assert (result.found, result.addresses) == ("db", (V4,))
    play = stage("db", {("db.corp.test.", "A"): [str(V4)], ("db.", "A"): ["6.6.6.6"]})
    assert play.play().found == "db.corp.test"


def test_nodata_of_both_families_is_needed_for_the_next_candidate() -> None:
    zone = {("db.corp.test.", "AAAA"): [str(V6)], ("db.", "A"): ["6.6.6.6"]}
    assert stage("db", zone).play().addresses == (V6,)
    play = stage("db", {("db.corp.test.", "TXT"): ["x"], ("db.", "A"): [str(V4)]})
    assert play.play().addresses == (V4,)
    assert [kind for _, kind, _ in play.asked] == ["A", "AAAA", "A", "AAAA"]


def test_trouble_never_turns_one_name_into_another() -> None:
    zone = {("db.lab.", "A"): ["!"], ("db.lab.corp.test.", "A"): ["6.6.6.6"]}
    result = stage("db.lab", zone).play()
    assert (result.failure, result.addresses, result.found) == (Failure.SERVFAIL, (), "")


DENIALS: dict[str, tuple[Zone, Failure]] = {
    "no such name": ({}, Failure.NXDOMAIN),
    "no such records": ({("db.corp.test.", "TXT"): ["x"]}, Failure.NODATA),
}


@pytest.mark.parametrize(("zone", "failure"), DENIALS.values(), ids=DENIALS.keys())
def test_denied(zone: Zone, failure: Failure) -> None:
    result = stage("db", zone).play()
    assert (result.failure, result.ttl, result.server) == (failure, 0.0, SERVERS[0])
    assert stage("db", zone, soa=40).play().ttl == 40.0
    assert stage("db", zone, soa=1).play().ttl == RESOLVER.min_ttl
    assert stage("db", zone, soa=86400).play().ttl == RESOLVER.negative_ttl


@pytest.mark.parametrize(("told", "clamped"), [(0, 5.0), (60, 60.0), (2**31 - 1, 86400.0)])
def test_ttl_is_clamped(told: int, clamped: float) -> None:
    assert stage("db", {("db.", "A"): [str(V4)]}, ttl=told).play().ttl == clamped


@pytest.mark.parametrize(("silent", "left"), [("A", V6), ("AAAA", V4)])
def test_one_family_fails(silent: str, left: object) -> None:
    zone = {("db.lab.", "A"): [str(V4)], ("db.lab.", "AAAA"): [str(V6)]}
    zone["db.lab.", silent] = ["!"]
    result = stage("db.lab", zone).play()
    assert result.addresses == (left,)
    assert (result.failure, result.partial) == (None, Failure.SERVFAIL)


def test_the_limit_leaves_what_is_known() -> None:
    zone = {("db.lab.", "A"): [str(V4)], ("db.lab.", "AAAA"): [""]}
    result = stage("db.lab", zone, total=1.0).play()
    assert (result.addresses, result.failure) == ((V4,), None)
    assert (result.partial, result.duration) == (Failure.TIMEOUT, 1.0)


def test_one_limit_whatever_there_is_to_try() -> None:
    resolver = replace(RESOLVER, servers=SERVERS, search=tuple(f"d{i}.test" for i in range(9)))
    zone = {("db.", "A"): [""]}
    result = stage("db", zone, resolver=resolver, total=5.0).play()
    assert (result.failure, result.duration) == (Failure.TIMEOUT, 5.0)
    assert result.server is not None


def test_the_second_question_begins_with_the_server_that_answered() -> None:
    machine = LookUp(forward("db.", (), Family.BOTH), RESOLVER, 15.0, random.Random(3))
    machine.started(0.0)
    actions = machine.timer(2.0)
    assert isinstance(actions[-1], SendUdp)
    zone = {("db.", "A"): [str(V4)]}
    data = answered(actions[-1].data, zone)
    assert data is not None
    actions = machine.datagram(2.1, 1, data)
    assert [type(action) for action in actions] == [CloseSockets, SendUdp]
    assert isinstance(actions[-1], SendUdp)
    assert actions[-1].server == 1


def test_known_and_impossible_names_ask_nobody() -> None:
    result = stage("localhost", {}).play()
    assert (str(result.addresses[0]), result.found) == ("127.0.0.1", "localhost")
    assert (result.ttl, result.server) == (86400.0, None)
    result = stage("no such name", {}).play()
    assert (result.failure, result.ttl) == (Failure.BAD_NAME, 0.0)


def test_no_servers() -> None:
    result = stage("db", {}, resolver=Resolver()).play()
    assert (result.failure, result.server) == (Failure.UNREACHABLE, None)


def test_nothing_counts_past_the_limit_or_after_the_end() -> None:
    machine = LookUp(forward("db.", (), Family.V4), RESOLVER, 1.0, random.Random(3))
    assert machine.deadline is None
    assert machine.timer(0.0) == []
    [send] = machine.started(0.0)
    assert isinstance(send, SendUdp)
    data = answered(send.data, {("db.", "A"): [str(V4)]})
    assert data is not None
    assert machine.datagram(0.5, 0, data[:-1]) == []
    actions = machine.datagram(1.0, 0, data)
    assert machine.result is not None
    assert actions == [CloseSockets(), Done(machine.result)]
    assert (machine.result.failure, machine.result.ignored) == (Failure.TIMEOUT, 1)
    assert machine.datagram(1.0, 0, data) == []
    assert machine.timer(2.0) == []


def test_unreachable_and_tcp_are_passed_on() -> None:
    machine = LookUp(forward("db.", (), Family.V4), RESOLVER, 5.0, random.Random(3))
    machine.started(0.0)
    [_, send] = machine.unreachable(0.1, 0)
    assert isinstance(send, SendUdp)
    message = dns.message.make_response(dns.message.from_wire(send.data))
    message.flags |= dns.flags.TC
    [_, connect] = machine.datagram(0.2, 1, message.to_wire())
    assert isinstance(connect, ConnectTcp)
    assert machine.tcp_connected(0.3, 1) == []
    [_, send] = machine.tcp_failed(0.4, 1)
    assert isinstance(send, SendUdp)
    assert send.server == 0
    message = dns.message.make_response(dns.message.from_wire(send.data))
    message.flags |= dns.flags.TC
    [_, connect] = machine.datagram(0.5, 0, message.to_wire())
    assert isinstance(connect, ConnectTcp)
    data = answered(connect.data, {("db.", "A"): [str(V4)]})
    assert data is not None
    actions = machine.tcp_answer(0.6, 0, data)
    assert isinstance(actions[-1], Done)
    assert actions[-1].result.addresses == (V4,)


# What a server may do to one query; each takes the query and the machine's inputs as they are.
TRUTH: Zone = {("db.lab.", "A"): [str(V4)], ("db.lab.", "AAAA"): [str(V6)]}


def forged(query: bytes) -> bytes:
    """An address that only a wrongly accepted datagram can bring, for another ID."""
    return bytes([query[0] ^ 1]) + good(query, "6.6.6.6")[1:]


def good(query: bytes, address: str = str(V4)) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(query))
    if message.question[0].rdtype == dns.rdatatype.A:
        owner = message.question[0].name
        message.answer.append(dns.rrset.from_text(owner, 9, "IN", "A", address))
    return message.to_wire()


def flagged(query: bytes, *, tc: bool = False, rcode: int = 0) -> bytes:
    wire = good(query)
    return wire[:2] + bytes([wire[2] | tc << 1, wire[3] & 0xF0 | rcode]) + wire[4:]


def lowered(query: bytes) -> bytes:
    # A longer region than the name would do: nothing behind it is a letter here.
    return good(query)[:12] + good(query)[12:30].lower() + good(query)[30:]


DATAGRAMS: list[Callable[[bytes], bytes]] = [
    good,
    forged,
    lowered,
    lambda query: flagged(query, tc=True),
    lambda query: flagged(query, rcode=1),
    lambda query: flagged(query, rcode=2),
    lambda query: flagged(query, rcode=3),
    lambda query: good(query)[:-3],
    lambda query: b"rubbish",
]
EVENTS = st.tuples(
    st.sampled_from(["datagram", "tcp", "connected", "failed", "unreachable", "late", "timer"]),
    st.sampled_from(DATAGRAMS),
    st.floats(0.0, 3.0),
)
RESOLVERS = st.builds(
    Resolver,
    servers=st.integers(0, 3).map(lambda number: SERVERS[:number]),
    search=st.lists(st.sampled_from(["a.test", "b.test", "."]), max_size=3).map(tuple),
    timeout=st.sampled_from([0.0, 0.1, 2.0]),
    attempts=st.integers(1, 3),
    tcp_connect_timeout=st.sampled_from([0.0, 1.0]),
)


@settings(max_examples=150, deadline=None)
@given(RESOLVERS, st.sampled_from([0.0, 0.5, 4.0]), st.lists(EVENTS, max_size=12))
def test_it_always_ends_within_the_limit(
    resolver: Resolver, total: float, events: list[tuple[str, Callable[[bytes], bytes], float]]
) -> None:
    machine = LookUp(forward("db.lab", resolver.search, Family.BOTH), resolver, total, DICE)
    now = 50.0
    actions = machine.started(now)
    query: dict[str, tuple[int, bytes]] = {}
    seen = 0
    while machine.result is None:
        seen += 1
        assert seen < 400
        for action in actions:
            if isinstance(action, SendUdp | ConnectTcp):
                side = "datagram" if isinstance(action, SendUdp) else "tcp"
                query[side] = (action.server, action.data)
        deadline = machine.deadline
        assert deadline is not None
        assert deadline <= 50.0 + total
        what, shape, wait = events.pop() if events else ("timer", good, 3.0)
        # As a loop with a timer does: nothing happens later than the deadline.
        now = min(now + wait, deadline)
        actions = happen(machine, what, query, shape, now if what != "timer" else deadline)
        now = now if what != "timer" else deadline
    assert machine.result.duration <= total
    assert ip_address("6.6.6.6") not in machine.result.addresses
    assert bool(machine.result.addresses) == (machine.result.failure is None)
    assert actions[-1] == Done(machine.result)


DICE = random.Random(11)


def happen(
    machine: LookUp,
    what: str,
    query: dict[str, tuple[int, bytes]],
    shape: Callable[[bytes], bytes],
    now: float,
) -> list[Action]:
    server, data = query.get(what) or next(iter(query.values()))
    inputs: dict[str, Callable[[], list[Action]]] = {
        "datagram": lambda: machine.datagram(now, server, shape(data)),
        "tcp": lambda: machine.tcp_answer(now, server, shape(data)),
        "connected": lambda: machine.tcp_connected(now, server),
        "failed": lambda: machine.tcp_failed(now, server),
        "unreachable": lambda: machine.unreachable(now, server),
        "late": lambda: machine.datagram(now, server + 1, shape(data)),
        "timer": lambda: machine.timer(now),
    }
    return inputs[what]()
