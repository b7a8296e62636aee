"""From which port a server is written to (SPEC 12): the client's, or a number."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest

from host import free_port
from rig import Rig, has_nothing, verdict
from udpproxy.proxy.config.model import CLIENTS_PORT, Limits, SessionType
from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.interface import Verdict
from udpproxy.proxy.session.index import FEW
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import PORTED

KINDS = pytest.mark.parametrize(
    "kind", [SessionType.NORMAL, SessionType.ANY_PORT, SessionType.ANY_SOCK], ids=lambda k: k.value
)
ABSENT = "192.0.2.77"
"""No host has it (RFC 5737)."""


@pytest.fixture
def port() -> int:
    """One that nobody has."""
    return free_port()


@KINDS
@pytest.mark.parametrize(("address", "own"), [("127.0.0.1", "127.0.0.5"), ("::1", "::1")])
def test_servers_see_the_clients_port(rig: Rig, kind: SessionType, address: str, own: str) -> None:
    rig.listen()
    server = rig.udp(address)
    rig.host.policy = lambda _: verdict(
        server.getsockname()[:2], kind, sources=("127.0.0.5",), source_port=CLIENTS_PORT
    )
    for client in (rig.udp(), rig.udp()):
        source = rig.converse(client, server, rig.where())
        assert source == (own, client.getsockname()[1])
        assert rig.converse(client, server, rig.where()) == source
    assert rig.host.refusals == []


@KINDS
@pytest.mark.parametrize(
    ("sources", "seen"),
    [
        ((), "127.0.0.1"),
        (("127.0.0.5",), "127.0.0.5"),
        ((ABSENT, "127.0.0.6"), "127.0.0.6"),
        ((ABSENT,), "127.0.0.1"),
        (("",), "127.0.0.9"),
    ],
)
def test_a_number(
    rig: Rig, kind: SessionType, sources: tuple[str, ...], seen: str, port: int
) -> None:
    rig.listen()
    client, server = rig.udp("127.0.0.9"), rig.udp()
    rig.host.policy = lambda _: verdict(
        server.getsockname(), kind, sources=sources, source_port=port
    )
    assert rig.converse(client, server, rig.where()) == (seen, port)
    [(_, record)] = rig.table.records()
    assert record.source == (sockets.pack(seen), port)
    assert rig.table.words[PORTED] == 1
    assert rig.converse(client, server, rig.where()) == (seen, port)


def test_number_over_ipv6(rig: Rig) -> None:
    port = free_port("::1")
    rig.listen("::1")
    client, server = rig.udp("::1"), rig.udp("::1")
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], source_port=port)
    assert rig.converse(client, server, rig.where()) == ("::1", port)
    assert rig.engine.kill(1)
    rig.pass_time(2)
    rig.until(lambda: rig.host.used_up)
    assert rig.host.used_up == [[(socket.AF_INET6, 0)]]
    rig.renew()
    assert rig.converse(client, server, rig.where()) == ("::1", port)


def test_with_its_own_end_the_client_is_no_loop(rig: Rig) -> None:
    """What comes from there is the client's, on whatever listener."""
    for _ in range(2):
        rig.listen()
    client, server, other = rig.udp("127.0.0.9"), rig.udp(), rig.udp()
    sockets.share_port(client, on=True)  # it is on this host
    for number, to in enumerate((server, other), 1):
        rig.host.policy = lambda _, to=to: verdict(  # type: ignore[misc]
            to.getsockname(), sources=("",), source_port=CLIENTS_PORT
        )
        assert rig.converse(client, to, rig.where(number)) == client.getsockname()
    assert (rig.host.refusals, rig.count("sessions")) == ([], 2)


def test_what_comes_from_an_end_of_ours_is_a_loop(rig: Rig, port: int) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), source_port=port)
    rig.converse(client, server, rig.where())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        sockets.share_port(ours, on=True)
        ours.bind(("127.0.0.1", port))
        ours.sendto(b"round", rig.where())
    rig.until(lambda: rig.count("refused-own-socket") == 1)


