"""What goes wrong on a link, as an administrator hears of it: at most one line a second."""

from __future__ import annotations

from collections.abc import Callable

from udpproxy.process import messages
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs, RateLimit


def said_by(logs: Logs, name: str) -> Callable[[Link, str], None]:
    """`failed` of a link to that process."""
    rate_limit = RateLimit()

    def failed(link: Link, what: str) -> None:
        held = rate_limit.allow(name)
        if held is not None:
            logs.say(messages.LINK_FAULT, name, what, held)

    return failed
