"""What the log hears of callers on the bus: a line a second, however often they call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from udpproxy.bus import PROXY
from udpproxy.instance.bus_service import ROOT, BusService
from udpproxy.process.logs import Logs
from udpproxy.process.wire import Plain
from udpproxy.proxy.policy.acl import Unresolved
from udpproxy.proxy.session.table import TOTALS


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


def test_counters_are_added_up_for_nobody_who_does_not_ask() -> None:
    """A signal tells of the number of sessions each second: that is not to cost what all do."""
    asked: list[str] = []

    def totals() -> dict[str, int]:
        asked.append("totals")
        return dict.fromkeys(TOTALS, 7)

    nothing = Nothing()
    service = BusService(
        Logs("test"),
        config=nothing,
        figures=lambda: dict.fromkeys(("version", "instance", "state", "sessions", "max-sessions")),
        totals=totals,
        process=nothing,
        perform=perform,
        known=Unresolved(),
    )
    assert "Sessions" in service.properties(ROOT, PROXY, {"Sessions", "State"})
    assert asked == []
    assert service.properties(ROOT, PROXY, ["UploadBytes"])["UploadBytes"] == 7
    assert service.properties(ROOT, PROXY)["Drops"] == 14
    assert len(asked) == 2
