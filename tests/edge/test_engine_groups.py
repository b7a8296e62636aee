"""Sessions of a group of servers: which one gets them, how they do, and what happens over a crash
and a change."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from built import NAMES
from rig import ENGINES, Endpoint, Rig, verdict
from udpproxy.proxy.config.model import BALANCES, Limits, SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import Verdict
from udpproxy.proxy.session.balance import DOWN, DRAINED, UP, Candidate, identity
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import BALANCE

CLIENTS = 60


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=NAMES)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(ENGINES[request.param], sessions=300)
    yield rig
    rig.close()


def group(
    servers: list[socket.socket], *, balance: str = "client", standby: int = 0, **more: object
) -> Verdict:
    """The last `standby` of them are so; numbers are 1, 2, ..."""
    found = [
        Candidate(
            (sock.getsockname()[0], sock.getsockname()[1]),
            identity(f"server {number}"),
            1,
            number,
            number > len(servers) - standby,
        )
        for number, sock in enumerate(servers, 1)
    ]
    return verdict(found[0].server, candidates=found, balance=balance, **more)  # type: ignore[arg-type]


def open_all(rig: Rig, clients: list[socket.socket]) -> list[int]:
    """A session of each client; the members that they got, by the table."""
    before = {record.id for _, record in rig.table.records()}
    for sock in clients:
        sock.sendto(b"question", rig.where())
    rig.until(lambda: rig.count("sessions") == len(before) + len(clients))
    by_port = {r.client[1]: r.member for _, r in rig.table.records() if r.id not in before}
    return [by_port[sock.getsockname()[1]] for sock in clients]


@pytest.mark.parametrize("balance", BALANCES)
def test_who_gets_it(rig: Rig, host: str, balance: str) -> None:
    """The server named in the record has the datagram, and each of them is counted."""
    rig.listen(host)
    servers = [rig.udp(host) for _ in range(3)]
    clients = [rig.udp(host) for _ in range(CLIENTS)]
    rig.host.policy = lambda _: group(servers, balance=balance)
    members = Counter(open_all(rig, clients))
    if balance == "client":
        assert len(members) == 1  # all of them are one client
    elif balance == "least-sessions":
        assert set(members.values()) == {CLIENTS // 3}
    else:
        assert set(members) == {1, 2, 3}
    for number, sock in enumerate(servers, 1):
        assert rig.engine.member(number).sessions == members[number]
        for _ in range(members[number]):
            assert rig.take(sock)[0] == b"question"
    said = Counter(rig.host.opened_to)
    assert said == {s.getsockname()[:2]: members[n] for n, s in enumerate(servers, 1) if members[n]}
    for _, record in rig.table.records():
        where = servers[record.member - 1].getsockname()
        assert record.server == (sockets.pack(where[0]), where[1])


def test_both_engines_say_the_same(host: str) -> None:
    """The same client meets the same server, whichever engine runs."""
    answers: dict[str, list[object]] = {name: [] for name in NAMES}
    for name in NAMES:
        rig = Rig(ENGINES[name])
        rig.table.words[BALANCE], rig.table.words[BALANCE + 1] = 12345, 67890
        servers: list[Endpoint] = [("192.0.2.1", port) for port in range(1, 6)]
        found = [
            Candidate(one, identity(str(one)), number + 1, number + 1, standby=False)
            for number, one in enumerate(servers)
        ]
        for balance in BALANCES:
            said = verdict(servers[0], candidates=found, balance=balance)
            for number in range(1, 400):
                address = host[:-1] + (f"{number:x}" if ":" in host else str(number % 256))
                client = sockets.pack(address), number
                answers[name].append(rig.engine.choose(said, Record(id=number, client=client)))
        rig.close()
    first, *others = answers.values()
    assert all(one == first for one in others)
    assert len(set(map(str, first))) == 5


def test_down_drained_standby(rig: Rig) -> None:
    rig.listen()
    servers = [rig.udp() for _ in range(3)]
    said = group(servers, balance="client-port", standby=1)
    rig.host.policy = lambda _: said
    clients = [rig.udp() for _ in range(4 * CLIENTS)]
    parts = [clients[i::4] for i in range(4)]
    assert set(open_all(rig, parts[0])) == {1, 2}
    rig.engine.set_member(1, DOWN)
    assert set(open_all(rig, parts[1])) == {2}
    rig.engine.set_member(2, DRAINED)
    assert set(open_all(rig, parts[2])) == {3}
    rig.engine.set_member(1, DOWN, trial=True)
    assert sorted(open_all(rig, parts[3][:10])) == [1] + [3] * 9
    for number in (1, 2, 3):
        rig.engine.set_member(number, DRAINED)
    parts[3][10].sendto(b"question", rig.where())
    rig.until(lambda: rig.count("refused-no-server") == 1)
    assert rig.host.refusals == ["refused-no-server"]
    rig.engine.set_member(3, UP)
    assert open_all(rig, parts[3][10:11]) == [3]


def test_sessions_are_counted_over_their_life(rig: Rig) -> None:
    """Ended, gone on to another, adopted after a crash, judged again."""
    rig.listen()
    servers = [rig.udp() for _ in range(2)]
    said = group(servers, balance="least-sessions")
    rig.host.policy = lambda _: said
    clients = [rig.udp() for _ in range(6)]
    assert sorted(open_all(rig, clients)) == [1, 1, 1, 2, 2, 2]

    def counts() -> list[int]:
        return [rig.engine.member(number).sessions for number in (1, 2)]

    assert counts() == [3, 3]
    number = next(record.id for _, record in rig.table.records() if record.member == 1)
    assert rig.engine.redirect(number, servers[1].getsockname(), 2)
    assert counts() == [2, 4]
    [moved] = [record for _, record in rig.table.records() if record.id == number]
    assert moved.member == 2
    rig.host.later = lambda record: verdict(
        (sockets.unpack(record.server[0]), record.server[1]), member=record.member
    )
    rig.crash()
    assert rig.restart() == 6
    assert counts() == [2, 4]
    # Another configuration has other numbers.
    rig.host.later = lambda record: verdict(
        (sockets.unpack(record.server[0]), record.server[1]), member=8 - record.member
    )
    rig.engine.reconsider()
    assert counts() == [0, 0]
    assert [rig.engine.member(number).sessions for number in (7, 6)] == [2, 4]
    assert {record.member for _, record in rig.table.records()} == {6, 7}
    assert rig.engine.kill(number)
    assert rig.engine.member(6).sessions == 3


def test_what_its_sessions_saw(rig: Rig) -> None:
    """Answers, sessions without any, ICMP errors, each in a row."""
    rig.listen()
    server = rig.udp()
    said = group([server], limits=Limits(idle=5))
    rig.host.policy = lambda _: said
    first, second, third = rig.udp(), rig.udp(), rig.udp()
    rig.converse(first, server, rig.where())
    assert rig.engine.member(1).answered == 1
    for sock in (second, third):
        sock.sendto(b"question", rig.where())
        rig.take(server)
    rig.pass_time(6)
    rig.until(lambda: len(rig.host.reasons) == 3)
    assert rig.engine.member(1).unanswered == 2
    assert rig.engine.member(1).sessions == 0
    rig.converse(first, server, rig.where())
    assert rig.engine.member(1).unanswered == 0
    assert rig.engine.member(1).answered == 2
    where = server.getsockname()
    server.close()
    second.sendto(b"question", rig.where())
    rig.until(lambda: rig.engine.member(1).errors == 1)
    second.sendto(b"question", rig.where())
    rig.until(lambda: rig.count("upload-datagrams") >= 2)
    assert rig.engine.member(1).errors == 1  # the same session
    again = rig.udp(port=where[1])
    rig.converse(second, again, rig.where())
    assert rig.engine.member(1).errors == 0


def test_where_no_answer_is_expected(rig: Rig) -> None:
    rig.listen()
    server, client, other = rig.udp(), rig.udp(), rig.udp()
    said = group([server], kind=SessionType.ONE_WAY, limits=Limits(idle=5))
    rig.host.policy = lambda _: said
    client.sendto(b"question", rig.where())
    rig.take(server)
    rig.pass_time(6)
    rig.expect_end(1, Reason.IDLE)
    said = group([server])
    other.sendto(b"question", rig.where())
    rig.take(server)
    assert rig.engine.kill(2)
    rig.expect_end(2, Reason.KILLED)
    assert rig.engine.member(1).unanswered == 0
