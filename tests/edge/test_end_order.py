"""The order of an end, with children that do all to spoil it, and clean-ups that fail or hang."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, config, until
from udpproxy.process import messages
from udpproxy.process.clean_up import CleanUps
from udpproxy.process.ends import describe, in_order
from udpproxy.process.logs import Logs
from udpproxy.supervisor.fork import WATCHDOG

LIMIT = 1.0
"""stop-timeout, in seconds."""
SLACK = 3.0
"""Seconds for all that is no waiting, on a busy machine."""
UNCLEAN = 1

SINS = {
    "deaf to SIGTERM": """
from udpproxy.process import signals
signals.TERMINATE = ()
""",
    # One that stays, and one that is another process every few milliseconds.
    "forks on": """
import os, signal, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        while True:
            time.sleep(0.005)
            if os.fork():
                os._exit(0)
    time.sleep(600)
""",
    "ends by a signal": """
import atexit, os, signal
atexit.register(os.kill, os.getpid(), signal.SIGKILL)
""",
    "ends with a status": """
import atexit, os
atexit.register(os._exit, 3)
""",
}


@contextmanager
def a_proxy(directory: Path, sin: str = "", limit: float = LIMIT) -> Iterator[Proxy]:
    """Its REG commits that sin: Python runs sitecustomize before anything else."""
    (directory / "sins").mkdir()
    code = "".join(f"    {line}\n" for line in sin.splitlines()) or "    pass\n"
    customize = directory / "sins" / "sitecustomize.py"
    customize.write_text(f"import sys\nif 'udpproxy.child' in sys.orig_argv:\n{code}")
    top = f"max-sessions = 5\nstop-timeout = {limit}"
    proxy = Proxy(directory, config(free_port(), "127.0.0.1:9", top=top))
    proxy.environment["PYTHONPATH"] = str(customize.parent)
    with proxy:
        yield proxy


def group(number: int) -> set[int]:
    """The processes of that process group, but for those that only wait to be reaped."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == number and state != "Z":
                found.add(int(entry.name))
    return found


def stop(proxy: Proxy) -> tuple[int, float]:
    """(exit status, seconds that it took)"""
    begun = time.monotonic()
    return proxy.stop(), time.monotonic() - begun


def test_child_that_is_deaf_is_killed_within_the_limit(tmp_path: Path) -> None:
    with a_proxy(tmp_path, SINS["deaf to SIGTERM"]) as proxy:
        reg = proxy.reg_pid
        status, took = stop(proxy)
        assert status == UNCLEAN
        assert LIMIT <= took < LIMIT + SLACK
        assert proxy.said(f"UDPS-203-E reg (process {reg}) did not go within {LIMIT:g} s: killed")
        assert proxy.said(f"UDPS-221-W reg (process {reg}) did not leave in order: signal SIGKILL")
        assert proxy.processes() == {}


def test_child_that_is_stopped_is_killed_only_at_the_limit(tmp_path: Path) -> None:
    """By the stop, which names it, and not by the watchdog, which is shorter here."""
    limit = WATCHDOG + 1.5
    with a_proxy(tmp_path, limit=limit) as proxy:
        reg = proxy.kill(signal.SIGSTOP, "reg")
        status, took = stop(proxy)
        assert (status, limit <= took < limit + SLACK) == (UNCLEAN, True)
        assert proxy.said(f"UDPS-203-E reg (process {reg})")
        assert proxy.processes() == {}


def test_what_a_child_forked_goes_with_it(tmp_path: Path) -> None:
    with a_proxy(tmp_path, SINS["forks on"]) as proxy:
        reg = proxy.reg_pid
        assert len(until(lambda: group(reg) - {reg})) >= 1
        status, took = stop(proxy)
        # REG itself left in order; the others were never told to.
        assert (status, took < SLACK) == (0, True)
        until(lambda: not group(reg), limit=2)


def test_what_a_child_forked_goes_when_it_dies_unasked(tmp_path: Path) -> None:
    with a_proxy(tmp_path, SINS["forks on"]) as proxy:
        old = proxy.reg_pid
        until(lambda: group(old) - {old})
        proxy.next_reg(proxy.kill(signal.SIGKILL, "reg"))
        until(lambda: not group(old), limit=2)


