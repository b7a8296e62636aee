"""Which server of a group a session gets: shares, and what a change moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from udpproxy.proxy.config.model import BALANCES
from udpproxy.proxy.session.balance import (
    DOWN,
    DRAINED,
    UP,
    Candidate,
    Members,
    identity,
)
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.siphash import siphash
from udpproxy.proxy.session.table import Table, size

KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
CLIENTS = [(ip_address(0x0A000000 + 37 * number).packed, 1024) for number in range(10_000)]


def candidates(*weights: int, standby: int = 0) -> list[Candidate]:
    """Servers 1, 2, ... with these weights, then so many standby ones."""
    count = len(weights) + standby
    return [
        Candidate(
            server=("192.0.2.1", number),
            identity=identity(f"192.0.2.1:{number}"),
            weight=weights[number - 1] if number <= len(weights) else 1,
            member=number,
            standby=number > len(weights),
        )
        for number in range(1, count + 1)
    ]


def all_chosen(
    members: Members,
    servers: Sequence[Candidate],
    balance: str,
    clients: Sequence[tuple[bytes, int]] = CLIENTS,
) -> list[int]:
    """The members that clients get, one after the other."""
    found = []
    for number, client in enumerate(clients, 1):
        one = members.choose(servers, balance, KEY, client, number)
        assert one
        members.join(one.member)
        found.append(one.member)
    return found


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("weights", [(1, 1), (2, 1), (1, 1, 1, 1), (5, 3, 2)])
def test_shares(weights: tuple[int, ...], balance: str) -> None:
    """Within 5 % of the weights."""
    shares = Counter(all_chosen(Members(), candidates(*weights), balance))
    for number, weight in enumerate(weights, 1):
        wanted = len(CLIENTS) * weight / sum(weights)
        assert abs(shares[number] - wanted) <= 0.05 * wanted


@pytest.mark.parametrize("balance", ["client", "client-port"])
def test_a_change_moves_its_own_share_alone(balance: str) -> None:
    members, servers = Members(), candidates(2, 1, 1, 1)
    before = all_chosen(members, servers, balance)
    assert all_chosen(members, servers, balance) == before
    after = all_chosen(members, servers[:-1], balance)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {4}
    assert len(moved) == before.count(4)
    assert {new for _, new in moved} == {1, 2, 3}
    members[2].state = DOWN
    down = all_chosen(members, servers, balance)
    assert {old for old, new in zip(before, down, strict=True) if old != new} == {2}
    assert 2 not in down


def test_a_client_keeps_its_server_whatever_its_port() -> None:
    servers = candidates(1, 1, 1, 1)
    clients = [(CLIENTS[0][0], port) for port in range(1024, 1124)]
    assert len(set(all_chosen(Members(), servers, "client", clients))) == 1
    assert len(set(all_chosen(Members(), servers, "client-port", clients))) == 4


def test_ipv6_clients_count_by_their_network() -> None:
    servers = candidates(1, 1, 1, 1)
    network = ip_address("2001:db8:1:2::").packed[:8]
    near = [(network + number.to_bytes(8, "big"), 1024) for number in range(100)]
    assert len(set(all_chosen(Members(), servers, "client", near))) == 1
    far = [(number.to_bytes(8, "big") + network, 1024) for number in range(100)]
    assert len(set(all_chosen(Members(), servers, "client", far))) == 4


@pytest.mark.parametrize("balance", ["least-sessions", "two-choices"])
def test_the_one_with_fewer_sessions(balance: str) -> None:
    """By its weight."""
    members, servers = Members(), candidates(2, 1)
    members[1].sessions, members[2].sessions = 20, 12
    assert all_chosen(members, servers, balance, CLIENTS[:3]) == [1, 1, 1]
    members[1].sessions = 30
    assert all_chosen(members, servers, balance, CLIENTS[:2]) == [2, 2]


@pytest.mark.parametrize("balance", BALANCES)
def test_states(balance: str) -> None:
    members, servers = Members(), candidates(1, 1, standby=1)
    assert set(all_chosen(members, servers, balance, CLIENTS[:200])) == {1, 2}
    members[1].state = DOWN
    assert set(all_chosen(members, servers, balance, CLIENTS[:200])) == {2}
    members[2].state = DRAINED
    assert set(all_chosen(members, servers, balance, CLIENTS[:200])) == {3}
    members[3].state = DOWN  # all are down but what is drained: all are used
    assert set(all_chosen(members, servers, balance, CLIENTS[:2000])) == {1, 3}
    members[1].state = members[3].state = DOWN | DRAINED
    assert members.choose(servers, balance, KEY, CLIENTS[0], 1) is None
    members[2].state = UP
    assert set(all_chosen(members, servers, balance, CLIENTS[:200])) == {2}


@pytest.mark.parametrize("balance", BALANCES)
def test_one_trial(balance: str) -> None:
    members, servers = Members(), candidates(1, 1)
    members[1].state, members[1].trial = DOWN, True
    assert all_chosen(members, servers, balance, CLIENTS[:50]) == [1] + [2] * 49
    members[1].state, members[1].trial = DOWN | DRAINED, True
    assert set(all_chosen(members, servers, balance, CLIENTS[:50])) == {2}


def test_siphash() -> None:
    """SipHash-1-3 of no byte, of 8 and of 16, as other implementations have it."""
    words = [0x0706050403020100, 0x0F0E0D0C0B0A0908]
    assert siphash(KEY, []) == 0xABAC0158050FC4DC
    assert siphash(KEY, words[:1]) == 0x369095118D299A8E
    assert siphash(KEY, words) == 0xCC4FDD1A7D908B66


def test_nobodys_sessions_are_not_counted() -> None:
    members = Members()
    members.join(0)
    members.answers(0)
    members.leave(0)
    assert members[0].sessions == members[0].answered == 0
    members.join(1)
    members.leave(1)
    assert members[1].sessions == 0


def test_the_table_knows_whose_a_session_is() -> None:
    memory = memoryview(bytearray(size(4)))
    table = Table(memory, 4, fresh=True)
    table.make_balance_key()
    key = table.balance_key()
    assert any(key)
    table.make_balance_key()
    assert table.balance_key() == key
    table.grow(4)
    for slot, member in ((0, 7), (2, 7), (3, 9)):
        client = ip_address("192.0.2.1").packed, 1024
        record = Record(id=table.next_id(), state=State.OPEN, client=client, member=member)
        assert table.new_id() == record.id
        table.write(slot, record)
    table.set_member(2, 9)
    assert table.of_members({7, 9}) == [(0, 7), (2, 9), (3, 9)]
    table.free(3)
    assert table.of_members({9}) == [(2, 9)]
