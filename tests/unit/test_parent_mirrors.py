"""The sockets that copies leave from, as the parent makes, keeps and lends them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import cast

import pytest

from udpproxy.errors import UnitError
from udpproxy.process import wire
from udpproxy.process.link import Item, Link
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.parent.mirrors import Mirrors

FOUR, SIX, OTHER = (ip_address(host).packed for host in ("127.0.0.2", "::1", "127.0.0.3"))


def wanting(*receivers: str) -> Config:
    mirrors = f"mirror-to = {list(receivers)}" if receivers else ""
    return parse(
        'max-sessions = 1\n[[listen]]\naddress = "127.0.0.1"\nport = 5300\n'
        f'[[session-acl]]\nname = "all"\nplug-to = "127.0.0.1:9"\n{mirrors}\n',
        "test.toml",
    )


class FakeLink:
    """Takes what is lent."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.descriptors: list[int] = []

    def pour(self, items: Iterator[Item]) -> None:
        for message, descriptors in items:
            assert isinstance(message, wire.Lend)
            assert message.what == "mirrors"
            self.hosts += map(str, message.items)
            self.descriptors += descriptors


def lent(mirrors: Mirrors) -> list[str]:
    link = FakeLink()
    mirrors.lend(cast(Link, link))
    assert len(link.descriptors) == len(set(link.descriptors)) == len(link.hosts)
    return link.hosts


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    with contextlib.closing(Mirrors()) as mirrors:
        yield mirrors


def ports(mirrors: Mirrors) -> dict[bytes, int]:
    return {host: sock.getsockname()[1] for host, sock in mirrors._sockets.items()}


def test_one_for_each_host(mirrors: Mirrors) -> None:
    config = wanting("127.0.0.2:1", "127.0.0.2:2", "[::1]:1")
    assert mirrors.fill(config, foreign=False) == [FOUR, SIX]
    assert mirrors.fill(config, foreign=False) == []
    assert lent(mirrors) == [FOUR.hex(), SIX.hex()]
    assert lent(mirrors) == []
    kept = ports(mirrors)
    assert mirrors.fill(wanting("127.0.0.2:1", "127.0.0.3:1"), foreign=False) == [OTHER]
    mirrors.keep(wanting("127.0.0.2:1", "127.0.0.3:1").receivers())
    assert lent(mirrors) == [OTHER.hex()]
    assert ports(mirrors) == {FOUR: kept[FOUR], OTHER: ports(mirrors)[OTHER]}
    mirrors.drop([OTHER])
    mirrors.keep(())
    assert ports(mirrors) == {}


def test_the_next_reg_gets_good_ones(mirrors: Mirrors) -> None:
    """Whatever the last one has done to them, and from the ports that receivers know."""
    mirrors.fill(wanting("127.0.0.2:1", "[::1]:1"), foreign=False)
    lent(mirrors)
    before, spoilt = ports(mirrors), mirrors._sockets[FOUR]
    spoilt.connect(("127.0.0.1", 9))
    spoilt.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
    mirrors.renew()
    assert ports(mirrors) == before
    assert lent(mirrors) == [FOUR.hex(), SIX.hex()]
    good = mirrors._sockets[FOUR]
    assert good.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 100_000
    with pytest.raises(OSError, match="not connected"):
        good.getpeername()
    with good.dup():  # it did not go
        mirrors.renew()
    after = ports(mirrors)
    assert after[SIX] == before[SIX]
    assert after[FOUR] not in (0, before[FOUR])


def test_they_hear_nothing(mirrors: Mirrors) -> None:
    mirrors.fill(wanting("127.0.0.2:1"), foreign=False)
    (sock,) = mirrors._sockets.values()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        sock.sendto(b"copy", receiver.getsockname())
        data, sender = receiver.recvfrom(100)
        receiver.sendto(b"answer", sender)
        receiver.sendto(b"answer", sender)
    assert data == b"copy"
    with pytest.raises(BlockingIOError):
        sock.recv(100)


def test_a_system_that_refuses(mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    """All or none of the new ones."""
    mirrors.fill(wanting("127.0.0.3:1"), foreign=False)

    with monkeypatch.context() as patch:
        patch.setattr("udpproxy.proxy.parent.mirrors.sockets.allow_fragments", refuse_six)
        with pytest.raises(UnitError, match="mirror-to: Address family not supported"):
            mirrors.fill(wanting("127.0.0.2:1", "[::1]:1"), foreign=False)
    assert list(mirrors._sockets) == [OTHER]


def refuse_six(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        raise OSError(97, "Address family not supported by protocol")
