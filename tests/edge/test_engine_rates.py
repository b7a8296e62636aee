"""What clients may not exceed: rates of sessions and datagrams, to the last one; and what a server
may answer, to the last byte (SPEC 3)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from rig import SECOND, Endpoint, Rig, has_nothing, verdict
from udpproxy.config.model import Rate
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.engine.interface import Verdict
from udpproxy.proxy.session.limits import Pace, pace
from udpproxy.proxy.session.proxy_header import make
from udpproxy.proxy.session.reasons import Reason

NewRig = Callable[..., Rig]
HOUR = 3600 * SECOND
SERVICE6 = (ip_address("2001:db8:ffff::53").packed, 53)


def at_once(count: int) -> Pace:
    """So many, and no more while a test runs."""
    return Pace(HOUR, count * HOUR) if count else Pace()


def paced(
    server: socket.socket,
    *,
    new: int = 0,
    sent: int = 0,
    limits: Limits | None = None,
    rule: str = "rule",
    handed: bool = False,
) -> Verdict:
    made = verdict(server.getsockname()[:2], limits=limits, rule=rule, handed=handed)
    budget = replace(made.budget, new_sessions=at_once(new), datagrams=at_once(sent))
    return replace(made, budget=budget)


def sends(client: socket.socket, count: int, to: Endpoint) -> None:
    for number in range(count):
        client.sendto(b"%d" % number, to)


def taken(rig: Rig, server: socket.socket, count: int) -> list[bytes]:
    """Just so many datagrams, and no more."""
    found = [rig.take(server)[0] for _ in range(count)]
    rig.until(rig.is_quiet)
    assert has_nothing(server)
    return found


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_client_opens_so_many_sessions_and_others_lose_none(rig: Rig, address: str) -> None:
    number = rig.listen(address)
    to = ("127.0.0.1", rig.where(number)[1])
    server = rig.udp()
    rig.host.policy = lambda _: paced(server, new=3)
    many = [rig.udp("127.0.0.2") for _ in range(5)]
    others = [rig.udp(f"127.0.0.{host}") for host in (3, 4, 5)]
    for client in [*many, *others]:
        client.sendto(client.getsockname()[0].encode(), to)
    assert sorted(taken(rig, server, 6)) == [b"127.0.0.2"] * 3 + [
        b"127.0.0.3", b"127.0.0.4", b"127.0.0.5"
    ]  # fmt: skip
    assert rig.host.refusals == ["refused-rate"] * 2
    assert rig.count("refused-rate") == 2
    assert rig.engine.sessions == 6
    for client in many[:3]:
        rig.converse(client, server, to)
    many[4].sendto(b"still not", to)
    rig.until(lambda: rig.has_counted("refused-rate", 3))


def test_a_second_brings_as_many_again(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(new_sessions_per_client=Rate(5), upload_datagrams=1)
    rig.host.policy = lambda _: verdict(server.getsockname(), SessionType.ONE_WAY, limits=limits)
    begin, tries = time.monotonic(), 0
    while time.monotonic() < begin + 1.5:
        client.sendto(b"x", rig.where())
        tries += 1
        while len(rig.host.opened_ids) + len(rig.host.refusals) < tries:
            rig.turn(0.001)
        time.sleep(0.01)
    took = time.monotonic() - begin
    assert 5 + int(1.4 * 5) <= len(rig.host.opened_ids) <= 5 + took * 5


def test_ended_sessions_count_as_well(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: paced(server, new=2)
    for number in (1, 2):
        rig.converse(client, server, rig.where())
        assert rig.engine.kill(number)
    client.sendto(b"one more", rig.where())
    rig.until(lambda: rig.host.refusals == ["refused-rate"])
    assert has_nothing(server)


def test_each_rule_counts_for_itself(rig: Rig) -> None:
    first, second = rig.listen(), rig.listen()
    server, ports = rig.udp(), [rig.where(number)[1] for number in (first, second)]
    names = {ports[0]: "one", ports[1]: "other"}
    rig.host.policy = lambda _: paced(server, new=2, rule=names[rig.host.ports[-1]])
    for tries, port in enumerate(ports * 3, 1):
        rig.udp().sendto(b"x", ("127.0.0.1", port))
        while len(rig.host.opened_ids) + len(rig.host.refusals) < tries:
            rig.turn(0.001)
    assert rig.host.refusals == ["refused-rate"] * 2
    assert len(taken(rig, server, 4)) == 4


@pytest.mark.parametrize("prefix6", [64, 128, 48])
@pytest.mark.parametrize("what", ["sessions", "rate", "datagrams"])
def test_a_client_of_ipv6_is_a_prefix(new_rig: NewRig, what: str, prefix6: int) -> None:
    rig = new_rig(per_client=2 if what == "sessions" else 0, prefix6=prefix6)
    to = ("::1", rig.where(rig.listen("::1", header_from=["::1/128"]))[1])
    balancer, server = rig.udp("::1"), rig.udp("::1")
    new, sent = 2 * (what == "rate"), 2 * (what == "datagrams")
    rig.host.policy = lambda _: paced(server, new=new, sent=sent)
    hosts = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1", "2001:db8:1::1"]
    for host in hosts:
        head = make("v2", (ip_address(host).packed, 4000), SERVICE6, 0)
        balancer.sendto(head + host.encode(), to)
    refused = {64: hosts[2:3], 128: [], 48: hosts[2:4]}[prefix6]
    wanted = [host.encode() for host in hosts if host not in refused]
    assert taken(rig, server, len(wanted)) == wanted
    counter = "refused-per-client" if what == "sessions" else "refused-rate"
    assert rig.host.refusals == [counter] * len(refused)


def test_neighbours_on_a_link_count_each_for_itself(new_rig: NewRig) -> None:
    rig = new_rig(per_client=1)
    to = ("::1", rig.where(rig.listen("::1", header_from=["::1/128"]))[1])
    balancer, server = rig.udp("::1"), rig.udp("::1")
    rig.host.policy = lambda _: paced(server, new=1, sent=1)
    for host in ("fe80::1", "fe80::2", "fe80::3"):
        head = make("v2", (ip_address(host).packed, 4000), SERVICE6, 0)
        balancer.sendto(head + host.encode(), to)
    assert taken(rig, server, 3) == [b"fe80::1", b"fe80::2", b"fe80::3"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
@pytest.mark.parametrize("handed", [False, True])
def test_a_clients_datagrams_are_passed_to_the_last(
    rig: Rig, address: str, *, handed: bool
) -> None:
    number = rig.listen(address)
    host = "::1" if ":" in address else "127.0.0.1"
    to = (host, rig.where(number)[1])
    server, client, same, other = rig.udp(host), rig.udp(host), rig.udp(host), rig.udp("127.0.0.9")
    rig.host.policy = lambda _: paced(server, sent=7, handed=handed)
    rig.converse(client, server, to)
    rig.converse(same, server, to)
    sends(client, 8, to)
    assert taken(rig, server, 5) == [b"0", b"1", b"2", b"3", b"4"]
    same.sendto(b"of the same client", to)
    rig.until(lambda: rig.has_counted("dropped-rate", 4))
    assert (rig.engine.sessions, rig.host.reasons, rig.host.refusals) == (2, {}, [])
    assert [data for _, way, data in rig.host.handed_over if way == "upload"] == (
        [b"question"] * 2 + [b"0", b"1", b"2", b"3", b"4"] if handed else []
    )
    if ":" not in address:
        sends(other, 7, to)
        assert len(taken(rig, server, 7)) == 7
    rig.pass_time(61)
    record = rig.expect_end(1, Reason.IDLE)
    assert (record.uploads, record.dropped) == (6, 3)
    assert rig.host.records[2].dropped == 1


def test_replies_are_not_counted(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: paced(server, sent=1)
    source = rig.converse(client, server, rig.where())
    for _ in range(9):
        server.sendto(b"more", source)
        assert rig.take(client)[0] == b"more"


def test_what_all_that_wait_would_be_too_much_is_looked_at_singly(rig: Rig) -> None:
    """A run of datagrams goes as one where all of it may."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: paced(server, sent=40)
    sends(client, 1, rig.where())
    rig.take(server)
    sends(client, 20, rig.where())
    assert taken(rig, server, 20) == [b"%d" % number for number in range(20)]
    sends(client, 30, rig.where())
    assert taken(rig, server, 19) == [b"%d" % number for number in range(19)]
    assert rig.count("dropped-rate") == 11


