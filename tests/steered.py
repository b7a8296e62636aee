"""Listening sockets of several workers, as the parent makes them."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from host import free_port
from udpproxy.proxy.config.model import Place
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.parent.listening import listening_sockets

KEY = 0x0123456789ABCDEF


def steered(workers: int, host: str = "127.0.0.1", key: int = KEY) -> ListenerSocket:
    """A listener; to be closed by whoever asks."""
    port = free_port(host)
    place = Place(ip_address(host), port)
    first, *others = listening_sockets(place, workers, key)
    return ListenerSocket(1, first, place, tuple(others))


def got(listener: ListenerSocket, senders: list[socket.socket]) -> list[int]:
    """Which worker gets the datagram of which sender."""
    each = listener.sockets
    where = []
    for sender in senders:
        sender.sendto(b"x", (str(listener.address), listener.port))
        for number, sock in enumerate(each):
            try:
                sock.recv(1)
            except BlockingIOError:
                continue
            where.append(number)
    return where
