"""What the log hears of callers on the bus: a line a second, however often they call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from udpproxy.instance.bus_service import BusService
from udpproxy.instance.service import Service
from udpproxy.instance.state import State
from udpproxy.process.logs import Logs
from udpproxy.process.wire import Plain
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.identity import IDENTITY
from udpproxy.proxy.parent.service import ProxyService
from udpproxy.proxy.product import PROXY
from udpproxy.proxy.session.table import TOTALS


class Nobody:
    """Asks for nothing."""

    async def perform(self, verb: str, arguments: dict[str, Plain]) -> Plain:
        """As Commands."""
        raise AssertionError(verb)


class Counted(ProxyService):
    """One whose sessions nobody carries."""

    def __init__(self) -> None:
        self.asked = 0
        self.config = Config(max_sessions=1, listen=())

    @property
    def _live(self) -> int:
        return 0

    def totals(self) -> dict[str, int]:
        """Each costs a look at every session."""
        self.asked += 1
        return dict.fromkeys(TOTALS, 7)


def served(service: object = None) -> BusService:
    state = SimpleNamespace(brief=lambda: dict.fromkeys(("version", "instance", "state")))
    return BusService(
        Logs("test"), PROXY, cast(Service[Any], service), cast(State, state), Nobody()
    )


SAID: Mapping[str, Callable[[BusService], None]] = {
    "UDPS-530-C internal error": lambda service: service.broken(KeyError("on purpose")),
    "UDPS-324-W": lambda service: service.ignored("it has 100000 bytes"),
    "UDPS-322-W": lambda service: service.refused("Reload", 1000, "not allowed"),
}


@pytest.mark.parametrize("line", SAID)
def test_what_callers_can_repeat_is_said_once_a_second(
    line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    service = served()
    for _ in range(100):
        SAID[line](service)
    assert capfd.readouterr().err.count(line) == 1


def test_counters_are_added_up_for_nobody_who_does_not_ask() -> None:
    """A signal tells of the number of sessions each second: that is not to cost what all do."""
    counted = Counted()
    service = served(counted)
    root, interface = IDENTITY.root, IDENTITY.interface
    assert "Sessions" in service.properties(root, interface, {"Sessions", "State"})
    assert counted.asked == 0
    assert service.properties(root, interface, ["UploadBytes"])["UploadBytes"] == 7
    assert service.properties(root, interface)["Drops"] == 14
    assert counted.asked == 2
