"""One question to a whole network, and everybody who may answer does (SPEC 3, broadcast)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from echo import udp
from namespaces import Network, ip
from proxy import Endpoint, Proxy, config, until

PORT = 9_999
QUESTION = b"who is there?"
BROADCAST = 'type = "broadcast"\nbroadcast-network = "10.99.0.0/24"\n'
_IP_PKTINFO = 8
OUTSIDE = (
    socket.IPPROTO_IP,
    _IP_PKTINFO,
    struct.pack("=I4s4s", 0, socket.inet_aton("10.99.1.13"), bytes(4)),
)
"""Makes a datagram leave from an address that is not in the broadcast network."""


@dataclass
class Lab:
    """A client, a proxy and those who hear the broadcast."""

    network: Network
    client: socket.socket
    hearers: list[socket.socket]
    other_port: socket.socket

    def question(self) -> Endpoint:
        """Ask; where everybody heard it from."""
        self.client.sendto(QUESTION, ("10.99.0.1", PORT))
        sources = set()
        for hearer in self.hearers:
            data, source = hearer.recvfrom(1000)
            assert data == QUESTION
            sources.add(source)
        (source,) = sources
        address, port = source
        assert address == "10.99.0.1"
        return address, port

    def answers(self) -> list[bytes]:
        """What the client gets, in any order, until nothing more comes."""
        found = []
        self.client.settimeout(0.5)
        try:
            while True:
                data, source = self.client.recvfrom(1000)
                assert source == ("10.99.0.1", PORT)
                found.append(data)
        except TimeoutError:
            return sorted(found)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Network() as network, ExitStack() as stack:

        def sock(host: str, address: str = "0.0.0.0", port: int = PORT) -> socket.socket:
            return stack.enter_context(network.on(host, lambda: udp(address, port)))

        network.add("proxy", "10.99.0.1/24", "10.99.1.1/24")
        network.add("client", "10.99.0.2/24")
        for number in range(4):
            network.add(f"r{number}", f"10.99.0.{10 + number}/24", f"10.99.1.{10 + number}/24")
        hearers = [sock(f"r{number}") for number in range(4)]
        yield Lab(
            network=network,
            client=sock("client", port=0),
            hearers=hearers,
            other_port=sock("r3", "10.99.0.13", PORT + 1),
        )


@contextmanager
def proxy_in(
    lab: Lab,
    directory: Path,
    more: str = "",
    *,
    listen: str = "10.99.0.1",
    to: str = "10.99.0.255",
) -> Iterator[Proxy]:
    text = config(PORT, f"{to}:{PORT}", listen=listen, acl=BROADCAST + more)
    with Proxy(directory, text, prefix=lab.network.prefix("proxy")) as proxy:
        yield proxy


def everybody_answers(lab: Lab) -> list[bytes]:
    """Three who may, one from outside, one from another port: what arrives of that."""
    source = lab.question()
    for number, hearer in enumerate(lab.hearers[:3]):
        hearer.sendto(b"responder %d" % number, source)
    lab.hearers[3].sendmsg([b"from outside"], [OUTSIDE], 0, source)
    lab.other_port.sendto(b"from another port", source)
    return lab.answers()


def test_only_the_network_from_the_port_asked(lab: Lab, tmp_path: Path) -> None:
    with proxy_in(lab, tmp_path) as proxy:
        assert everybody_answers(lab) == [b"responder 0", b"responder 1", b"responder 2"]
        # Nothing was fixed by the answers: it goes on the same way, from the same port.
        assert everybody_answers(lab) == [b"responder 0", b"responder 1", b"responder 2"]
        (row,) = proxy.sessions()
        assert (row["type"], row["datagrams-up"], row["datagrams-down"]) == ("broadcast", 2, 6)
        assert proxy.info()["stray-replies"] == 4
        assert until(lambda: proxy.said("UDPS-630-W"))


def test_reply_port_any(lab: Lab, tmp_path: Path) -> None:
    with proxy_in(lab, tmp_path, 'reply-port = "any"') as proxy:
        assert everybody_answers(lab) == [
            *(b"from another port", b"responder 0", b"responder 1", b"responder 2")
        ]
        assert proxy.info()["stray-replies"] == 1


@pytest.mark.parametrize("to", ["10.99.0.255", "255.255.255.255"])
def test_the_port_that_is_listened_on_everywhere(lab: Lab, tmp_path: Path, to: str) -> None:
    """As where DHCP is relayed: our own copy of the broadcast opens nothing."""
    ip("-n", lab.network.name("proxy"), "route", "add", "255.255.255.255", "dev", "eth0")
    with proxy_in(lab, tmp_path, listen="0.0.0.0", to=to) as proxy:
        assert everybody_answers(lab) == [b"responder 0", b"responder 1", b"responder 2"]
        assert len(proxy.sessions()) == 1
        until(lambda: proxy.info()["refused-own-socket"] == 1)


def test_ourselves_are_no_network(lab: Lab, tmp_path: Path) -> None:
    text = config(PORT, f"10.99.0.1:{PORT}", listen="0.0.0.0")
    proxy = Proxy(tmp_path, text, prefix=lab.network.prefix("proxy"))
    with pytest.raises(AssertionError, match="ended with 71"), proxy:
        pass
    assert f"plug-to: 10.99.0.1:{PORT} is the proxy itself" in proxy.said("UDPS-521-E")[0]