@pytest.mark.parametrize(
    ("sin", "how"),
    [("ends by a signal", "signal SIGKILL"), ("ends with a status", "exit status 3")],
)
def test_how_a_child_ended_is_said_and_counts(tmp_path: Path, sin: str, how: str) -> None:
    with a_proxy(tmp_path, SINS[sin]) as proxy:
        reg = proxy.reg_pid
        assert stop(proxy)[0] == UNCLEAN
        assert proxy.said(f"UDPS-221-W reg (process {reg}) did not leave in order: {how}")
        assert not proxy.said("UDPS-203-E")


def test_child_that_leaves_in_order_is_said_at_debug(tmp_path: Path) -> None:
    with a_proxy(tmp_path) as proxy:
        proxy.ask("loglevel", "debug")
        reg = proxy.reg_pid
        assert stop(proxy)[0] == 0
        assert proxy.said(f"UDPS-220-D reg (process {reg}) left: exit status 0")


def test_nothing_outside_the_children_is_signalled(tmp_path: Path) -> None:
    """A process of the parent's own group, which a kill(0) would hit."""
    with a_proxy(tmp_path, SINS["deaf to SIGTERM"]) as proxy:
        with subprocess.Popen(
            [sys.executable, "-c", "input()"],
            stdin=subprocess.PIPE,
            process_group=os.getpgid(proxy.pid),
        ) as bystander:
            assert stop(proxy)[0] == UNCLEAN
            assert bystander.poll() is None
            bystander.communicate(b"\n", timeout=10)
        assert bystander.returncode == 0


def test_listeners_take_nothing_once_the_end_has_begun(tmp_path: Path) -> None:
    """REG is deaf and relays on, but nothing reaches it."""
    with Echo() as echo, udp() as client, a_proxy(tmp_path, SINS["deaf to SIGTERM"]) as proxy:
        text = proxy.file.read_text().replace("127.0.0.1:9", str(echo))
        proxy.write(text.replace(f"stop-timeout = {LIMIT}", "stop-timeout = 2"))
        proxy.ask("reload")
        port = int(text.partition("port = ")[2].split()[0])
        exchange(client, ("127.0.0.1", port), b"before")
        proxy.kill(signal.SIGTERM)
        until(lambda: proxy.said("UDPS-103-I"))
        time.sleep(0.1)  # between the line and the next step
        client.sendto(b"after", ("127.0.0.1", port))
        assert proxy.wait() == UNCLEAN
        assert [r["DATAGRAMS_CIN"] for r in proxy.records()] == ["1"]


def test_clean_ups_run_in_reverse_order_each_once(capfd: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []

    async def slow() -> None:
        done.append("slow")
        await asyncio.sleep(60)

    def broken() -> None:
        done.append("broken")
        raise RuntimeError("on purpose")

    async def run() -> float:
        clean_ups = CleanUps(Logs("test"), limit=0.2)
        clean_ups.add("first", lambda: done.append("first"))
        clean_ups.add("slow one", slow)
        clean_ups.add("broken one", broken)
        clean_ups.add("last", lambda: done.append("last"))
        begun = time.monotonic()
        await clean_ups.finish()
        await clean_ups.finish()
        return time.monotonic() - begun

    assert 0.2 <= asyncio.run(run()) < 0.2 + SLACK
    assert done == ["last", "broken", "slow", "first"]
    said = capfd.readouterr().err
    what = messages.CLEAN_UP_FAILED.id
    assert f"{what} clean-up of slow one failed: not done within 0.2 s" in said
    assert "clean-up of broken one failed: RuntimeError('on purpose')" in said
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


HANGS = """
import asyncio, time
from udpproxy.process.clean_up import CleanUps
from udpproxy.process.logs import Logs
clean_ups = CleanUps(Logs("test"), hang=0.3)
clean_ups.add("one that hangs", lambda: time.sleep(600))
asyncio.run(clean_ups.finish())
"""


def test_clean_up_that_hangs_ends_by_the_alarm() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], timeout=20, check=False)
    assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    ("code", "status", "text", "orderly"),
    [
        (os.CLD_EXITED, 0, "exit status 0", True),
        (os.CLD_EXITED, 9, "exit status 9", False),
        (os.CLD_KILLED, signal.SIGTERM, "signal SIGTERM", False),
        (os.CLD_DUMPED, signal.SIGSEGV, "signal SIGSEGV, core dumped", False),
        (os.CLD_KILLED, int(signal.SIGRTMIN) + 1, f"signal {int(signal.SIGRTMIN) + 1}", False),
    ],
)
def test_an_end_in_words(code: int, status: int, text: str, *, orderly: bool) -> None:
    end = os.waitid_result((4711, 0, signal.SIGCHLD, int(status), code))
    assert (describe(end), in_order(end)) == (text, orderly)
