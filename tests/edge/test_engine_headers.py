"""PROXY headers in both directions, in both engines: whose a datagram is, who gets the reply."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from rig import ENGINES, Endpoint, Rig, has_nothing, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.proxy_header import make, parse
from udpproxy.proxy.session.reasons import Reason

TYPES = list(SessionType)
HOSTS = {"127.0.0.1": "127.0.0.0/8", "0.0.0.0": "127.0.0.0/8", "::1": "::1/128", "::": "::1/128"}
LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")
ALICE, BOB, SERVICE = ("192.0.2.7", 4000), ("192.0.2.8", 4000), ("198.51.100.1", 5353)
CAROL, SERVICE6 = ("2001:db8::7", 4000), ("2001:db8::53", 5353)


def packed(end: Endpoint) -> tuple[bytes, int]:
    return ip_address(end[0]).packed, end[1]


def header(client: Endpoint, addressed: Endpoint) -> bytes:
    """As another proxy would write it."""
    return make("v2", packed(client), packed(addressed), 99)


def own(address: str) -> str:
    """An address of ours to which a listener there listens."""
    return "::1" if ":" in address else "127.0.0.1"


def behind(rig: Rig, address: str = "127.0.0.1") -> tuple[socket.socket, socket.socket, Endpoint]:
    """A balancer, a server, and the listener that believes the balancer."""
    number = rig.listen(address, header_from=[HOSTS[address]])
    host = own(address)
    server = rig.udp(host)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2])
    return rig.udp(host), server, (host, rig.where(number)[1])


def the_record(rig: Rig) -> Record:
    [(_, record)] = rig.table.records()
    return record


@pytest.mark.parametrize("address", HOSTS)
@pytest.mark.parametrize(("client", "service"), [(ALICE, SERVICE), (CAROL, SERVICE6)])
def test_the_client_is_the_headers(
    rig: Rig, address: str, client: Endpoint, service: Endpoint
) -> None:
    """Whatever the family of the listener is; replies go to the sender, without a header."""
    balancer, server, to = behind(rig, address)
    for _ in range(3):
        balancer.sendto(header(client, service) + b"question", to)
        data, source = rig.take(server)
        assert data == b"question"
        server.sendto(b"answer", source)
        assert rig.take(balancer) == (b"answer", to)
    assert rig.host.asked == [(1, client[0], service[0])]
    assert rig.host.ports == [service[1]]
    record = the_record(rig)
    assert (record.client, record.via) == (packed(client), packed(balancer.getsockname()[:2]))
    assert (record.addressed, record.addressed_port) == packed(service)
    assert record.local == ip_address(own(address)).packed
    assert (record.uploads, record.upload_bytes) == (3, 24)


def test_each_client_has_a_session_of_its_own(rig: Rig) -> None:
    """By sender, client, address and port; the same sender can be a client itself."""
    balancer, server, to = behind(rig)
    other = rig.udp()
    heads = [header(ALICE, SERVICE), header(BOB, SERVICE), header(ALICE, ("198.51.100.1", 53))]
    heads += [header(ALICE, ("198.51.100.2", 5353)), header(("192.0.2.7", 4001), SERVICE), LOCAL]
    ways = [(balancer, head) for head in heads] + [(other, heads[0])]
    sources: dict[int, Endpoint] = {}
    for turn in range(2):
        for number, (sender, head) in enumerate(ways):
            sender.sendto(head + b"%d" % number, to)
            data, source = rig.take(server)
            assert data == b"%d" % number
            assert sources.setdefault(number, source) == source, turn
    assert len(set(sources.values())) == len(ways)
    for number, (sender, _) in enumerate(ways):
        server.sendto(b"to %d" % number, sources[number])
        assert rig.take(sender) == (b"to %d" % number, to)


@pytest.mark.parametrize("address", HOSTS)
def test_a_proxy_that_speaks_for_itself(rig: Rig, address: str) -> None:
    balancer, server, to = behind(rig, address)
    balancer.sendto(LOCAL + b"alive?", to)
    data, source = rig.take(server)
    assert data == b"alive?"
    server.sendto(b"yes", source)
    assert rig.take(balancer) == (b"yes", to)
    record = the_record(rig)
    assert (record.client, record.via) == (packed(balancer.getsockname()[:2]), None)
    assert (record.addressed, record.addressed_port) == packed(to)


BAD = {
    "none": b"question",
    "empty": b"",
    "v1": b"PROXY UDP4 192.0.2.7 198.51.100.1 4000 5353\r\nquestion",
    "short": header(ALICE, SERVICE)[:27],
    "TCP": header(ALICE, SERVICE)[:13] + b"\x11" + header(ALICE, SERVICE)[14:],
    "UNSPEC": header(ALICE, SERVICE)[:13] + b"\x00" + header(ALICE, SERVICE)[14:],
    "wrong family": header(ALICE, SERVICE)[:13] + b"\x22" + header(ALICE, SERVICE)[14:],
    "too long": header(ALICE, SERVICE)[:14] + b"\xff\xff" + header(ALICE, SERVICE)[16:],
    "TLV": header(ALICE, SERVICE)[:-3] + b"\x03" + header(ALICE, SERVICE)[-2:],
    "mapped": make("v2", (bytes(10) + b"\xff\xff\xc0\0\2\7", 1), packed(CAROL), 1),
    "spp": make("spp", packed(ALICE), packed(SERVICE), 1),
}


@pytest.mark.parametrize("address", HOSTS)
def test_a_bad_header_is_dropped_and_counted(rig: Rig, address: str) -> None:
    """Also where its sender has a session."""
    balancer, server, to = behind(rig, address)
    balancer.sendto(LOCAL + b"first", to)
    assert rig.take(server)[0] == b"first"
    for data in BAD.values():
        balancer.sendto(data + (b"question" if data else b""), to)
    rig.until(lambda: rig.has_counted("bad-header", len(BAD)))
    balancer.sendto(header(ALICE, SERVICE) + b"last", to)
    assert rig.take(server)[0] == b"last"
    assert rig.host.refusals == ["bad-header"] * len(BAD)
    assert len(rig.host.asked) == 2


def test_strangers_are_believed_nothing(rig: Rig) -> None:
    number = rig.listen(header_from=["127.0.0.2/31", "127.0.0.9", "::/0"])
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    to = rig.where(number)
    for last in (1, 4, 8, 10):
        for data in (header(ALICE, SERVICE), LOCAL):
            rig.udp(f"127.0.0.{last}").sendto(data + b"stranger", to)
    rig.until(lambda: rig.has_counted("bad-header", 8))
    for last in (2, 3, 9):
        rig.udp(f"127.0.0.{last}").sendto(header(ALICE, SERVICE) + b"friend", to)
        assert rig.take(server)[0] == b"friend"
    assert has_nothing(server)


def test_what_we_sent_ourselves_opens_nothing(rig: Rig) -> None:
    """It is the real sender that counts, not what a header says."""
    balancer, server, to = behind(rig)
    balancer.sendto(header(ALICE, SERVICE) + b"question", to)
    _, source = rig.take(server)
    # Its own socket towards a server is the sender now.
    number = rig.listen()
    rig.host.policy = lambda _: verdict(to, header="v2")
    rig.udp().sendto(b"round and round", rig.where(number))
    rig.until(lambda: rig.has_counted("refused-own-socket", 1))
    balancer.sendto(header(source, SERVICE) + b"what a header says", to)
    rig.host.policy = lambda _: verdict(server.getsockname())
    assert rig.take(server)[0] == b"what a header says"


def test_the_cap_is_the_clients(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(per_client=1)
    balancer, server, to = behind(rig)
    for client in (ALICE, BOB):
        balancer.sendto(header(client, SERVICE) + b"first", to)
        rig.take(server)
    balancer.sendto(header(("192.0.2.7", 1), SERVICE) + b"second", to)
    rig.until(lambda: rig.has_counted("refused-per-client", 1))
    assert rig.engine.kill(1)
    balancer.sendto(header(("192.0.2.7", 1), SERVICE) + b"again", to)
    assert rig.take(server)[0] == b"again"


@pytest.mark.parametrize("address", HOSTS)
@pytest.mark.parametrize("crash", [False, True])
def test_such_sessions_survive(rig: Rig, address: str, *, crash: bool) -> None:
    balancer, server, to = behind(rig, address)
    sources = {}
    ways = {b"alice": header(ALICE, SERVICE), b"carol": header(CAROL, SERVICE6), b"me": LOCAL}
    for name, head in ways.items():
        balancer.sendto(head + name, to)
        data, sources[name] = rig.take(server)
        assert data == name
    before = list(rig.table.records())
    rig.crash() if crash else rig.stop()
    assert rig.restart() == len(ways)
    assert list(rig.table.records()) == before
    for name, head in ways.items():
        server.sendto(b"late answer", sources[name])
        assert rig.take(balancer) == (b"late answer", to)
        balancer.sendto(head + b"more", to)
        assert rig.take(server) == (b"more", sources[name])


@pytest.mark.parametrize("address", HOSTS)
def test_each_engine_goes_on_where_the_other_left(
    new_rig: Callable[..., Rig], address: str
) -> None:
    rig = new_rig()
    balancer, server, to = behind(rig, address)
    balancer.sendto(header(ALICE, SERVICE) + b"question", to)
    _, source = rig.take(server)
    for make_engine in ENGINES.values():
        rig.stop()
        rig.use(make_engine)
        assert rig.restart() == 1
        balancer.sendto(header(ALICE, SERVICE) + b"more", to)
        assert rig.take(server) == (b"more", source)
        server.sendto(b"answer", source)
        assert rig.take(balancer) == (b"answer", to)


def test_what_a_listener_expects_can_change(rig: Rig) -> None:
    """A reload; the host says what becomes of sessions."""
    number = rig.listen()
    balancer, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    to = rig.where(number)
    rig.converse(balancer, server, to)
    rig.engine.expect_headers(number, (ip_network("127.0.0.0/8"),))
    balancer.sendto(b"without", to)
    rig.until(lambda: rig.has_counted("bad-header", 1))
    balancer.sendto(header(ALICE, SERVICE) + b"with", to)
    assert rig.take(server)[0] == b"with"
    rig.engine.expect_headers(number, (ip_network("127.0.0.9"),))
    balancer.sendto(header(BOB, SERVICE) + b"from a stranger", to)
    rig.until(lambda: rig.has_counted("bad-header", 2))
    rig.engine.expect_headers(number, ())
    balancer.sendto(header(ALICE, SERVICE) + b"as it is", to)
    assert rig.take(server)[0] == header(ALICE, SERVICE) + b"as it is"


# ---- towards servers ----


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.value)
@pytest.mark.parametrize("what", ["v2", "spp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1"])
def test_each_datagram_to_the_server_begins_with_a_header(
    rig: Rig, kind: SessionType, what: str, address: str
) -> None:
    rig.listen(address)
    host = own(address)
    client, server = rig.udp(host), rig.udp(host)
    network = "::/0" if ":" in address else "127.0.0.0/8"
    there = server.getsockname()[:2]
    rig.host.policy = lambda _: verdict(there, kind, network=network, header=what)
    to = host, rig.where()[1]
    wanted = make(what, packed(client.getsockname()[:2]), packed(to), 1)
    for number in range(4):
        client.sendto(b"question %d" % number, to)
        data, source = rig.take(server)
        assert data == wanted + b"question %d" % number
        if kind is not SessionType.ONE_WAY and number:
            server.sendto(b"answer", source)
            assert rig.take(client) == (b"answer", to)
    record = the_record(rig)
    assert (record.uploads, record.upload_bytes) == (4, 40), "the client's own bytes"


def test_a_run_of_datagrams_has_a_header_each(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), header="v2")
    wanted = make("v2", packed(client.getsockname()), packed(rig.where()), 1)
    client.sendto(b"first", rig.where())
    assert rig.take(server)[0] == wanted + b"first"
    for number in range(40):
        client.sendto(bytes([number]) * 100, rig.where())
    for number in range(40):
        assert rig.take(server)[0] == wanted + bytes([number]) * 100


def test_the_clients_own_address_is_the_headers(rig: Rig) -> None:
    """Where the server is to be written to from there."""
    balancer, server, to = behind(rig)
    rig.host.policy = lambda _: verdict(server.getsockname(), sources=("",), fallback=False)
    balancer.sendto(header(("127.0.0.77", 4000), SERVICE) + b"question", to)
    data, source = rig.take(server)
    assert (data, source[0]) == (b"question", "127.0.0.77")


def test_behind_a_proxy_the_first_client_is_passed_on(rig: Rig) -> None:
    balancer, server, to = behind(rig)
    rig.host.policy = lambda _: verdict(server.getsockname(), header="v2")
    for number, (client, service) in enumerate([(ALICE, SERVICE), (CAROL, SERVICE6)], 1):
        balancer.sendto(header(client, service) + b"question", to)
        data, _ = rig.take(server)
        found = parse(data)
        assert found
        assert (found.client, found.addressed) == (packed(client), packed(service))
        assert data == make("v2", packed(client), packed(service), number) + b"question"


@pytest.mark.parametrize("what", ["v2", "spp"])
@pytest.mark.parametrize("handed", [False, True])
def test_what_is_too_long_with_its_header(rig: Rig, what: str, *, handed: bool) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), header=what, handed=handed)
    most = 65_507 - len(make(what, packed(client.getsockname()), packed(rig.where()), 1))
    for size in (most + 1, 65_507, most):
        client.sendto(bytes(size), rig.where())
    assert len(rig.take(server)[0]) == 65_507
    rig.until(lambda: rig.has_counted("too-long", 2))
    assert rig.host.failures == ["put a PROXY header before a datagram"] * 2
    assert rig.count("send-errors") == 0
    record = the_record(rig)
    assert (record.uploads, record.upload_bytes) == (1, most)


def test_a_simple_header_is_taken_off_the_answers(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), header="spp", handed=handed)
    for handed in (False, True):
        head = make("spp", packed(client.getsockname()), packed(rig.where()), 1)
        other = make("spp", packed(ALICE), packed(rig.where()), 1)
        client.sendto(b"question", rig.where())
        data, source = rig.take(server)
        assert data == head + b"question"
        answers = b"answer", b"", b"\x56\xec is my number", other
        for answer in answers:
            server.sendto(head + answer, source)
            assert rig.take(client)[0] == answer
            server.sendto(answer, source)
            assert rig.take(client)[0] == answer
        assert rig.host.handed_over[1:2] == ([(2, "download", b"answer")] if handed else [])
        assert the_record(rig).download_bytes == 2 * sum(map(len, answers))
        assert rig.engine.kill(1 + handed)


def test_limits_count_what_the_client_says(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    limits = Limits(upload_bytes=10)
    rig.host.policy = lambda _: verdict(server.getsockname(), header="v2", limits=limits)
    client.sendto(bytes(10), rig.where())
    rig.take(server)
    client.sendto(b"x", rig.where())
    record = rig.expect_end(1, Reason.UPLOAD_BYTES)
    assert record.upload_bytes == 10


def test_a_reload_changes_the_header(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), header=what)
    for what in ("", "v2", "spp", ""):
        rig.engine.reconsider()
        client.sendto(b"question", rig.where())
        head = make(what, packed(client.getsockname()), packed(rig.where()), 1)
        assert rig.take(server)[0] == head + b"question"


def test_an_extension_sees_no_header(rig: Rig) -> None:
    balancer, server, to = behind(rig)
    rig.host.policy = lambda _: verdict(server.getsockname(), header="v2", handed=True)
    balancer.sendto(header(ALICE, SERVICE) + b"question", to)
    _, source = rig.take(server)
    server.sendto(b"answer", source)
    assert rig.take(balancer) == (b"answer", to)
    assert [data for _, _, data in rig.host.handed_over] == [b"question", b"answer"]


def test_a_server_that_moves_gets_headers_too(rig: Rig) -> None:
    rig.listen()
    client, server, another = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), header="v2")
    head = make("v2", packed(client.getsockname()), packed(rig.where()), 1)
    client.sendto(b"one", rig.where())
    assert rig.take(server)[0] == head + b"one"
    assert rig.engine.redirect(1, another.getsockname())
    client.sendto(b"two", rig.where())
    assert rig.take(another)[0] == head + b"two"


def test_any_bytes(new_rig: Callable[..., Rig]) -> None:
    """What cannot be read is counted, what can is passed on; nothing else happens."""
    rig = new_rig(sessions=200)
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    balancer, server, to = behind(rig)
    rig.host.policy = lambda client: verdict(server.getsockname()) if client == ALICE[0] else None
    good = [header(ALICE, SERVICE), header(CAROL, SERVICE6), LOCAL]
    for _ in range(500):
        data = bytearray(rng.choice(good) + rng.randbytes(rng.randrange(40)))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        balancer.sendto(data[: rng.randrange(len(data) + 1)], to)
        rig.turn()
    balancer.sendto(header(ALICE, SERVICE) + b"last", to)
    last = b""
    while last != b"last":
        last, _ = rig.take(server)
    assert rig.count("bad-header") > 100, seed
    assert not rig.host.failures, seed
