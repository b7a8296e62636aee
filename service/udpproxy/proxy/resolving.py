"""What the proxy's configuration gives its resolvers to do."""

from __future__ import annotations

from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.names import asks, names
from udpproxy.resolver.assignment import Assignment

_ANY = (0, 0)
"""The parent has judged ranges of ports by the kernel's; a resolver may see another default."""


def assignment(text: str, origin: str) -> Assignment:
    """See resolver.assignment.Read."""
    config = parse(text, origin, ephemeral=_ANY)
    return Assignment(
        names=names(config), on_demand=asks(config), resolver=config.resolver, log=config.log
    )
