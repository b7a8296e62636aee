"""When there is no room: full table, caps, loops, no port, and what the kernel drops (SPEC 3)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from rig import Rig, has_nothing, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.session.reasons import Reason

NewRig = Callable[..., Rig]


def test_a_full_table_refuses(new_rig: NewRig) -> None:
    rig = new_rig(sessions=2)
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    clients = [rig.udp() for _ in range(3)]
    for client in clients:
        client.sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals)
    assert rig.host.refusals == ["refused-table-full"]
    assert rig.count("refused-table-full") == 1
    assert rig.host.opened_ids == [1, 2]
    assert rig.engine.kill(1)
    rig.take(server)
    rig.take(server)
    assert has_nothing(server)
    rig.converse(clients[2], server, rig.where())


def test_nothing_is_asked_about_who_gets_no_place(new_rig: NewRig) -> None:
    """What strangers send costs no decision, which may need names, while the table is full."""
    rig = new_rig(sessions=3, per_client=1)
    rig.listen()
    server, hosts = rig.udp(), [f"127.0.0.{number}" for number in range(1, 5)]
    rig.host.policy = lambda _: verdict(server.getsockname())
    for host in hosts[:2]:
        rig.converse(rig.udp(host), server, rig.where())
    rig.udp(hosts[0]).sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals == ["refused-per-client"])
    rig.converse(rig.udp(hosts[2]), server, rig.where())
    rig.udp(hosts[3]).sendto(b"x", rig.where())
    rig.until(lambda: len(rig.host.refusals) == 2)
    assert rig.host.refusals[1] == "refused-table-full"
    assert [client for _, client, _ in rig.host.asked] == hosts[:3]


def test_newcomers_replace_the_oldest_without_an_answer(new_rig: NewRig) -> None:
    rig = new_rig(sessions=3, evict=True)
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    answered, *silent = [rig.udp() for _ in range(3)]
    rig.converse(answered, server, rig.where())
    for client in silent:
        client.sendto(b"x", rig.where())
        rig.take(server)
    # The older one goes on sending: that makes it no younger.
    silent[0].sendto(b"x", rig.where())
    rig.take(server)
    for number in (2, 3):
        newcomer = rig.udp()
        rig.converse(newcomer, server, rig.where())
        rig.expect_end(number, Reason.EVICTED)
    assert rig.count("evicted") == 2
    rig.udp().sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals)
    assert rig.host.refusals == ["refused-table-full"]
    rig.converse(answered, server, rig.where())
    assert sorted(rig.host.reasons) == [2, 3]


def test_the_host_keeps_ports_though_there_are_slots(new_rig: NewRig) -> None:
    rig = new_rig(sessions=4, evict=True)
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.engine.limit_ports(2, 0)
    for _ in range(2):
        rig.udp().sendto(b"x", rig.where())
        rig.take(server)
    # A newcomer takes the port of one that has no answer, and none of the host's.
    for number in (1, 2):
        rig.converse(rig.udp(), server, rig.where())
        rig.expect_end(number, Reason.EVICTED)
    rig.udp().sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals)
    assert rig.host.refusals == ["refused-ports-kept"]
    assert rig.count("refused-ports-kept") == 1
    rig.engine.limit_ports(0, 0)
    for _ in range(2):
        rig.converse(rig.udp(), server, rig.where())
    rig.engine.limit_ports(1, 0)
    assert rig.engine.kill(3)
    rig.udp().sendto(b"x", rig.where())
    rig.until(lambda: len(rig.host.refusals) == 2)
    assert rig.host.refusals[1] == "refused-ports-kept"
    assert rig.engine.sessions == 3, "those that there are stay"


def test_a_client_has_so_many_and_no_more(new_rig: NewRig) -> None:
    rig = new_rig(per_client=2, evict=True)
    rig.listen()
    server, other = rig.udp(), rig.udp("127.0.0.2")
    rig.host.policy = lambda _: verdict(server.getsockname())
    clients = [rig.udp() for _ in range(3)]
    for client in clients:
        client.sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals)
    assert rig.host.refusals == ["refused-per-client"]
    assert rig.count("refused-per-client") == 1
    rig.take(server)
    rig.take(server)
    rig.converse(other, server, rig.where())
    assert rig.engine.kill(2)
    rig.converse(clients[2], server, rig.where())
    assert rig.engine.sessions == 3


def test_sessions_whose_upload_is_closed_count_too(new_rig: NewRig) -> None:
    rig = new_rig(sessions=2)
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits(upload_datagrams=1))
    for _ in range(3):
        client.sendto(b"x", rig.where())
    rig.until(lambda: rig.host.refusals)
    assert rig.engine.sessions == 2
    assert rig.host.refusals == ["refused-table-full"]


def test_our_own_datagrams_open_nothing(rig: Rig) -> None:
    first, second = rig.listen(), rig.listen("127.0.0.2")
    client = rig.udp()
    rig.host.policy = lambda _: verdict(rig.where(second))
    client.sendto(b"round and round", rig.where(first))
    rig.until(lambda: rig.host.refusals)
    assert rig.host.refusals == ["refused-own-socket"]
    assert rig.engine.sessions == 1
    rig.host.policy = lambda _: verdict(rig.where(first))
    rig.udp("127.0.0.3").sendto(b"to itself", rig.where(first))
    rig.until(lambda: len(rig.host.refusals) == 2)
    rig.listeners[second].socket.sendto(b"from a listener", rig.where(first))
    rig.until(lambda: len(rig.host.refusals) == 3)
    assert rig.count("refused-own-socket") == 3
    assert rig.engine.sessions == 2


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_wildcard_listener_knows_its_own_datagrams(rig: Rig, address: str) -> None:
    host = "::1" if address == "::" else "127.0.0.1"
    first, second = rig.listen(host), rig.listen(address)
    rig.host.policy = lambda _: verdict(rig.where(first))
    rig.listeners[second].socket.sendto(b"from a wildcard", rig.where(first))
    rig.until(lambda: rig.host.refusals)
    where = host, rig.where(second)[1]
    rig.listeners[second].socket.sendto(b"to itself", where)
    rig.until(lambda: len(rig.host.refusals) == 2)
    assert rig.host.refusals == ["refused-own-socket"] * 2
    assert rig.engine.sessions == 0


def test_a_clients_port_may_equal_a_listeners(rig: Rig) -> None:
    rig.listen()
    server = rig.udp()
    client = rig.udp("127.0.0.2", rig.where()[1])
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK], ids=lambda k: k.value)
def test_a_server_that_cannot_be_had(rig: Rig, kind: SessionType) -> None:
    """Here a broadcast address, which the kernel gives to no unicast session."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(("255.255.255.255", 9), kind)
    for _ in range(9):
        client.sendto(b"x", rig.where())
    rig.until(lambda: len(rig.host.refusals) == 9)
    assert set(rig.host.refusals) == {"refused-no-port"}
    assert rig.host.problems == [errno.EACCES] * 9
    assert rig.host.failures == []
    assert rig.engine.sessions == 0
    assert rig.host.opened_ids == []
    assert rig.host.reasons == {}
    rig.expect_clean_pool()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind)
    rig.converse(client, server, rig.where())


