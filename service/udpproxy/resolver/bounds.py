"""How much REG may ask of APR at once, and how long an answer may take: both keep to it."""

from __future__ import annotations

from udpproxy.config.model import Resolver

IN_FLIGHT = 256
"""Look-ups of clients and servers; each of them may need a few questions."""


MOST_NAMES = 8
"""Names of one client that are looked at."""


def total(resolver: Resolver) -> float:
    """Seconds for one of them. An answer that comes after the session's time is kept all the
    same, for the client's next one."""
    return max(resolver.initial_timeout, resolver.timeout)
