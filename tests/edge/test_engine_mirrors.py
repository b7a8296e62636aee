"""mirror-to in both engines: others get what the server gets, and nothing of theirs matters."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence

import pytest

from rig import Endpoint, Rig, has_nothing, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.session.proxy_header import make
from udpproxy.proxy.session.reasons import Reason

HOSTS = {"127.0.0.1": "127.0.0.2", "::1": "::1"}
"""Where clients and servers are, and who gets copies."""
DATAGRAMS = [b"%d " % number + bytes(number * 7 % 1400) for number in range(300)]


def end(sock: socket.socket) -> Endpoint:
    name = sock.getsockname()
    return name[0], name[1]


def closed(rig: Rig, host: str) -> Endpoint:
    """A port at which nobody is."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.bind((host, 0))
        return end(it)


def mirrored(rig: Rig, host: str, *receivers: Endpoint, **more: object) -> socket.socket:
    """A server whose datagrams these get, too."""
    server = rig.udp(host)
    rig.mirror(*dict.fromkeys(receiver[0] for receiver in receivers))
    made = verdict(end(server), mirrors=receivers, **more)  # type: ignore[arg-type]
    rig.host.policy = lambda _: made
    return server


def taken(rig: Rig, sock: socket.socket, count: int) -> list[bytes]:
    return [rig.take(sock)[0] for _ in range(count)]


@pytest.mark.parametrize("host", HOSTS)
def test_everybody_gets_everything(rig: Rig, host: str) -> None:
    """Though one is not there and one never reads: in order, byte for byte."""
    other = HOSTS[host]
    good, again, deaf = rig.udp(other), rig.udp(other), rig.udp(other)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    receivers = [closed(rig, other), end(deaf), end(good), end(again)]
    number = rig.listen(host)
    server, client = mirrored(rig, host, *receivers), rig.udp(host)
    for first in range(0, len(DATAGRAMS), 50):
        part = DATAGRAMS[first : first + 50]
        for data in part:
            client.sendto(data, rig.where(number))
        for sock in (server, good, again):
            assert taken(rig, sock, len(part)) == part
    assert rig.count("mirrored") == 4 * len(DATAGRAMS)
    assert rig.count("mirror-errors") == 0
    assert rig.count("icmp-errors") == 0
    assert rig.host.uncopied == []


@pytest.mark.parametrize("host", HOSTS)
def test_their_answers_reach_nobody(rig: Rig, host: str) -> None:
    receiver = rig.udp(HOSTS[host])
    number = rig.listen(host)
    server, client = mirrored(rig, host, end(receiver)), rig.udp(host)
    rig.converse(client, server, rig.where(number))
    data, source = rig.take(receiver)
    assert data == b"question"
    receiver.sendto(b"an answer that nobody asked for", source)
    rig.converse(client, server, rig.where(number))
    assert has_nothing(client)
    assert rig.host.strays == []
    assert source[1] == end(next(iter(rig.mirrors.values())))[1]


@pytest.mark.parametrize("host", HOSTS)
def test_what_cannot_be_sent_is_counted(rig: Rig, host: str) -> None:
    """The original and the others do not notice; the host is told now and then."""
    nowhere = ("255.255.255.255", 9) if host == "127.0.0.1" else ("::1", 0)
    receiver = rig.udp(HOSTS[host])
    number = rig.listen(host)
    server, client = mirrored(rig, host, nowhere, end(receiver)), rig.udp(host)
    for data in DATAGRAMS[:40]:
        client.sendto(data, rig.where(number))
    for sock in (server, receiver):
        assert taken(rig, sock, 40) == DATAGRAMS[:40]
    rig.until(lambda: rig.count("mirror-errors") == 40)
    assert rig.count("mirrored") == 40
    assert rig.count("send-errors") == 0
    rig.until(lambda: rig.host.uncopied)
    assert {(where, why) for where, why, _ in rig.host.uncopied} == {
        (nowhere, errno.EACCES if host == "127.0.0.1" else errno.EINVAL)
    }
    assert sum(count for *_, count in rig.host.uncopied) <= 40


def test_one_without_a_socket(rig: Rig) -> None:
    receiver = rig.udp("127.0.0.2")
    number = rig.listen()
    server, client = mirrored(rig, "127.0.0.1", end(receiver), ("127.0.0.3", 9)), rig.udp()
    del rig.mirrors[socket.inet_aton("127.0.0.3")]
    rig.engine.take_mirrors(rig.mirrors)
    rig.converse(client, server, rig.where(number))
    assert rig.take(receiver)[0] == b"question"
    rig.until(lambda: rig.has_counted("mirror-errors", 1))