def test_drops_of_a_listener_are_counted(rig: Rig) -> None:
    rig.listen(buffer=4096)
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    sent = 300
    for _ in range(sent):
        client.sendto(bytes(1000), rig.where())

    def all_seen() -> bool:
        rig.pass_time(2)
        return rig.count("upload-datagrams") + rig.count("drops-listeners") == sent

    rig.until(all_seen)
    assert rig.count("drops-listeners") > 0
    assert rig.count("upload-datagrams") > 0


def test_drops_of_a_session_are_counted_at_its_end(rig: Rig) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    client.sendto(b"x", rig.where())
    _, source = rig.take(server)
    sent = 3000
    for _ in range(sent):
        server.sendto(bytes(8000), source)
    assert rig.engine.kill(1)
    dropped = rig.host.records[1].drops
    assert 0 < dropped < sent
    assert rig.count("drops-sessions") == dropped
    # The next one in the same place, on the same socket or on that of the other family, begins
    # with none.
    rig.converse(client, server, rig.where())
    assert rig.engine.kill(2)
    other = rig.udp("::1")
    rig.host.policy = lambda _: verdict(other.getsockname()[:2])
    rig.converse(client, other, rig.where())
    assert rig.engine.kill(3)
    assert [rig.host.records[number].drops for number in (2, 3)] == [0, 0]
    assert rig.count("drops-sessions") == dropped