def test_one_at_a_time_towards_one_server(rig: Rig, port: int) -> None:
    rig.listen()
    first, second, server, other = rig.udp(), rig.udp(), rig.udp(), rig.udp()
    wanted = {"to": server.getsockname()}
    rig.host.policy = lambda _: verdict(wanted["to"], source_port=port)
    source = rig.converse(first, server, rig.where())
    second.sendto(b"too many", rig.where())
    rig.until(lambda: rig.count("refused-no-port") == 1)
    assert rig.host.problems == [errno.EADDRINUSE]
    # The refused one has used up nothing.
    assert rig.count("sessions") == 1
    assert rig.pass_time(2) is not None
    assert rig.host.used_up == []
    # To another server both can.
    wanted["to"] = other.getsockname()
    assert rig.converse(second, other, rig.where()) == source
    for _ in range(2):
        assert rig.converse(first, server, rig.where()) == source
        assert rig.converse(second, other, rig.where()) == source
    # A second address of ours has a port of its own.
    third = rig.udp()
    rig.host.policy = lambda _: verdict(
        server.getsockname(), source_port=port, sources=("127.0.0.1", "127.0.0.5")
    )
    assert rig.converse(third, server, rig.where()) == ("127.0.0.5", port)
    assert (rig.host.refusals, rig.count("sessions")) == (["refused-no-port"], 3)


@pytest.mark.parametrize("kind", [SessionType.ANY_PORT, SessionType.ANY_SOCK])
def test_who_hears_many_shares_with_nobody(rig: Rig, kind: SessionType, port: int) -> None:
    rig.listen()
    clients = [rig.udp() for _ in range(3)]
    server, other = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, source_port=port)
    rig.converse(clients[0], server, rig.where())
    rig.host.policy = lambda _: verdict(other.getsockname(), source_port=port)
    clients[1].sendto(b"too many", rig.where())
    rig.until(lambda: rig.count("refused-no-port") == 1)
    assert rig.engine.kill(1)
    rig.expect_end(1, Reason.KILLED)
    rig.converse(clients[1], other, rig.where())
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, source_port=port)
    clients[2].sendto(b"too many", rig.where())
    rig.until(lambda: rig.count("refused-no-port") == 2)


def test_a_port_that_somebody_has(rig: Rig) -> None:
    rig.listen()
    client, server, holder = rig.udp(), rig.udp(), rig.udp()
    port = holder.getsockname()[1]
    rig.host.policy = lambda _: verdict(server.getsockname(), source_port=port)
    client.sendto(b"question", rig.where())
    rig.until(lambda: rig.host.refusals)
    assert (rig.host.refusals, rig.host.problems) == (["refused-no-port"], [errno.EADDRINUSE])
    # The slot is as good as new, for any rule.
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    assert rig.pass_time(2) is not None
    assert rig.host.used_up == []
    rig.engine.kill(rig.host.opened_ids[-1])
    rig.until(lambda: rig.host.reasons)
    rig.expect_clean_pool()


def test_a_successor_on_the_same_end_has_what_is_its(rig: Rig, port: int) -> None:
    """The old socket is there still, and hears nothing."""
    rig.listen()
    first, second, server, other = rig.udp(), rig.udp(), rig.udp(), rig.udp()
    for number, (client, kind) in enumerate(
        [(first, SessionType.NORMAL), (second, SessionType.ANY_SOCK), (first, SessionType.NORMAL)],
        1,
    ):
        rig.host.policy = lambda _, kind=kind: verdict(  # type: ignore[misc]
            server.getsockname(), kind, source_port=port
        )
        source = rig.converse(client, server, rig.where())
        for _ in range(3):
            assert rig.converse(client, server, rig.where()) == source
        assert rig.engine.kill(number)
        rig.expect_end(number, Reason.KILLED)
    # Nobody has it now, and nobody takes what comes.
    other.sendto(b"late", ("127.0.0.1", port))
    rig.until(rig.is_quiet)
    assert has_nothing(first)
    assert has_nothing(second)


