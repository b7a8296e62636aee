"""Sockets of sessions whose rule says from which port they write to the server (source-port).

What was bound to a port by its number never gives it back: connect(2) to AF_UNSPEC leaves it. So
the slot of such a session is spent when it ends, until the parent has made another socket for it.
SO_REUSEADDR, which lets sessions share an end of ours, tells these sockets from others, whoever
looks: no other has it, for what is bound to any port by the system would share that, too.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import NamedTuple

from udpproxy.proxy.engine import sockets
from udpproxy.proxy.engine.ends import Claim
from udpproxy.proxy.engine.pool import Sources, anywhere, name_of
from udpproxy.proxy.session.peers import Endpoint


class Aim(NamedTuple):
    """Where a session leads, and from where: by the first of the sources that has that port."""

    server: Endpoint
    sources: Sources
    port: int
    broadcast: bool = False


def bind(sock: socket.socket, aim: Aim, claim: Claim) -> Endpoint:
    """The socket has no port so far. Our own end as the server will see it; OSError, and the socket
    may have the port for good nevertheless."""
    sockets.disconnect(sock)
    sockets.allow_broadcast(sock, on=aim.broadcast)
    number = errno.EADDRNOTAVAIL
    problem = OSError(number, os.strerror(number))
    for source in aim.sources.addresses:
        try:
            return _bind(sock, aim, source, claim)
        except OSError as why:
            if why.errno == errno.EACCES or sockets.keeps_port(sock):
                raise
            if problem.errno != errno.EADDRINUSE:
                problem = why
    if problem.errno == errno.EADDRINUSE or not aim.sources.fallback:
        raise problem
    return _bind(sock, aim, "", claim)


def _bind(sock: socket.socket, aim: Aim, source: str, claim: Claim) -> Endpoint:
    """Who has our end already is asked before there is a port that would stay."""
    address = source or _learn(sock, aim, alone=claim.alone)
    if address and not claim.take((address, aim.port)):
        raise _in_use()
    at = address if claim.alone else source or anywhere(sock)
    sockets.share_port(sock, on=True)
    try:
        sock.bind(sockets.whole((at, aim.port)))
    except OSError:
        sockets.share_port(sock, on=False)
        claim.give_back()
        raise
    try:
        own = (address, aim.port)
        if not claim.alone:
            sock.connect(sockets.whole(aim.server))
            own = name_of(sock)
            if own[0] != address and not claim.take(own):
                raise _in_use()
        if sockets.discard(sock, sockets.MOST_EARLY) == sockets.MOST_EARLY:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    except OSError:
        sockets.park(sock)  # first, for then others may have the end
        claim.give_back()
        raise
    if claim.alone:
        sockets.report_errors(sock, on=True)
    return own


def _learn(sock: socket.socket, aim: Aim, *, alone: bool) -> str:
    """From which of our addresses the system would write to the server; "": it has no port left to
    say so by."""
    try:
        if aim.sources.unbind:
            sock.bind((anywhere(sock), 0))
        sock.connect(sockets.whole(aim.server))
        return name_of(sock)[0]
    except OSError as problem:
        if problem.errno != errno.EAGAIN or alone:
            raise
        return ""
    finally:
        sockets.disconnect(sock)


def rejoin(sock: socket.socket, peer: Endpoint, claim: Claim, *, connected: bool) -> Endpoint:
    """The socket has its port for good, and is to lead to `peer`; `connected`: to it only. OSError:
    then the session has no end of ours, as with any other socket, and this one hears nothing."""
    sockets.deafen(sock, on=True)
    sockets.drain(sock)
    sockets.disconnect(sock)
    sock.connect(sockets.whole(peer))
    own = name_of(sock)
    if not connected:
        sockets.disconnect(sock)
    if not claim.take(own):
        sockets.disconnect(sock)
        raise _in_use()
    sockets.report_errors(sock, on=not connected)
    if connected:
        sockets.take_errors(sock)
    sockets.deafen(sock, on=False)
    return own


def _in_use() -> OSError:
    return OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
