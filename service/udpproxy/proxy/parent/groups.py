"""Multicast groups that listeners are members of (ip(7), ipv6(7)).

The system forgets a membership with its socket and with its interface, and refuses one while no
interface has a route there: what could not be joined is tried again when the network changes.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Mapping

from udpproxy.config.model import Address
from udpproxy.process import messages
from udpproxy.process.logs import Logs
from udpproxy.proxy.config.model import Place
from udpproxy.proxy.engine.interface import ListenerSocket

_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
_MREQN = struct.Struct("=4s4si")
_MREQ6 = struct.Struct("=16si")


class Memberships:
    """Which groups each place is to be a member of."""

    def __init__(self, logs: Logs, wanted: Mapping[Place, tuple[Address, ...]]) -> None:
        self._logs = logs
        self._wanted = dict(wanted)
        self._missing: set[tuple[Place, Address]] = set()
        """Not joined so far; each is said once."""

    def join(self, listener: ListenerSocket, links: Mapping[str, int]) -> None:
        """All of the listener's groups."""
        if listener.absent:
            return
        for group in self._wanted.get(listener.place, ()):
            self._join(listener, group, links)

    def retry(
        self,
        listeners: Mapping[Place, ListenerSocket],
        links: Mapping[str, int],
        gone: Collection[str],
    ) -> None:
        """The network has changed. A membership by an interface that has `gone` is none."""
        lost = {
            (place, group)
            for place, each in self._wanted.items()
            for group in each
            if not place.link and (getattr(group, "scope_id", None) or "") in gone
        }
        for place, group in [*self._missing, *lost]:
            listener = listeners.get(place)
            if listener is not None and not listener.absent:
                self._join(listener, group, links)

    def replace(
        self,
        wanted: Mapping[Place, tuple[Address, ...]],
        listeners: Mapping[Place, ListenerSocket],
        links: Mapping[str, int],
    ) -> None:
        """Others from now on: those are left, these joined."""
        before, self._wanted = self._wanted, dict(wanted)
        self._missing = {(place, group) for place, group in self._missing if place in wanted}
        for place, listener in listeners.items():
            if listener.absent:
                continue
            for group in set(before.get(place, ())) - set(wanted.get(place, ())):
                self._missing.discard((place, group))
                with contextlib.suppress(OSError):  # it was none
                    _set(listener, group, _number(place, group, links), join=False)
            self.join(listener, links)

    def _join(self, listener: ListenerSocket, group: Address, links: Mapping[str, int]) -> None:
        place = listener.place
        try:
            _set(listener, group, _number(place, group, links), join=True)
        except OSError as problem:
            if (place, group) not in self._missing:
                self._missing.add((place, group))
                self._logs.say(messages.GROUP_NOT_JOINED, group, place, problem.strerror)
        else:
            self._missing.discard((place, group))


def _number(place: Place, group: Address, links: Mapping[str, int]) -> int:
    """Of the interface by which the group is joined; 0: the one that has a route there."""
    zone = group.scope_id if group.version == 6 else None
    name = place.interface or zone
    if not name:
        return 0
    if name not in links:
        raise OSError(errno.ENODEV, f"there is no interface {name}")
    return links[name]


def _set(listener: ListenerSocket, group: Address, link: int, *, join: bool) -> None:
    """For each of its sockets; OSError where the system refuses."""
    if group.version == 4:
        level, every = socket.IPPROTO_IP, _IP_MULTICAST_ALL
        option = socket.IP_ADD_MEMBERSHIP if join else socket.IP_DROP_MEMBERSHIP
        value = _MREQN.pack(group.packed, bytes(4), link)
    else:
        level, every = socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL
        option = socket.IPV6_JOIN_GROUP if join else socket.IPV6_LEAVE_GROUP
        value = _MREQ6.pack(group.packed, link)
    for sock in listener.sockets:
        # Else it would hear what any program of this host is a member of.
        sock.setsockopt(level, every, 0)
        try:
            sock.setsockopt(level, option, value)
        except OSError as problem:
            if not join or problem.errno != errno.EADDRINUSE:  # it is a member
                raise
