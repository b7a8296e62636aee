"""Which listeners expect PROXY headers, and from whom, and which are to tell the DSCP of what comes
in, as the configuration has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from udpproxy.config.model import Network
from udpproxy.proxy.config.check import may_serve
from udpproxy.proxy.config.model import KEEP, Config, Place
from udpproxy.proxy.engine.interface import ListenerSocket
from udpproxy.proxy.session.layout import Record

STRANGER = "its sender is none of proxy-protocol-from"
NO_HEADER = "it does not begin with a PROXY header of version 2 for UDP"


class HeaderSenders:
    """Of all listeners that REG has."""

    def __init__(self) -> None:
        self._listeners: dict[int, ListenerSocket] = {}
        self._config: Config | None = None
        self._headed: dict[Place, tuple[Network, ...]] = {}
        """Of that configuration, by place."""
        self._marked: frozenset[Place] = frozenset()
        """The same of those where rules keep the DSCP."""

    def enter(self, lent: ListenerSocket, config: Config) -> ListenerSocket:
        """A new listener with what the file says of it."""
        if config is not self._config:  # once for all of them, which may be thousands
            self._config, self._headed = config, config.headed()
            self._marked = keeping_dscp(config)
        header_from = self._headed.get(lent.place, ())
        listener = replace(lent, header_from=header_from, tells_dscp=lent.place in self._marked)
        self._listeners[lent.number] = listener
        return listener

    def remove(self, number: int) -> None:
        """It is gone."""
        self._listeners.pop(number, None)

    def configure(self, config: Config) -> Iterator[ListenerSocket]:
        """Another configuration: the listeners of which it says something else."""
        for before in list(self._listeners.values()):
            after = self.enter(before, config)
            told = before.header_from, before.tells_dscp
            if (after.header_from, after.tells_dscp) != told:
                yield after

    def allow(self, record: Record) -> bool:
        """May who sends the session's datagrams go on so?"""
        listener = self._listeners.get(record.listener)
        header_from = listener.header_from if listener else ()
        if not header_from:
            return record.via is None
        return _is_in((record.via or record.client)[0], header_from)

    def why(self, listener: ListenerSocket, sender: str) -> str:
        """What is wrong with a datagram that is dropped as `bad-header`."""
        known = self._listeners.get(listener.number, listener)
        address = ip_address(sender.partition("%")[0]).packed
        return NO_HEADER if _is_in(address, known.header_from) else STRANGER


def keeping_dscp(config: Config) -> frozenset[Place]:
    """Where datagrams come in whose DSCP a rule may keep."""
    rules = [rule for rule in config.rules if rule.accept and rule.dscp == KEEP]
    return frozenset(
        place
        for listen in config.listen
        if any(may_serve(rule, listen) for rule in rules)
        for place in listen.places()
    )


def _is_in(packed: bytes, networks: tuple[Network, ...]) -> bool:
    address = ip_address(packed)
    return any(address in network for network in networks)
