"""Copies of what servers get, for the other receivers of `mirror-to`, in the Python engine.

The original comes first, and nothing that happens to a copy concerns it: copies are never waited
for. They leave from sockets that the parent has made for each receiver, which hear nothing.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from types import MappingProxyType

from udpproxy.proxy.engine import dscp, sockets
from udpproxy.proxy.engine.handing import Handing
from udpproxy.proxy.engine.listened import Listening
from udpproxy.proxy.engine.relayed import Relayed


class Mirroring(Handing):
    """What take_mirrors() of the interface does, and what it is for."""

    _mirrors: Mapping[bytes, socket.socket] = MappingProxyType({})
    _mirror_ports: frozenset[int] = frozenset()

    def take_mirrors(self, mirrors: dict[bytes, socket.socket]) -> None:
        """By the receivers' addresses."""
        self._mirrors = dict(mirrors)
        self._mirror_ports = frozenset(sock.getsockname()[1] for sock in mirrors.values())

    def _copy(self, session: Relayed, data: bytes) -> None:
        """To all receivers of its rule, whatever became of the original."""
        receivers = session.verdict.mirrors
        if not receivers:
            return
        body = (session.header, data) if session.header else (data,)
        sent = 0
        for receiver in receivers:
            try:
                self._send_copy(session, body, receiver)
                sent += 1
            except OSError as problem:
                self._table.count("mirror-errors")
                self._host.not_copied(session.verdict.rule, receiver, problem)
        self._table.count("mirrored", sent)

    def _send_copy(
        self, session: Relayed, body: tuple[bytes, ...], receiver: tuple[str, int]
    ) -> None:
        packed = sockets.pack(receiver[0])
        sock = self._mirrors.get(packed)
        if sock is None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        control = dscp.with_tos(sock.family, session.tos)
        source = session.source()
        if len(source) == len(packed):
            control += sockets.answer_from(source, 0)
        sock.sendmsg(body, control, socket.MSG_DONTWAIT, sockets.whole(receiver))

    def _is_own(self, listening: Listening, client: tuple[str, int], local: bytes) -> bool:
        """A copy that came back to us would be copied again."""
        if super()._is_own(listening, client, local):
            return True
        own = local or listening.given.address.packed
        sender = sockets.pack(client[0])
        return client[1] in self._mirror_ports and (sender == own or sockets.is_loopback(sender))