def one_answer(server: socket.socket) -> Verdict:
    """From the client's port; a session ends with its first answer."""
    return verdict(
        server.getsockname(),
        sources=("127.0.0.5",),
        source_port=CLIENTS_PORT,
        limits=Limits(download_datagrams=1),
    )


def test_a_client_goes_on_at_once_with_the_same_ends(new_rig: Callable[..., Rig]) -> None:
    """Its session ends with the reply, and its next question comes before anybody looks."""
    rig = new_rig(sessions=40)
    rig.listen()
    client, server = rig.udp("127.0.0.9"), rig.udp()
    rig.host.policy = lambda _: one_answer(server)
    for _ in range(30):
        client.sendto(b"question", rig.where())
        _, source = rig.take(server)
        assert source == ("127.0.0.5", client.getsockname()[1])
        server.sendto(b"answer", source)
        rig.take(client)
    assert (rig.host.refusals, rig.count("sessions-opened")) == ([], 30)


def test_many_one_after_the_other(new_rig: Callable[..., Rig]) -> None:
    """More than there are slots, and nothing is lost."""
    rig = new_rig(sessions=250)
    rig.listen()
    client, server = rig.udp("127.0.0.9"), rig.udp()
    rig.host.policy = lambda _: one_answer(server)
    messages = 0
    for _ in range(1000):
        client.sendto(b"question", rig.where())
        while has_nothing(server):
            rig.turn(0.001)
            messages += len(rig.host.used_up)
            rig.renew()
        _, source = rig.take(server)
        server.sendto(b"answer", source)
        rig.take(client)
    assert (rig.host.refusals, rig.count("sessions-opened")) == ([], 1000)
    assert 4 <= messages <= 1000 // FEW + 2
    assert rig.count("waiting-dropped") == 0


def test_while_all_are_spent_newcomers_wait(new_rig: Callable[..., Rig], port: int) -> None:
    rig = new_rig(sessions=4, slots=2)
    rig.listen()
    server = rig.udp()
    clients = [rig.udp() for _ in range(4)]
    rig.host.policy = lambda _: verdict(server.getsockname(), source_port=CLIENTS_PORT,
                                        sources=("127.0.0.5",))  # fmt: skip
    for number, client in enumerate(clients[:2], 1):
        rig.converse(client, server, rig.where())
        rig.engine.kill(number)
        rig.expect_end(number, Reason.KILLED)
    clients[2].sendto(b"waits", rig.where())
    rig.until(rig.is_quiet)
    assert has_nothing(server)
    assert rig.host.refusals == []
    # The second is told of when the first is back.
    assert rig.host.used_up == [[(socket.AF_INET, 0)]]
    rig.renew()
    assert rig.take(server)[0] == b"waits"
    rig.until(lambda: rig.host.used_up)
    assert rig.host.used_up == [[(socket.AF_INET, 1)]]
    rig.renew()
    # Where there are none to be had they are refused.
    rig.engine.kill(3)
    rig.expect_end(3, Reason.KILLED)
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(clients[0], server, rig.where())
    rig.engine.lack(errno.EMFILE)
    clients[3].sendto(b"refused", rig.where())
    rig.until(lambda: rig.host.refusals)
    assert (rig.host.refusals, rig.host.problems) == (["refused-no-port"], [errno.EMFILE])


