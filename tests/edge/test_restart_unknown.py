"""A parent's unit that is told to stop while nobody can say whether that is a restart."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, clients, exchange
from host import free_port
from proxy import config
from stored import Units
from udpproxy.bus import Failure, Value
from udpproxy.instance.systemd import Systemd

Answer = Callable[[str, list[Value]], list[Value]]


class Manager:
    """systemd's answers, after so many failures of the bus."""

    def __init__(self, job: Value, kind: str = "restart", failures: int = 0) -> None:
        self._job = job
        self._kind = kind
        self.failures = failures

    async def ask(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Value] | None = None,
        limit: float = 5.0,
    ) -> list[Value]:
        if self.failures:
            self.failures -= 1
            raise Failure("no connection to the bus")
        if member == "GetUnitByPID":
            return ["/unit"]
        assert body is not None
        return [self._job] if body[1] == "Job" else [self._kind]


class Silent(Manager):
    """A bus that hangs."""

    async def ask(self, *words: object, **more: object) -> list[Value]:
        await asyncio.sleep(60)
        raise AssertionError


def asked(manager: Manager, patience: float = 3.0) -> bool | None:
    systemd = Systemd(manager)  # type: ignore[arg-type]
    return asyncio.run(systemd.restarts_us(patience))


def test_what_systemd_says() -> None:
    assert asked(Manager([7, "/job"])) is True
    assert asked(Manager([7, "/job"], "stop")) is False
    assert asked(Manager([0, "/"])) is False


def test_a_bus_that_comes_back_is_waited_for() -> None:
    assert asked(Manager([7, "/job"], failures=5)) is True
    assert asked(Manager([0, "/"], failures=5)) is False


@pytest.mark.parametrize("job", ["nonsense", [], [1], ["1", "/job"], None])
def test_nonsense_is_no_answer(job: Value) -> None:
    assert asked(Manager(job), 0.3) is None


def test_a_bus_that_hangs_is_not_waited_for_long() -> None:
    began = time.monotonic()
    assert asked(Silent([0, "/"]), 0.3) is None
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("engine", NAMES)
def test_the_sessions_go_on(tmp_path: Path, engine: str) -> None:
    """No bus at all, and a signal as systemd sends it."""
    port = free_port()
    text = config(port, "127.0.0.1:9", top=f'max-sessions = 20\nengine = "{engine}"')
    with Echo() as echo, clients(3) as socks:
        text = config(port, str(echo), top=f'max-sessions = 20\nengine = "{engine}"')
        with Units(tmp_path, text) as units:
            units.start()
            for sock in socks:
                exchange(sock, ("127.0.0.1", port), b"before")
            units.reg.send_signal(signal.SIGTERM)
            assert units.stop() == 0
            assert len(units.said("UDPS-122-W")) == 1
            assert units.said("UDPP-888-I") == units.said("UDPS-201-W") == []
            notes = units.said("UDPP-887-I")
            assert [part.rpartition("SESSION=")[2] for part in notes] == ["1", "2", "3"]
            for note in notes:
                assert " BYTES_CIN=6 " in note
                assert "REASON" not in note
                assert "RESULT" not in note
            units.start()
            for sock in socks:
                exchange(sock, ("127.0.0.1", port), b"after")
            assert len(echo.sources) == 3
            assert units.said("UDPS-124-W") == []
            units.terminate()
            assert len(units.said("UDPP-888-I")) == len(units.said("UDPP-887-I")) == 3
