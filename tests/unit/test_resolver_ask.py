"""One question: servers in turn, TCP, forgeries. Dialogues of inputs and actions."""

from __future__ import annotations

import math
import random
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset

from udpproxy.config.model import NameServer, Resolver
from udpproxy.resolver.ask import Action, Ask, CloseSockets, ConnectTcp, SendUdp
from udpproxy.resolver.codec import Answer
from udpproxy.resolver.result import Failure, Kind

NAME = dns.name.from_text("www.example.org.")
SERVERS = tuple(NameServer(address=ip_address(f"192.0.2.{last}")) for last in (1, 2))
GOOD = Answer(addresses=(ip_address("198.51.100.1"),), ttl=300)


def ask(*, servers: int = 2, attempts: int = 2, first: int = 0) -> Ask:
    resolver = Resolver(
        servers=SERVERS[:servers], attempts=attempts, timeout=2.0, tcp_connect_timeout=1.0
    )
    return Ask(NAME, Kind.A, resolver, random.Random(1), first)


def sent(actions: list[Action]) -> bytes:
    """The query in the last action, which must send one."""
    assert isinstance(actions[-1], SendUdp | ConnectTcp)
    return actions[-1].data


def steps(actions: list[Action]) -> list[object]:
    """The actions without their bytes."""
    return [
        (type(action), action.server) if isinstance(action, SendUdp | ConnectTcp) else type(action)
        for action in actions
    ]