def test_no_session_opens_whose_first_datagram_may_not_pass(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: paced(server, sent=2, limits=Limits(upload_datagrams=1))
    sends(client, 4, rig.where())
    assert taken(rig, server, 2) == [b"0", b"1"]
    assert rig.host.refusals == ["refused-rate"] * 2
    assert (rig.engine.sessions, rig.count("dropped-rate")) == (2, 0)


@pytest.mark.parametrize("crash", [False, True])
def test_a_new_relay_begins_anew(rig: Rig, *, crash: bool) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: paced(server, sent=2)
    rig.converse(client, server, rig.where())
    sends(client, 3, rig.where())
    taken(rig, server, 1)
    rig.crash() if crash else rig.stop()
    assert rig.restart() == 1
    sends(client, 3, rig.where())
    assert taken(rig, server, 2) == [b"0", b"1"]
    assert rig.count("dropped-rate") == 3
    rig.pass_time(61)
    assert rig.expect_end(1, Reason.IDLE).dropped == 3


def test_a_reload_forgets_nothing_but_by_another_name(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: paced(server, new=1, sent=2)
    rig.converse(client, server, rig.where())
    rig.engine.reconsider()
    sends(client, 2, rig.where())
    assert taken(rig, server, 1) == [b"0"]
    rig.udp().sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals == ["refused-rate"])
    rig.host.policy = lambda _: paced(server, new=1, sent=2, rule="renamed")
    rig.engine.reconsider()
    sends(client, 3, rig.where())
    assert taken(rig, server, 2) == [b"0", b"1"]
    rig.host.policy = lambda _: paced(server)
    rig.engine.reconsider()
    sends(client, 3, rig.where())
    assert len(taken(rig, server, 3)) == 3
    assert rig.count("dropped-rate") == 2


def test_all_together_open_so_many_before_anybody_is_asked(rig: Rig) -> None:
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: paced(server)
    rig.engine.limit_openings(at_once(3))
    clients = [rig.udp(f"127.0.0.{host}") for host in range(2, 8)]
    for client in clients[:3]:
        rig.converse(client, server, rig.where())
    for client in clients[3:]:
        client.sendto(b"x", rig.where())
    rig.until(lambda: rig.has_counted("refused-rate", 3))
    assert rig.host.refusals == ["refused-rate"] * 3
    assert len(rig.host.asked) == 3
    for client in clients[:3]:
        rig.converse(client, server, rig.where())
    assert has_nothing(server)
    rig.engine.limit_openings(Pace())
    rig.converse(clients[3], server, rig.where())


def test_those_that_came_together_are_counted_too(rig: Rig) -> None:
    """Several are asked about before the first of them opens."""
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: paced(server)
    rig.engine.limit_openings(at_once(3))
    for host in range(2, 8):
        rig.udp(f"127.0.0.{host}").sendto(b"x", rig.where())
    assert len(taken(rig, server, 3)) == 3
    assert rig.host.refusals == ["refused-rate"] * 3


def test_newcomers_that_may_not_open_evict_nobody(new_rig: NewRig) -> None:
    rig = new_rig(sessions=2, evict=True)
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: paced(server, new=1)
    for host in (2, 3, 2, 3):
        rig.udp(f"127.0.0.{host}").sendto(b"x", rig.where())
    rig.until(lambda: len(rig.host.refusals) == 2)
    assert set(rig.host.refusals) == {"refused-rate"}
    assert (rig.host.reasons, rig.count("evicted")) == ({}, 0)


def test_what_is_refused_for_want_of_room_is_not_paid(new_rig: NewRig) -> None:
    rig = new_rig(sessions=2)
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: paced(server, new=3)
    rig.engine.limit_openings(at_once(3))
    clients = [rig.udp() for _ in range(5)]
    for client in clients[:4]:
        client.sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals == ["refused-table-full"] * 2)
    assert rig.engine.kill(1)
    rig.take(server)
    rig.take(server)
    rig.converse(clients[4], server, rig.where())


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_amplification_to_the_last_byte(rig: Rig, kind: SessionType, address: str) -> None:
    number = rig.listen(address)
    to = ("127.0.0.1", rig.where(number)[1])
    client, server = rig.udp(), rig.udp()
    limits = Limits(amplification=3)
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, limits=limits)
    client.sendto(bytes(10), to)
    _, source = rig.take(server)
    for size, passes in ((543, False), (542, True), (1, False), (0, True)):
        server.sendto(bytes(size), source)
        if passes:
            assert len(rig.take(client)[0]) == size
        else:
            before = rig.count("dropped-amplification")
            while rig.count("dropped-amplification") == before:
                rig.turn(0.001)
    client.sendto(bytes(100), to)
    rig.take(server)
    for size in (301, 300):
        server.sendto(bytes(size), source)
    assert len(rig.take(client)[0]) == 300
    assert has_nothing(client)
    assert rig.count("dropped-amplification") == 3
    rig.pass_time(61)
    record = rig.expect_end(1, Reason.IDLE)
    assert (record.upload_bytes, record.download_bytes, record.dropped) == (110, 842, 3)


