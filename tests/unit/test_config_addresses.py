"""Addresses, networks, ports: all the ways to write them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from udpproxy.config import addresses
from udpproxy.config.model import Name, NameServer, Network, Ports
from udpproxy.proxy.config import endpoints
from udpproxy.proxy.config.here import is_own
from udpproxy.proxy.config.model import Destination, Pattern, Server


@pytest.mark.parametrize(
    "given", ["127.0.0.1", "[127.0.0.1]", "0.0.0.0", "::1", "[::1]", "[2001:db8::53]"]
)
def test_addresses(given: str) -> None:
    assert addresses.address(given) == ip_address(given.strip("[]"))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("127.0.0.1:53", "without a port"),
        ("[::1]:53", "without a port"),
        ("[::1", "expected"),
        ("[::1]x", "expected"),
        ("", "is not an address"),
        ("1.2.3.4.5", "is not an address"),
        ("010.0.0.1", "is not an address"),
        ("10.0.0.0/8", "is not an address"),
        ("::ffff:192.0.2.1", "write 192.0.2.1"),
        ("fe80::1%eth0", "an address without a zone is needed here"),
        (53, "expected text in quotes, found 53"),
    ],
)
def test_what_is_no_address(given: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        addresses.address(given)


@pytest.mark.parametrize("given", ["localhost", "ns.example.org", "Example.ORG."])
def test_names(given: str) -> None:
    name = Name(given.lower())
    assert endpoints.source(given) == name
    assert endpoints.destination(f"{given}:53") == Destination(
        host=name, ports=Ports(first=53, last=53)
    )
    assert endpoints.destination(given) == Destination(host=name, ports=None)
    assert endpoints.server(f"{given}:53") == Server(host=name, ports=Ports(first=53, last=53))
    assert endpoints.server(given) == Server(host=name, ports=None)
    with pytest.raises(ValueError, match="is a name: only an address can stand here"):
        addresses.address(given)
    with pytest.raises(ValueError, match="is a name: only a network can stand here"):
        addresses.network(given)


def test_patterns_stand_only_where_clients_do() -> None:
    pattern = Pattern("example.org")
    assert endpoints.source("*.Example.org.") == pattern
    assert str(pattern) == "*.example.org"
    assert [pattern.fits(name) for name in ("a.example.org", "a.b.example.org")] == [True, True]
    assert not any(pattern.fits(name) for name in ("example.org", "badexample.org", "a.test"))
    for parse in (endpoints.destination, endpoints.server, addresses.network, addresses.address):
        with pytest.raises(ValueError, match="is not an address"):
            parse("*.example.org")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ns.example.org:53", "without a port"),
        ("ns:99999", "without a port"),
        ("*.a b", "is not an address"),
        *((word, 'leave "from" out') for word in ("*", "any", "All", "everybody")),
        ("*.", "is not an address"),
        ("a.*.org", "is not an address"),
        ("**.org", "is not an address"),
        ("ns.example.org/24", "is not an address"),
        ("10.0.0.300", "is not an address"),
        ("fe80::1%eth0", "an address without a zone is needed here"),
    ],
)
def test_what_is_no_client(given: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        endpoints.source(given)


@pytest.mark.parametrize(
    ("given", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("[10.0.0.1]", "10.0.0.1/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::/32]", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::/0", "::/0"),
    ],
)
def test_networks(given: str, network: str) -> None:
    assert addresses.network(given) == ip_network(network)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("10.0.0.1/8", 'write "10.0.0.0/8" for the network or "10.0.0.1" for the address'),
        ("2001:db8::1/32", 'write "2001:db8::/32"'),
        ("10.0.0.0/33", "expected a prefix from 0 to 32"),
        ("::/129", "expected a prefix from 0 to 128"),
        ("10.0.0.0/255.0.0.0", "expected a prefix"),
        ("10.0.0.0/", "expected a prefix"),
        ("10.0.0.0/8:53", "without a port"),
        ("example.org/8", "is not an address"),
        ("::ffff:10.0.0.0/104", "write 10.0.0.0"),
        ("*", "is not an address"),
        (10, "expected text"),
    ],
)
def test_what_is_no_network(given: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        addresses.network(given)


def net(text: str) -> Network:
    return ip_network(text)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("192.0.2.1:53", (net("192.0.2.1/32"), (53, 53))),
        ("192.0.2.0/24", (net("192.0.2.0/24"), None)),
        ("192.0.2.0/24:1-9", (net("192.0.2.0/24"), (1, 9))),
        (":5060-5062", (None, (5060, 5062))),
        (":53", (None, (53, 53))),
        ("[2001:db8::1]:53", (net("2001:db8::1/128"), (53, 53))),
        ("[2001:db8::/32]:53", (net("2001:db8::/32"), (53, 53))),
        ("2001:db8::/32", (net("2001:db8::/32"), None)),
        ("[::1]", (net("::1/128"), None)),
    ],
)
def test_destinations(given: str, found: tuple[Network | None, tuple[int, int] | None]) -> None:
    network, ports = found
    wanted = None if ports is None else Ports(first=ports[0], last=ports[1])
    assert endpoints.destination(given) == Destination(host=network, ports=wanted)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", "expected"),
        (":", "port from 1 to 65535"),
        ("192.0.2.1:", "port from 1 to 65535"),
        ("192.0.2.1:0", "port from 1 to 65535"),
        (":9-1", "upside down"),
        ("53", 'expected ":53" for ports alone'),
        ("5060-5062", 'expected ":5060-5062" for ports alone'),
        ("192.0.2.1/24:53", "bits beyond"),
        ("[]:53", 'expected "\\[ADDRESS'),
        (53, "expected text"),
    ],
)
def test_what_is_no_destination(given: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        endpoints.destination(given)


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("127.0.0.1:53", "127.0.0.1", 53),
        ("127.0.0.1", "127.0.0.1", None),
        ("[::1]:53", "::1", 53),
        ("[::1]", "::1", None),
        ("::1", "::1", None),
        ("255.255.255.255:9", "255.255.255.255", 9),
    ],
)
def test_servers(given: str, host: str, port: int | None) -> None:
    assert endpoints.server(given) == Server(
        host=ip_address(host), ports=None if port is None else Ports(first=port, last=port)
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("0.0.0.0:53", "0.0.0.0 is no server's address"),
        ("[::]:53", ":: is no server's address"),
        ("127.0.0.1:0", "port from 1 to 65535, found 0"),
        ("127.0.0.1:65536", "port from 1 to 65535, found 65536"),
        ("127.0.0.1:domain", "port from 1 to 65535"),
        ("ns.example.org:x", "port from 1 to 65535"),
        ("127.0.0.1:53:54", "is not an address"),
        ("", "is not an address"),
        ("[fe80::1]:53", "is there on each link: say which, such as fe80::1%eth0"),
        (["a"], "expected text in quotes, found a list"),
    ],
)
def test_what_is_no_server(given: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        endpoints.server(given)


def test_name_servers() -> None:
    assert addresses.name_server("192.0.2.53") == NameServer(address=ip_address("192.0.2.53"))
    wanted = NameServer(address=ip_address("::1"), port=5353)
    assert addresses.name_server("[::1]:5353") == wanted
    for wrong in ("0.0.0.0", "224.0.0.251", "ns.example.org", 3):
        with pytest.raises(ValueError):
            addresses.name_server(wrong)


@pytest.mark.parametrize(
    ("given", "found"), [(53, (53, 53)), ("53", (53, 53)), ("1-9", (1, 9)), ("1 - 9", (1, 9))]
)
def test_ports(given: object, found: tuple[int, int]) -> None:
    assert addresses.ports(given) == Ports(first=found[0], last=found[1])


@pytest.mark.parametrize(
    "given", [0, 65536, -1, True, 5.0, "x", "", "1-", "-1", "2-1", "1-2-3", []]
)
def test_what_are_no_ports(given: object) -> None:
    with pytest.raises(ValueError, match=r"port from 1 to 65535|upside down"):
        addresses.ports(given)


def test_endpoints() -> None:
    assert addresses.endpoint(ip_address("::1"), 53) == "[::1]:53"
    assert addresses.endpoint(ip_address("127.0.0.1"), 53) == "127.0.0.1:53"


@pytest.mark.parametrize(
    ("address", "own"),
    [("127.0.0.1", True), ("255.255.255.255", False), ("224.0.0.1", False)],
)
def test_who_is_this_host(address: str, *, own: bool) -> None:
    assert is_own(ip_address(address)) is own
