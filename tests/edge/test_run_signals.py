"""Signals and commands: the same verbs by either, to all or to one, and none lost in a storm."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, config, until

COUNT = 1000
STORM = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, int(signal.SIGRTMIN)]
TERMINATE = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
UP, DOWN, REOPEN, INFO = STORM
PARENT, REG = "udp-proxy/one[", "udp-proxy/one/reg["
"""How the log's lines of each process begin."""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(tmp_path, config(free_port(), "127.0.0.1:9")) as proxy:
        yield proxy


RISE = ["debug (7)", "trace (8)", "full (9)"]
FALL = ["warning (4)", "notice (5)", "normal (6)", "debug (7)", "trace (8)"]


def level(proxy: Proxy, process: str) -> str:
    return str(proxy.info(process)["log-level"])


def is_at(proxy: Proxy, process: str, name: str) -> bool:
    return level(proxy, process) == name


def by_signal(number: int, process: str) -> Callable[[Proxy], object]:
    return lambda proxy: proxy.kill(number, process)


def by_ctl(process: str, *words: str) -> Callable[[Proxy], object]:
    """As a user would: without --process for the parent."""
    option = [] if process == "parent" else ["--process", process]
    return lambda proxy: proxy.ctl(*option, *words)


def both(name: str, number: int, *words: str) -> pytest.MarkDecorator:
    """A verb by signal and by ctl, to the parent and to REG."""
    return pytest.mark.parametrize(
        ("do", "process"),
        [
            pytest.param(make, process, id=f"{name}-{how}-{process}")
            for process in ("parent", "reg")
            for how, make in (
                ("signal", by_signal(number, process)),
                ("ctl", by_ctl(process, *words)),
            )
        ],
    )


@both("info", INFO, "info")
def test_info_is_of_that_process_only(
    proxy: Proxy, do: Callable[[Proxy], object], process: str
) -> None:
    before = len(proxy.said(": UDPS-302-I"))
    do(proxy)
    (line,) = until(lambda: proxy.said(": UDPS-302-I")[before:])
    assert (PARENT if process == "parent" else REG) in line
    assert f"role={process}" in line


@both("up", UP, "loglevel", "+1")
def test_level_up(proxy: Proxy, do: Callable[[Proxy], object], process: str) -> None:
    do(proxy)
    until(lambda: level(proxy, "reg") == "debug (7)", step=0.05)
    assert level(proxy, "parent") == ("debug (7)" if process == "parent" else "normal (6)")


@both("down", DOWN, "loglevel", "-1")
def test_level_down(proxy: Proxy, do: Callable[[Proxy], object], process: str) -> None:
    do(proxy)
    until(lambda: level(proxy, "reg") == "notice (5)", step=0.05)
    assert level(proxy, "parent") == ("notice (5)" if process == "parent" else "normal (6)")


@both("reopen", REOPEN, "reopen")
def test_reopen(tmp_path: Path, do: Callable[[Proxy], object], process: str) -> None:
    file, old = tmp_path / "log", tmp_path / "log.1"
    more = f'[log]\ntarget = "file"\nfile = "{file}"'
    with Proxy(tmp_path, config(free_port(), "127.0.0.1:9", more=more)) as proxy:
        until(lambda: "UDPS-100-I" in file.read_text())
        file.rename(old)
        do(proxy)
        until(lambda: file.exists() and f"{REG}{proxy.reg_pid}]: UDPS-301-I" in file.read_text())
        assert (PARENT in file.read_text()) is (process == "parent")


@pytest.mark.parametrize("number", [*TERMINATE, None], ids=lambda number: str(number))
def test_terminate_the_parent(proxy: Proxy, number: int | None) -> None:
    if number is None:
        assert proxy.ctl("terminate").returncode == 0
    else:
        proxy.kill(number)
    assert proxy.wait() == 0
    why = signal.Signals(number).name if number else "by command"
    assert len(proxy.said(f"UDPS-103-I stopping: {'signal ' * bool(number)}{why}")) == 1
    assert proxy.processes() == {}


