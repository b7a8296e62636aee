"""Who may reply in a session (SPEC 3), for the types whose socket is not connected.

Sessions with a connected socket never come here for a stranger: the kernel refuses him.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from udpproxy.config.model import Network
from udpproxy.proxy.config.model import SessionType

Endpoint = tuple[str, int]


class Reply(enum.Enum):
    """What is done with a datagram from the server side."""

    PASS = "pass"
    PIN = "pin"
    """Pass it, and from now on its sender is the only peer, in both directions."""
    IGNORE = "ignore"
    END = "end"


@dataclass(frozen=True, slots=True)
class PeerRule:
    """The rule of one session; `network` only for broadcast, as (first, last) packed addresses."""

    type: SessionType
    server: Endpoint
    any_port: bool = False
    network: tuple[bytes, bytes] | None = None


def network_bounds(network: Network) -> tuple[bytes, bytes]:
    """The first and the last address, packed, so that membership is two comparisons of bytes."""
    return network.network_address.packed, network.broadcast_address.packed


def judge(rule: PeerRule, pinned: Endpoint | None, sender: Endpoint, packed: bytes) -> Reply:
    """`sender` is the datagram's source, `packed` its address as bytes."""
    if sender[1] == 0:
        return Reply.IGNORE  # nobody can be written to there: it is forged (RFC 768)
    if pinned is not None:
        return Reply.PASS if sender == pinned else Reply.IGNORE
    match rule.type:
        case SessionType.NORMAL:
            return Reply.PASS if sender == rule.server else Reply.IGNORE
        case SessionType.ONE_WAY:
            return Reply.END if sender == rule.server else Reply.IGNORE
        case SessionType.ANY_PORT:
            return Reply.PIN if sender[0] == rule.server[0] else Reply.IGNORE
        case SessionType.ANY_SOCK:
            return Reply.PIN
        case SessionType.BROADCAST:  # pragma: no branch - there are no more types
            return Reply.PASS if _in_broadcast(rule, sender, packed) else Reply.IGNORE


def _in_broadcast(rule: PeerRule, sender: Endpoint, packed: bytes) -> bool:
    if rule.network is None or len(packed) != len(rule.network[0]):
        return False
    return rule.network[0] <= packed <= rule.network[1] and (
        rule.any_port or sender[1] == rule.server[1]
    )
