"""Who may reply, type by type (SPEC 3)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.session.peers import Endpoint, PeerRule, Reply, judge, network_bounds

SERVER = ("192.0.2.1", 53)
OTHER_PORT = ("192.0.2.1", 5353)
OTHER_ADDRESS = ("192.0.2.9", 53)
STRANGER = ("203.0.113.5", 4000)


def ask(rule: PeerRule, sender: Endpoint, pinned: Endpoint | None = None) -> Reply:
    return judge(rule, pinned, sender, ip_address(sender[0]).packed)


@pytest.mark.parametrize(
    ("kind", "server", "other_port", "other_address", "stranger"),
    [
        (SessionType.NORMAL, Reply.PASS, Reply.IGNORE, Reply.IGNORE, Reply.IGNORE),
        (SessionType.ONE_WAY, Reply.END, Reply.IGNORE, Reply.IGNORE, Reply.IGNORE),
        (SessionType.ANY_PORT, Reply.PIN, Reply.PIN, Reply.IGNORE, Reply.IGNORE),
        (SessionType.ANY_SOCK, Reply.PIN, Reply.PIN, Reply.PIN, Reply.PIN),
        (SessionType.BROADCAST, Reply.PASS, Reply.IGNORE, Reply.PASS, Reply.IGNORE),
    ],
)
def test_before_the_peer_is_fixed(
    kind: SessionType, server: Reply, other_port: Reply, other_address: Reply, stranger: Reply
) -> None:
    rule = PeerRule(kind, SERVER, network=network_bounds(ip_network("192.0.2.0/24")))
    assert ask(rule, SERVER) is server
    assert ask(rule, OTHER_PORT) is other_port
    assert ask(rule, OTHER_ADDRESS) is other_address
    assert ask(rule, STRANGER) is stranger


@pytest.mark.parametrize("kind", list(SessionType))
def test_nobody_answers_from_port_0(kind: SessionType) -> None:
    nowhere = (SERVER[0], 0)
    network = network_bounds(ip_network("192.0.2.0/24"))
    rule = PeerRule(kind, nowhere, any_port=True, network=network)
    assert ask(rule, nowhere) is Reply.IGNORE
    assert ask(rule, nowhere, nowhere) is Reply.IGNORE


@pytest.mark.parametrize("kind", [SessionType.ANY_PORT, SessionType.ANY_SOCK])
def test_after_it_is_fixed(kind: SessionType) -> None:
    rule = PeerRule(kind, SERVER)
    assert ask(rule, OTHER_PORT, OTHER_PORT) is Reply.PASS
    for sender in (SERVER, OTHER_ADDRESS, STRANGER):
        assert ask(rule, sender, OTHER_PORT) is Reply.IGNORE


@pytest.mark.parametrize(
    ("network", "sender", "wanted"),
    [
        ("192.0.2.0/24", "192.0.2.0", Reply.PASS),
        ("192.0.2.0/24", "192.0.2.255", Reply.PASS),
        ("192.0.2.0/24", "192.0.1.255", Reply.IGNORE),
        ("192.0.2.0/24", "192.0.3.0", Reply.IGNORE),
        ("192.0.2.0/24", "2001:db8::1", Reply.IGNORE),
        ("2001:db8::/32", "2001:db8::1", Reply.PASS),
        ("2001:db8::/32", "2001:db9::1", Reply.IGNORE),
        (None, "192.0.2.1", Reply.IGNORE),
    ],
)
def test_the_network_of_a_broadcast(network: str | None, sender: str, wanted: Reply) -> None:
    bounds = network_bounds(ip_network(network)) if network else None
    rule = PeerRule(SessionType.BROADCAST, SERVER, network=bounds)
    assert ask(rule, (sender, 53)) is wanted


def test_a_broadcast_may_be_answered_from_any_port_if_so_configured() -> None:
    bounds = network_bounds(ip_network("192.0.2.0/24"))
    rule = PeerRule(SessionType.BROADCAST, SERVER, any_port=True, network=bounds)
    assert ask(rule, OTHER_PORT) is Reply.PASS
    assert ask(rule, STRANGER) is Reply.IGNORE
