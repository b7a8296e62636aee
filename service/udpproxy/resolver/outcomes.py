"""How probes ended, as ACR tells it: one value, one form on a link, one set of bounds. Pure.

Who hears of them reads them here. What does not fit costs that outcome only. No outcome says more
than the one probe: how many of them make a server up or down is the listener's business.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from udpproxy.process.wire import Plain

MOST = 64
"""In one message: some kilobytes, and a fraction of a millisecond for whoever reads it."""

_LONGEST_GROUP = 64
_LONGEST_SERVER = 300
"""A name of 253 characters, brackets, a zone, a port."""
_LONGEST_WHY = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one probe; `why` it failed, "" where the server answered as it should."""

    group: str
    server: str
    why: str = ""

    @property
    def good(self) -> bool:
        """Does the server live?"""
        return not self.why

    def plain(self) -> list[Plain]:
        """As it goes over a link."""
        return [self.group, self.server, self.good, self.why[:_LONGEST_WHY]]


@dataclass(slots=True)
class HeardOutcomes:
    """How many did not fit, and why the first did not."""

    found: list[Outcome] = field(default_factory=list)
    refused: int = 0
    why: str = ""


def read(told: Plain, wanted: Container[tuple[str, str]]) -> HeardOutcomes:
    """Outcomes as another process tells them. Those of servers that are not `wanted`, by group and
    name, are left out: it may not know yet of a reload that has taken them away."""
    if not isinstance(told, list) or len(told) > MOST:
        return HeardOutcomes(refused=1, why=f"no list of at most {MOST} outcomes")
    heard = HeardOutcomes()
    for item in told:
        found = _outcome(item)
        if found is None:
            heard.refused += 1
            heard.why = "no outcome of a probe"
        elif (found.group, found.server) in wanted:
            heard.found.append(found)
    return heard


def _outcome(item: Plain) -> Outcome | None:
    match item:
        case [str(group), str(server), bool(good), str(why)] if (
            good == (not why)
            and len(group) <= _LONGEST_GROUP
            and len(server) <= _LONGEST_SERVER
            and len(why) <= _LONGEST_WHY
        ):
            return Outcome(group, server, why)
        case _:
            return None
