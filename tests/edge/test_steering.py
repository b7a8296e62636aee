"""Which worker has which client: no sender chooses, and extension headers make no difference."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from echo import clients
from steered import got, steered
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.parent import steering

WORKERS = 4
HOP_BY_HOP, FRAGMENT, DESTINATION = 0, 44, 60
IPV6_HDRINCL = 36
UNKNOWN = 0x1E
"""An option that nobody has to know (RFC 4727)."""


@contextlib.contextmanager
def listening(host: str, key: int) -> Iterator[ListenerSocket]:
    listener = steered(WORKERS, host, key)
    try:
        yield listener
    finally:
        for sock in listener.sockets:
            sock.close()


def with_port(host: str, remainder: int) -> socket.socket:
    """A client whose port is so many beyond a multiple of WORKERS."""
    while True:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        if sock.getsockname()[1] % WORKERS == remainder:
            return sock
        sock.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_sender_chooses_a_worker(host: str) -> None:
    """By the sum of address and port all of these would come to the same one."""
    found = []
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(with_port(host, 2)) for _ in range(64)]
        for key in (0x5A9E3C0F71D2B864, 0xC3A5C85C97CB3127, 0xFEDCBA9876543210):
            with listening(host, key) as listener:
                found.append(got(listener, senders))
                counts = Counter(found[-1])
                assert sorted(counts) == [0, 1, 2, 3]
                assert max(counts.values()) < 40
    assert found[0] != found[1] != found[2] != found[0]


def option(kind: int, following: int, words: int) -> bytes:
    """An extension header of eight bytes and so many times eight more."""
    if kind == FRAGMENT:
        return struct.pack("!BxHI", following, 0, 1)  # all of it is in this one
    return bytes([following, words, UNKNOWN, 8 * (words + 1) - 4]).ljust(8 * (words + 1), b"\0")


def packet(source: int, to: tuple[str, int], headers: list[tuple[int, int]]) -> bytes:
    """From ::1 to ::1, with these extension headers in that order."""
    address = ip_address("::1").packed
    udp = struct.pack("!HHHH", source, to[1], 9, 0) + b"x"
    summed = address * 2 + struct.pack("!II", len(udp), socket.IPPROTO_UDP) + udp + b"\0"
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    udp = udp[:6] + struct.pack("!H", ~total & 0xFFFF or 0xFFFF) + udp[8:]
    kinds = [*(kind for kind, _ in headers), socket.IPPROTO_UDP]
    before = b"".join(
        option(kind, kinds[place + 1], words) for place, (kind, words) in enumerate(headers)
    )
    head = struct.pack("!IHBB", 6 << 28, len(before + udp), kinds[0], 64)
    return head + address * 2 + before + udp


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(HOP_BY_HOP, 0)],
        [(HOP_BY_HOP, 3), (DESTINATION, 1)],
        [(FRAGMENT, 0)],
        [(DESTINATION, 0), (FRAGMENT, 0), (DESTINATION, 2)],
        [(DESTINATION, words % 3) for words in range(20)],
    ],
    ids=len,
)
def test_extension_headers_lead_to_the_same_worker(headers: list[tuple[int, int]]) -> None:
    with (
        listening("::1", 0x1122334455667788) as listener,
        clients(24, "::1") as senders,
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        raw.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
        plain = got(listener, senders)
        assert len(plain) == 24
        each = listener.sockets
        there = "::1", listener.port
        for sender, worker in zip(senders, plain, strict=True):
            source = sender.getsockname()[1]
            raw.sendto(packet(source, there, headers), ("::1", 0))
            assert each[worker].recvfrom(10)[1][1] == source


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_nobody_is_served_before_clients_are_divided(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes while the sockets are made would go to the first one."""
    steer = steering.steer

    with clients(24, host) as senders:

        def late(sock: socket.socket, workers: int, key: int) -> None:
            for sender in senders:
                sender.sendto(b"early", sock.getsockname()[:2])
            steer(sock, workers, key)

        monkeypatch.setattr(steering, "steer", late)
        with listening(host, 0x1122334455667788) as listener:
            for sock in listener.sockets:
                with pytest.raises(BlockingIOError):
                    sock.recv(10)
            assert len(got(listener, senders)) == 24
