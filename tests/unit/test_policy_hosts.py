"""A NetSet answers as ipaddress does, only faster."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.config.model import Address, Network
from udpproxy.proxy.policy.hosts import NetSet

# Few different addresses, so that members are met.
V4 = st.integers(0, 2**32 - 1).map(lambda number: IPv4Address(number & 0xC00000FF))
V6 = st.integers(0, 2**128 - 1).map(lambda number: IPv6Address(number & (0xC0 << 120 | 0xFF)))


def around(address: Address) -> st.SearchStrategy[Network]:
    return st.integers(0, address.max_prefixlen).map(
        lambda length: ip_network(f"{address}/{length}", strict=False)
    )


NETWORKS = st.lists(st.one_of(V4.flatmap(around), V6.flatmap(around)), max_size=6)


@settings(deadline=None)
@given(NETWORKS, st.one_of(V4, V6))
def test_like_ipaddress(networks: list[Network], address: Address) -> None:
    assert (address in NetSet(networks)) == any(address in network for network in networks)


def test_families_do_not_mix() -> None:
    assert ip_address("::1") not in NetSet([ip_network("0.0.0.0/0")])
    assert ip_address("0.0.0.1") not in NetSet([ip_network("::/0")])
    assert ip_address("0.0.0.1") not in NetSet([])