def response(query: bytes, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> dns.message.Message:
    message = dns.message.make_response(dns.message.from_wire(query))
    message.set_rcode(rcode)
    return message


def good(query: bytes) -> bytes:
    message = response(query)
    message.answer.append(dns.rrset.from_text(NAME, 300, "IN", "A", "198.51.100.1"))
    return message.to_wire()


def truncated(query: bytes) -> bytes:
    message = response(query)
    message.flags |= dns.flags.TC
    return message.to_wire()


def folded(query: bytes) -> bytes:
    end = 12 + sum(len(label) + 1 for label in NAME.labels)
    wire = good(query)
    return wire[:12] + wire[12:end].lower() + wire[end:]


def broken(query: bytes) -> bytes:
    return good(query)[:-1]


def failed(query: bytes, rcode: dns.rcode.Rcode = dns.rcode.SERVFAIL) -> bytes:
    return response(query, rcode).to_wire()


def has_edns(query: bytes) -> bool:
    return dns.message.from_wire(query).edns == 0


NEXT = [CloseSockets, (SendUdp, 1)]


def test_the_first_answer_is_it() -> None:
    machine = ask()
    assert machine.deadline == math.inf
    actions = machine.begin(10.0)
    assert steps(actions) == [(SendUdp, 0)]
    assert machine.deadline == 12.0
    assert machine.datagram(10.1, 0, good(sent(actions))) == [CloseSockets()]
    assert (machine.answer, machine.server, machine.ignored) == (GOOD, 0, 0)
    assert machine.deadline == math.inf


def test_no_server_no_try() -> None:
    machine = ask(servers=0)
    assert machine.begin(0.0) == []
    assert machine.answer == Answer(Failure.UNREACHABLE)


def test_silence_leads_through_all_servers_and_rounds() -> None:
    machine = ask()
    actions = machine.begin(0.0)
    assert machine.timer(1.9) == []
    seen = [(0, has_edns(sent(actions)))]
    for now in (2.0, 4.0, 6.0):
        actions = machine.timer(now)
        assert steps(actions[:1]) == [CloseSockets]
        seen.append((machine.server, has_edns(sent(actions))))
    assert seen == [(0, True), (1, True), (0, False), (1, False)]
    assert machine.timer(8.0) == [CloseSockets()]
    assert machine.answer == Answer(Failure.TIMEOUT)


def test_begins_where_it_is_told() -> None:
    machine = ask(first=1)
    assert steps(machine.begin(0.0)) == [(SendUdp, 1)]
    assert steps(machine.timer(2.0)) == [CloseSockets, (SendUdp, 0)]


def test_every_try_has_its_own_id_and_letters() -> None:
    machine = ask()
    queries = [sent(machine.begin(0.0))] + [sent(machine.timer(now)) for now in (2.0, 4.0, 6.0)]
    assert len({query[:2] for query in queries}) == 4
    assert len({query[12:28] for query in queries}) == 4


def test_forgeries_are_counted_and_waiting_goes_on() -> None:
    machine = ask()
    query = sent(machine.begin(0.0))
    other = bytes([query[0] ^ 1]) + query[1:]
    for data in (b"", b"\0" * 5, query, good(other), good(query)[:20], broken(query)):
        assert machine.datagram(0.1, 0, data) == []
    assert machine.datagram(0.1, 1, good(query)) == []
    assert (machine.ignored, machine.deadline) == (6, 2.0)
    machine.datagram(0.2, 0, good(query))
    assert machine.answer == GOOD


def test_only_unreadable_answers_are_malformed() -> None:
    machine = ask(servers=1, attempts=1)
    machine.datagram(0.1, 0, broken(sent(machine.begin(0.0))))
    machine.timer(2.0)
    assert machine.answer == Answer(Failure.MALFORMED)


def test_trouble_means_the_next_server_and_is_remembered() -> None:
    machine = ask(attempts=1)
    actions = machine.datagram(0.1, 0, failed(sent(machine.begin(0.0))))
    assert steps(actions) == NEXT
    assert machine.timer(2.1) == [CloseSockets()]
    assert machine.answer == Answer(Failure.SERVFAIL)


def test_a_denial_is_final() -> None:
    machine = ask()
    machine.datagram(0.1, 0, failed(sent(machine.begin(0.0)), dns.rcode.NXDOMAIN))
    assert machine.answer == Answer(Failure.NXDOMAIN)


def test_unreachable_means_the_next_server() -> None:
    machine = ask(attempts=1)
    machine.begin(0.0)
    assert machine.unreachable(0.1, 1) == []
    assert steps(machine.unreachable(0.1, 0)) == NEXT
    assert machine.unreachable(0.2, 1) == [CloseSockets()]
    assert machine.answer == Answer(Failure.UNREACHABLE)
    assert machine.unreachable(0.2, 1) == []


def test_without_edns_once_more_for_a_server_that_does_not_know_it() -> None:
    machine = ask()
    actions = machine.datagram(0.1, 0, failed(sent(machine.begin(0.0)), dns.rcode.FORMERR))
    assert steps(actions) == [CloseSockets, (SendUdp, 0)]
    assert not has_edns(sent(actions))
    actions = machine.datagram(0.2, 0, failed(sent(actions), dns.rcode.FORMERR))
    assert steps(actions) == NEXT
    assert has_edns(sent(actions))


def test_truncated_then_tcp() -> None:
    machine = ask()
    actions = machine.datagram(0.5, 0, truncated(sent(machine.begin(0.0))))
    assert steps(actions) == [CloseSockets, (ConnectTcp, 0)]
    assert machine.deadline == 1.5
    assert machine.datagram(0.6, 0, good(sent(actions))) == []
    assert machine.tcp_connected(0.7, 1) == []
    assert machine.tcp_connected(0.7, 0) == []
    assert machine.deadline == 2.7
    # TC says nothing over TCP.
    assert machine.tcp_answer(0.8, 1, good(sent(actions))) == []
    assert machine.tcp_answer(0.8, 0, truncated(sent(actions))) == [CloseSockets()]
    assert machine.answer == Answer(Failure.NODATA)
    assert machine.tcp_answer(0.8, 0, good(sent(actions))) == []
    assert machine.tcp_connected(0.8, 0) == []
    assert machine.tcp_failed(0.8, 0) == []


def over_tcp(machine: Ask) -> bytes:
    return sent(machine.datagram(0.5, 0, truncated(sent(machine.begin(0.0)))))


def test_tcp_that_never_connects_has_a_limit_of_its_own() -> None:
    machine = ask()
    over_tcp(machine)
    assert machine.timer(1.4) == []
    assert steps(machine.timer(1.5)) == NEXT
    assert machine.failure is Failure.TIMEOUT


def test_tcp_that_hangs() -> None:
    machine = ask()
    over_tcp(machine)
    machine.tcp_connected(0.6, 0)
    assert machine.timer(2.5) == []
    assert steps(machine.timer(2.6)) == NEXT


def test_tcp_that_fails_or_answers_something_else() -> None:
    machine = ask()
    over_tcp(machine)
    assert machine.tcp_failed(0.6, 1) == []
    assert steps(machine.tcp_failed(0.6, 0)) == NEXT
    assert machine.failure is Failure.UNREACHABLE
    for broken_off in (True, False):
        machine = ask()
        query = over_tcp(machine)
        data = broken(query) if broken_off else bytes(100)
        assert steps(machine.tcp_answer(0.6, 0, data)) == NEXT
        assert machine.failure is Failure.MALFORMED


def test_trouble_over_tcp() -> None:
    machine = ask()
    query = over_tcp(machine)
    assert steps(machine.tcp_answer(0.6, 0, failed(query))) == NEXT
    assert machine.failure is Failure.SERVFAIL


def test_a_server_that_folds_case_is_asked_over_tcp() -> None:
    machine = ask()
    query = sent(machine.begin(0.0))
    actions = machine.datagram(0.5, 0, folded(query))
    assert steps(actions) == [(ConnectTcp, 0)]
    assert machine.datagram(0.5, 0, folded(query)) == []
    assert machine.tcp_answer(0.6, 0, folded(sent(actions))) == [CloseSockets()]
    assert machine.answer == GOOD


def test_meanwhile_the_true_answer_still_counts() -> None:
    machine = ask()
    query = sent(machine.begin(0.0))
    machine.datagram(0.5, 0, folded(query))
    assert machine.tcp_failed(0.6, 0) == []
    assert machine.deadline == 2.0
    assert machine.datagram(0.7, 0, good(query)) == [CloseSockets()]
    assert (machine.answer, machine.ignored) == (GOOD, 1)


def test_case_folded_and_both_ways_silent() -> None:
    machine = ask()
    query = sent(machine.begin(0.0))
    machine.datagram(1.9, 0, folded(query))
    machine.tcp_connected(1.95, 0)
    # The UDP side ends first; TCP is still within its own limit.
    assert machine.timer(2.0) == []
    assert machine.deadline == 3.95
    assert steps(machine.timer(3.95)) == NEXT


def test_case_folded_then_truncated() -> None:
    machine = ask()
    query = sent(machine.begin(0.0))
    machine.datagram(0.5, 0, folded(query))
    assert machine.datagram(0.6, 0, truncated(query)) == []
    assert steps(machine.tcp_failed(0.7, 0)) == NEXT
    machine = ask()
    query = sent(machine.begin(0.0))
    machine.datagram(0.5, 0, folded(query))
    machine.tcp_failed(0.6, 0)
    assert steps(machine.datagram(0.7, 0, truncated(query))) == NEXT


def test_both_sides_end_at_once() -> None:
    machine = ask()
    machine.datagram(1.0, 0, folded(sent(machine.begin(0.0))))
    assert machine.deadline == 2.0
    assert steps(machine.timer(2.0)) == NEXT
