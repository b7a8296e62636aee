"""What the log hears of callers on the bus: a line a second, however often they call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from udpproxy.parent.service import BusService
from udpproxy.policy.acl import Unresolved
from udpproxy.process.logs import Logs
from udpproxy.process.wire import Plain


class Nothing:
    """Nobody asks for any of it."""

    def __call__(self, *words: Any) -> Any:
        raise AssertionError(words)


async def perform(verb: str, args: dict[str, Plain]) -> Plain:
    raise AssertionError(verb)


SAID: dict[str, Callable[[BusService], None]] = {
    "UDPS-530-C internal error": lambda service: service.broken(KeyError("on purpose")),
    "UDPS-324-W": lambda service: service.ignored("it has 100000 bytes"),
    "UDPS-322-W": lambda service: service.refused("Reload", 1000, "not allowed"),
}


@pytest.mark.parametrize("line", SAID)
def test_what_callers_can_repeat_is_said_once_a_second(
    line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    nothing = Nothing()
    service = BusService(
        Logs("test"),
        config=nothing,
        figures=nothing,
        totals=nothing,
        process=nothing,
        perform=perform,
        known=Unresolved(),
    )
    for _ in range(100):
        SAID[line](service)
    assert capfd.readouterr().err.count(line) == 1