@pytest.mark.parametrize("number", [*TERMINATE, None], ids=lambda number: str(number))
def test_terminate_a_child(proxy: Proxy, number: int | None) -> None:
    old = proxy.reg_pid
    if number is None:
        assert proxy.ctl("--process", "reg", "terminate").returncode == 0
    else:
        proxy.kill(number, "reg")
    assert proxy.next_reg(old)
    assert proxy.info()["reg-ends"] == 1
    assert proxy.info("reg")["state"] == "relaying"


@pytest.mark.parametrize("process", ["parent", "reg"])
def test_levels_clamp(proxy: Proxy, process: str) -> None:
    for number, word, steps in ((UP, "+1", RISE), (DOWN, "-1", reversed(["error (3)", *FALL]))):
        for expected in steps:
            # One after the other: equal ones that are pending together count once.
            proxy.kill(number, process)
            until(partial(is_at, proxy, process, expected), step=0.05)
        proxy.kill(number, process)
        assert proxy.ask("--process", process, "loglevel", word) == expected
        assert level(proxy, process) == expected
    for word in ("2", "10", "loud"):
        assert proxy.ctl("--process", process, "loglevel", word).returncode == 1
    assert level(proxy, process) == "error (3)"


class Storm(threading.Thread):
    """All four, so many each, to whatever is REG at the moment, from its birth on."""

    def __init__(self, parent: int) -> None:
        super().__init__(daemon=True)
        self._parent = parent
        self._over = threading.Event()
        self.survived: set[int] = set()
        """Who was hit by all of it and is still there."""

    def run(self) -> None:
        children = Path(f"/proc/{self._parent}/task/{self._parent}/children")
        with contextlib.suppress(FileNotFoundError):  # the parent has gone
            while not self._over.is_set():
                for pid in set(map(int, children.read_text().split())) - self.survived:
                    with contextlib.suppress(ProcessLookupError):
                        self._blow(pid)

    def _blow(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            for _ in range(COUNT):
                for number in STORM:
                    signal.pidfd_send_signal(pidfd, number)
            self.survived.add(pid)
        finally:
            os.close(pidfd)

    def end(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def storm(proxy: Proxy) -> Iterator[Storm]:
    blowing = Storm(proxy.pid)
    blowing.start()
    try:
        yield blowing
    finally:
        blowing.end()


def test_storm_on_children_from_birth_on(tmp_path: Path) -> None:
    port, replacements = free_port(), 3
    with Echo() as echo, udp() as client:
        proxy = Proxy(tmp_path, config(port, str(echo)))
        with proxy.launched():
            with storm(proxy) as blowing:
                until(proxy.ready)
                exchange(client, ("127.0.0.1", port), b"first")
                pid = proxy.reg_pid
                for _ in range(replacements):
                    until(partial(blowing.survived.__contains__, pid))
                    pid = proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
                until(partial(blowing.survived.__contains__, pid))
            exchange(client, ("127.0.0.1", port), b"after the storm")
            assert len(echo.sources) == 1
            assert proxy.info()["reg-ends"] == replacements, "no signal of the storm ended one"
            assert proxy.stop() == 0


def test_storm_on_the_parent_from_its_socket_on(tmp_path: Path) -> None:
    port = free_port()
    with Echo() as echo, udp() as client:
        proxy = Proxy(tmp_path, config(port, str(echo)))
        with proxy.launched():
            until((proxy.runtime / "control.sock").exists, step=0.0001)
            for _ in range(COUNT):
                for number in STORM:
                    proxy.kill(number)
            until(proxy.ready)
            exchange(client, ("127.0.0.1", port), b"after the storm")
            assert {level(proxy, "parent"), level(proxy, "reg")} <= {"error (3)", *FALL, "full (9)"}
            assert proxy.info()["reg-ends"] == 0
            assert proxy.stop() == 0


def test_every_kind_arrives_from_a_storm(proxy: Proxy) -> None:
    """Equal signals may count once, different ones are never lost."""
    for _ in range(COUNT):
        for number in STORM:
            proxy.kill(number)
    for what in ("UDPS-300-I", "UDPS-301-I", "UDPS-302-I"):
        until(partial(proxy.said, f"{PARENT}{proxy.pid}]: {what}"))