@KINDS
@pytest.mark.parametrize("again", [False, True])
def test_it_stays_after_a_crash(rig: Rig, kind: SessionType, port: int, again: bool) -> None:  # noqa: FBT001
    """`again`: the one that died was between two servers."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(
        server.getsockname(), kind, source_port=port, sources=("127.0.0.5",)
    )
    source = rig.converse(client, server, rig.where())
    rig.crash()
    if again:
        [(slot, _)] = rig.table.records()
        rig.table.set_source(slot, (b"", 0))
    assert rig.restart() == 1
    assert rig.converse(client, server, rig.where()) == source == ("127.0.0.5", port)
    # Its end is its own still.
    another = rig.udp()
    another.sendto(b"too many", rig.where())
    rig.until(lambda: rig.count("refused-no-port") == 1)


def test_a_lost_end_comes_back_under_the_rule(rig: Rig, port: int) -> None:
    """Its socket is a new one: it gets the port and the address that the rule names."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    rig.crash()
    [(slot, _)] = rig.table.records()
    rig.table.set_source(slot, (b"", 0))
    rig.host.policy = lambda _: verdict(
        server.getsockname(), source_port=port, sources=("127.0.0.5",)
    )
    assert rig.restart() == 1
    assert rig.converse(client, server, rig.where()) == ("127.0.0.5", port)


def test_spent_slots_are_found_after_a_crash(new_rig: Callable[..., Rig], port: int) -> None:
    rig = new_rig(sessions=2)
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), source_port=port)
    rig.converse(client, server, rig.where())
    rig.engine.kill(1)
    rig.expect_end(1, Reason.KILLED)
    rig.crash()
    rig.host.used_up.clear()
    assert rig.restart() == 0
    rig.converse(client, server, rig.where())  # the other slot's
    rig.pass_time(2)
    rig.until(lambda: rig.host.used_up)
    assert rig.host.used_up == [[(socket.AF_INET, 0)]]
    rig.renew()
    rig.host.policy = lambda _: verdict(server.getsockname())
    another = rig.udp()
    assert rig.converse(another, server, rig.where())[1] != port


@KINDS
def test_it_follows_its_server_with_its_port(rig: Rig, kind: SessionType, port: int) -> None:
    rig.listen()
    client, server, other = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, source_port=port)
    source = rig.converse(client, server, rig.where())
    for there in (other, server, other):
        assert rig.engine.redirect(1, there.getsockname())
        assert rig.converse(client, there, rig.where()) == source
    server.sendto(b"stranger", source)
    rig.until(rig.is_quiet)
    if kind is SessionType.NORMAL:
        assert has_nothing(client)
    rig.crash()
    rig.host.later = lambda _: verdict(other.getsockname(), kind, source_port=port)
    assert rig.restart() == 1
    assert rig.converse(client, other, rig.where()) == source


def test_it_follows_to_the_other_family_and_back(rig: Rig, port: int) -> None:
    rig.listen()
    client, server, other = rig.udp(), rig.udp(), rig.udp("::1")
    rig.host.policy = lambda _: verdict(server.getsockname(), source_port=port)
    rig.converse(client, server, rig.where())
    assert rig.engine.redirect(1, other.getsockname()[:2])
    assert rig.converse(client, other, rig.where()) == ("::1", port)
    assert rig.engine.redirect(1, server.getsockname())
    assert rig.converse(client, server, rig.where()) == ("127.0.0.1", port)
    rig.engine.kill(1)
    rig.expect_end(1, Reason.KILLED)
    rig.pass_time(2)
    rig.until(lambda: rig.host.used_up)
    assert sorted(rig.host.used_up[0]) == [(socket.AF_INET, 0), (socket.AF_INET6, 0)]
    rig.renew()
    rig.host.policy = lambda _: verdict(server.getsockname())
    for _ in range(8):
        assert rig.converse(rig.udp(), server, rig.where())[1] != port
    assert rig.host.refusals == []


def test_a_port_below_1024(rig: Rig) -> None:
    """Whether it may be had is the system's affair, and is said."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), source_port=1)
    client.sendto(b"question", rig.where())
    rig.until(lambda: rig.host.refusals or not has_nothing(server))
    assert rig.host.problems in ([], [errno.EACCES])


@KINDS
def test_it_is_connected_afresh_with_its_port(rig: Rig, kind: SessionType, port: int) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, source_port=port)
    source = rig.converse(client, server, rig.where())
    server.sendto(b"late", source)
    assert rig.engine.reconnect(0, 1)
    assert rig.take(client)[0] == b"late"
    assert rig.converse(client, server, rig.where()) == source
    assert rig.host.reroutes == [1]