def test_amplification_counts_a_burst_of_replies(rig: Rig) -> None:
    """Several are read before the first of them has left."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(amplification=1, download_bytes=10_000)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits)
    source = rig.converse(client, server, rig.where())
    for _ in range(40):
        server.sendto(b"s" * 20, source)
        rig.turn()
    client.sendto(bytes(1), rig.where())
    rig.take(server)
    # The answer had 6 bytes; 8 and 1 have gone up.
    passed = (512 + 9 - 6) // 20
    rig.until(lambda: rig.has_counted("dropped-amplification", 40 - passed))
    assert sum(1 for _ in range(passed) if len(rig.take(client)[0]) == 20) == passed
    assert has_nothing(client)


def test_too_large_a_reply_does_not_end_a_session_that_counts_bytes(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(amplification=1, download_bytes=1000)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits)
    source = rig.converse(client, server, rig.where())
    server.sendto(bytes(5000), source)
    rig.until(lambda: rig.has_counted("dropped-amplification", 1))
    rig.converse(client, server, rig.where())
    assert rig.host.reasons == {}


def test_what_the_host_answers_is_amplified_as_well(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(
        server.getsockname(), limits=Limits(amplification=1), handed=True
    )
    rig.host.treat = lambda way, data: ("download", data * 100)
    client.sendto(b"x" * 5, rig.where())
    assert rig.take(client)[0] == b"x" * 500
    client.sendto(b"x" * 5, rig.where())
    rig.until(lambda: rig.has_counted("dropped-amplification", 1))
    assert has_nothing(client)


def test_the_pace_of_a_rate_is_the_engines(rig: Rig) -> None:
    """A rate of the file goes through both engines' hands as it is."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(datagrams_per_client=Rate(1, "h"))
    assert pace(limits.datagrams_per_client) == at_once(1)
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=limits)
    sends(client, 3, rig.where())
    assert taken(rig, server, 1) == [b"0"]
    assert rig.count("dropped-rate") == 2
