"""A reload with sessions under way: what they keep, and a record that makes no sense by then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rig import Rig, has_nothing, verdict
from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.session.reasons import Reason


@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.BROADCAST])
@pytest.mark.parametrize("any_port", [False, True])
@pytest.mark.parametrize("how", ["reload", "crash", "stop"])
def test_who_may_answer_a_broadcast_stays(
    rig: Rig, kind: SessionType, how: str, *, any_port: bool
) -> None:
    """The rule has another type, or another network."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    port = server.getsockname()[1]
    near, far = rig.udp("127.0.0.200", port), rig.udp("127.0.1.1", port)
    other_port = rig.udp("127.0.0.3")
    rig.host.policy = lambda _: verdict(
        server.getsockname(), SessionType.BROADCAST, network="127.0.0.0/24", any_port=any_port
    )
    client.sendto(b"who is there?", rig.where())
    _, source = rig.take(server)
    rig.host.policy = lambda _: verdict(
        server.getsockname(), kind, generation=2, any_port=not any_port,
        network="127.0.1.0/24" if kind is SessionType.BROADCAST else None,
    )  # fmt: skip
    for _ in range(2):
        assert rig.engine.reconsider() == 0
        if how != "reload":
            rig.crash() if how == "crash" else rig.stop()
            assert rig.restart() == 1
        far.sendto(b"far", source)
        other_port.sendto(b"other port", source)
        near.sendto(b"near", source)
        got = [rig.take(client)[0] for _ in range(2 if any_port else 1)]
        assert got == ([b"other port"] if any_port else []) + [b"near"]
        assert has_nothing(client)
    assert rig.count("stray-replies") == (2 if any_port else 4)


def _identity(rig: Rig) -> None:
    rig.table.memory[rig.table.at(0) * 8 + 64] ^= 1


def _state(rig: Rig) -> None:
    rig.table.memory[rig.table.at(0) * 8 + 16] = 77


def _free(rig: Rig) -> None:
    rig.table.memory[rig.table.at(0) * 8 + 16] = 0


def _half(rig: Rig) -> None:
    rig.table.memory[rig.table.at(0) * 8] |= 1


def _moved(rig: Rig) -> None:
    first, second = (rig.table.at(slot) * 8 for slot in range(2))
    rig.table.memory[first : first + 256] = rig.table.memory[second : second + 256]


@pytest.mark.parametrize("damage", [_identity, _state, _free, _half, _moved])
def test_a_reload_finds_a_damaged_record(rig: Rig, damage: Callable[[Rig], None]) -> None:
    """It costs that session, which would otherwise go on by rules that hold no more."""
    rig.listen()
    clients, server = [rig.udp() for _ in range(3)], rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    sources = [rig.converse(client, server, rig.where()) for client in clients]
    damage(rig)
    rig.host.policy = lambda _: verdict(server.getsockname(), generation=2)
    assert rig.engine.reconsider() == 1
    rig.expect_end(1, Reason.ERROR)
    assert list(rig.host.losses) == [0]
    assert rig.count("sessions-lost") == 1
    assert rig.engine.sessions == 2
    for client, source in zip(clients[1:], sources[1:], strict=True):
        assert rig.converse(client, server, rig.where()) == source
    rig.converse(clients[0], server, rig.where())
    assert rig.host.opened_ids == [1, 2, 3, 4]
    assert rig.engine.reconsider() == 0
    assert {record.generation for _, record in rig.table.records()} == {2}


def test_where_nobody_listens_any_more_may_be_a_client(rig: Rig) -> None:
    """Only what comes from one of our own sockets would go round for ever."""
    rig.listen()
    gone = rig.listen("127.0.0.2")
    address, port = rig.where(gone)
    assert rig.engine.remove_listener(gone) == 0
    rig.listeners.pop(gone).socket.close()
    client, server = rig.udp(address, port), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    assert rig.host.refusals == []