@pytest.mark.parametrize("kind", ["v2", "spp"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_copy_has_the_header_of_the_original(rig: Rig, host: str, kind: str) -> None:
    receiver = rig.udp(HOSTS[host])
    number = rig.listen(host)
    server, client = mirrored(rig, host, end(receiver), header=kind), rig.udp(host)
    client.sendto(b"datagram", rig.where(number))
    original = rig.take(server)[0]
    assert rig.take(receiver)[0] == original
    [(_, record)] = rig.table.records()
    ends = record.client, (record.addressed, record.addressed_port)
    assert original == make(kind, *ends, record.id) + b"datagram"


def test_a_limit_is_one_for_all(rig: Rig) -> None:
    receiver = rig.udp("127.0.0.2")
    number = rig.listen()
    limits = Limits(upload_bytes=10)
    server, client = mirrored(rig, "127.0.0.1", end(receiver), limits=limits), rig.udp()
    client.sendto(b"12345678", rig.where(number))
    client.sendto(b"too much", rig.where(number))
    assert rig.take(server)[0] == rig.take(receiver)[0] == b"12345678"
    rig.expect_end(1, Reason.UPLOAD_BYTES)
    client.sendto(b"another", rig.where(number))
    assert rig.take(server)[0] == rig.take(receiver)[0] == b"another"
    assert rig.count("mirrored") == 2


def test_the_last_one_is_copied(rig: Rig) -> None:
    """Which ends the session, or closes it for the client."""
    receiver = rig.udp("127.0.0.2")
    number = rig.listen()
    limits = Limits(upload_datagrams=2)
    for kind in (SessionType.ONE_WAY, SessionType.NORMAL):
        server = mirrored(rig, "127.0.0.1", end(receiver), limits=limits, kind=kind)
        client = rig.udp()
        for data in (b"one", b"two", b"three"):
            client.sendto(data, rig.where(number))
        assert taken(rig, server, 3) == taken(rig, receiver, 3) == [b"one", b"two", b"three"]


def test_a_server_that_is_not_there(rig: Rig) -> None:
    """The others get each datagram, and once, whatever becomes of the session."""
    receiver = rig.udp("127.0.0.2")
    number = rig.listen()
    for close in (False, True):
        rig.mirror("127.0.0.2")
        made = verdict(
            closed(rig, "127.0.0.1"), mirrors=[end(receiver)], close_on_unreachable=close
        )
        rig.host.policy = lambda _, made=made: made  # type: ignore[misc]
        client = rig.udp()
        for data in DATAGRAMS[:60]:
            client.sendto(data, rig.where(number))
        assert taken(rig, receiver, 60) == DATAGRAMS[:60]
        for data in DATAGRAMS[60:90]:
            client.sendto(data, rig.where(number))
            assert rig.take(receiver)[0] == data
        rig.until(rig.is_quiet)
        assert has_nothing(receiver)


def test_an_original_that_cannot_be_sent(rig: Rig) -> None:
    """It is too long for IPv4, and not for IPv6."""
    data = bytes(65_520)
    receiver, server = rig.udp("::1"), rig.udp("127.0.0.1")
    number = rig.listen("::1")
    rig.mirror("::1")
    made = verdict(end(server), mirrors=[end(receiver)])
    rig.host.policy = lambda _: made
    client = rig.udp("::1")
    client.sendto(data, rig.where(number))
    assert rig.take(receiver)[0] == data
    rig.until(lambda: rig.has_counted("send-errors", 1))


def test_what_an_extension_lets_go_on(rig: Rig) -> None:
    receiver = rig.udp("127.0.0.2")
    number = rig.listen()
    server, client = mirrored(rig, "127.0.0.1", end(receiver), handed=True), rig.udp()
    rig.host.treat = lambda direction, data: (
        None if data == b"nothing" else (direction, data.upper())
    )
    for data in (b"one", b"nothing", b"two"):
        client.sendto(data, rig.where(number))
    assert taken(rig, server, 2) == taken(rig, receiver, 2) == [b"ONE", b"TWO"]


@pytest.mark.parametrize("kind", list(SessionType))
def test_every_type(rig: Rig, kind: SessionType) -> None:
    receiver = rig.udp("127.0.0.2")
    number = rig.listen()
    network = "127.0.0.0/8" if kind is SessionType.BROADCAST else None
    server = mirrored(rig, "127.0.0.1", end(receiver), kind=kind, network=network)
    client = rig.udp()
    for data in DATAGRAMS[:30]:
        client.sendto(data, rig.where(number))
    assert taken(rig, server, 30) == taken(rig, receiver, 30) == DATAGRAMS[:30]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["127.0.0.9"], "127.0.0.9"),
        ([""], "127.0.0.5"),
        (["192.0.2.1", "127.0.0.9"], "127.0.0.9"),
        (["::1"], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_from_where(rig: Rig, sources: Sequence[str], expected: str) -> None:
    """From where the server is written to, where the rule names that."""
    receiver = rig.udp("127.0.0.1")
    number = rig.listen()
    server = mirrored(rig, "127.0.0.1", end(receiver), sources=tuple(sources))
    client = rig.udp("127.0.0.5")
    client.sendto(b"datagram", rig.where(number))
    assert rig.take(server)[1][0] == rig.take(receiver)[1][0] == expected


def test_of_the_other_family(rig: Rig) -> None:
    receiver = rig.udp("::1")
    number = rig.listen()
    server = mirrored(rig, "127.0.0.1", end(receiver), sources=("",), dscp=8)
    client = rig.udp("127.0.0.5")
    client.sendto(b"datagram", rig.where(number))
    assert rig.take(server)[0] == rig.take(receiver)[0] == b"datagram"


@pytest.mark.parametrize("listener", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_copy_that_comes_back_is_refused(rig: Rig, listener: str) -> None:
    host = "::1" if ":" in listener else "127.0.0.1"
    number = rig.listen(listener)
    server = mirrored(rig, host, (host, rig.where(number)[1]))
    client = rig.udp(host)
    rig.converse(client, server, (host, rig.where(number)[1]))
    rig.until(lambda: rig.has_counted("refused-own-socket", 1))
    assert rig.engine.sessions == 1


def test_rules_that_change(rig: Rig) -> None:
    """One receiver more, another, and none: at once, for the sessions that there are."""
    one, other = rig.udp("127.0.0.2"), rig.udp("127.0.0.3")
    number = rig.listen()
    server, client = mirrored(rig, "127.0.0.1", end(one)), rig.udp()
    client.sendto(b"1", rig.where(number))
    assert rig.take(server)[0] == rig.take(one)[0] == b"1"
    rig.mirror("127.0.0.3")
    steps = [[one, other], [other], [], [one]]
    for generation, receivers in enumerate(steps, 2):
        made = verdict(end(server), mirrors=list(map(end, receivers)), generation=generation)
        rig.host.policy = lambda _, made=made: made  # type: ignore[misc]
        assert rig.engine.reconsider() == 0
        data = b"%d" % generation
        client.sendto(data, rig.where(number))
        assert rig.take(server)[0] == data
        for sock in receivers:
            assert rig.take(sock)[0] == data
    assert has_nothing(other)
    assert rig.engine.sessions == 1


def test_another_socket_for_rules_that_stay(rig: Rig) -> None:
    """A verdict that somebody still has must not write to whatever has its descriptor now."""
    receiver = rig.udp("127.0.0.2")
    number = rig.listen()
    server, client = mirrored(rig, "127.0.0.1", end(receiver)), rig.udp()
    rig.converse(client, server, rig.where(number))
    rig.take(receiver)
    rig.mirror("127.0.0.2")
    rig.converse(client, server, rig.where(number))
    assert rig.take(receiver)[1][1] == end(rig.mirrors[socket.inet_aton("127.0.0.2")])[1]


@pytest.mark.parametrize("leave", [Rig.stop, Rig.crash])
def test_the_next_engine_copies_too(rig: Rig, leave: Callable[[Rig], None]) -> None:
    receiver = rig.udp("127.0.0.2")
    number = rig.listen()
    server, client = mirrored(rig, "127.0.0.1", end(receiver)), rig.udp()
    rig.converse(client, server, rig.where(number))
    source = rig.take(receiver)[1]
    leave(rig)
    client.sendto(b"meanwhile", rig.where(number))
    assert rig.restart() == 1
    assert rig.take(server)[0] == b"meanwhile"
    assert rig.take(receiver) == (b"meanwhile", source)
    assert rig.count("mirrored") == 2
