"""Sockets towards servers are made as sessions come, by the whole product."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import former_table
from built import NAMES, WITHOUT
from crowd import Crowd
from echo import Echo, clients, exchange
from host import free_port
from proxy import Proxy, config, until
from stored import Units
from udpproxy.proxy.engine.pool import BATCH
from udpproxy.proxy.session import table as t
from udpproxy.proxy.session.table import Table

MANY = 3000
ENGINES = [(name, 1) for name in NAMES] + [("native", 2)] * (not WITHOUT)
"""With their workers."""
_SPARE = 64


def top(most: int, engine: str, workers: int = 1) -> str:
    return f'max-sessions = {most}\nengine = "{engine}"\nworkers = {workers}'


def opened(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - thousands, at times


@pytest.mark.parametrize(("engine", "workers"), ENGINES)
def test_few_sessions_have_few_sockets(tmp_path: Path, engine: str, workers: int) -> None:
    port = free_port()
    with Echo() as echo, clients(50) as socks, ExitStack() as stack:
        text = config(port, str(echo), top=top(15_000, engine, workers))
        proxy = stack.enter_context(Proxy(tmp_path, text))
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"hello")
        assert opened(proxy.reg_pid) < BATCH + _SPARE
        assert opened(proxy.pid) < _SPARE
        info = proxy.info("reg")
        assert (info["slots"], info["max-sessions"]) == (BATCH, 15_000)
        assert len(proxy.sessions()) == 50
        size, used = table_memory(proxy.pid)
        assert size == t.size(15_000)
        assert used < t.size(2 * BATCH)


def table_memory(pid: int) -> tuple[int, int]:
    """How large the table is, and how much of it takes memory, in bytes."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if "udp-proxy-sessions" in str(path.readlink()):
            return path.stat().st_size, path.stat().st_blocks * 512
    raise AssertionError("no table")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(("engine", "workers"), ENGINES)
def test_a_crowd_loses_nothing(tmp_path: Path, engine: str, workers: int, address: str) -> None:
    port = free_port()
    with Echo(address) as echo, clients(3) as socks:
        text = config(port, str(echo), listen="0.0.0.0", top=top(15_000, engine, workers))
        with Proxy(tmp_path, text) as proxy:
            crowd = Crowd(port, socks, MANY)
            crowd.all_answered(b"first", at_once=200)
            crowd.all_answered(b"second", at_once=200)
            assert len(echo.sources) == MANY
            info, reg = proxy.info(), proxy.info("reg")
            assert (info["sessions"], info["refused-no-port"], reg["waiting-dropped"]) == (
                MANY,
                0,
                0,
            )
            assert MANY <= reg["slots"] <= 2 * MANY
            assert reg["slots"] + _SPARE > opened(proxy.reg_pid)
            assert len(proxy.sessions()) == MANY
            assert proxy.said("-W") == proxy.said("-E") == []
            assert proxy.stop() == 0
            assert len(proxy.records()) == MANY


@pytest.mark.parametrize(("engine", "workers"), ENGINES)
def test_it_goes_to_the_end_and_no_further(tmp_path: Path, engine: str, workers: int) -> None:
    port, most = free_port(), 1100
    with Echo() as echo, clients(2) as socks:
        text = config(port, str(echo), listen="0.0.0.0", top=top(most, engine, workers))
        with Proxy(tmp_path, text) as proxy:
            crowd = Crowd(port, socks, most)
            crowd.all_answered(b"first")
            for sock in socks:
                sock.sendto(b"one too many", ("127.1.9.200", port))
            until(lambda: proxy.info()["refused-table-full"] == 2)
            assert proxy.info("reg")["slots"] == most
            assert opened(proxy.reg_pid) < most + _SPARE
            crowd.all_answered(b"second")


@pytest.mark.parametrize("what", ["reg", "parent"])
@pytest.mark.parametrize(("engine", "workers"), ENGINES)
def test_a_crash_while_it_grows(tmp_path: Path, engine: str, workers: int, what: str) -> None:
    """As units: whatever has grown comes back, and goes on growing."""
    port = free_port()
    with Echo() as echo, clients(3) as socks, ExitStack() as stack:
        text = config(port, str(echo), listen="0.0.0.0", top=top(15_000, engine, workers))
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        crowd = Crowd(port, socks, 600)
        crowd.all_answered(b"before")
        more = Crowd(port, socks[2:], 1000)
        # So many at once that it is still at it.
        for sock, to in more.pairs[:400]:
            sock.sendto(b"meanwhile", to)
        if what == "reg":
            units.reg.kill()
            units.reg.wait()
            units.start_reg()
        else:
            assert units.stop(signal.SIGKILL) == -signal.SIGKILL
            units.start()
        crowd.all_answered(b"after")
        assert len(echo.sources_of(b"after")) == len(echo.sources_of(b"before")) == 600
        assert echo.sources_of(b"after") == echo.sources_of(b"before")
        for sock in socks[2:]:
            sock.settimeout(0.3)
            while True:
                try:
                    sock.recv(100)
                except TimeoutError:
                    break
            sock.settimeout(20)
        more.all_answered(b"more")
        assert len(units.said("UDPS-211-W")) == 0
        units.terminate()


def carriers(units: Units) -> list[str]:
    """The names of those that are stored."""
    units.listen()
    return sorted(name for name, _ in units.store if name.startswith("carrier-"))


@pytest.mark.parametrize("engine", NAMES)
def test_what_has_grown_is_stored(tmp_path: Path, engine: str) -> None:
    port = free_port()
    with Echo() as echo, clients(1) as socks, ExitStack() as stack:
        text = config(port, str(echo), listen="0.0.0.0", top=top(1100, engine))
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        assert carriers(units) == [f"carrier-2-0-{BATCH}"]
        crowd = Crowd(port, socks, 700)
        crowd.all_answered(b"before")
        wanted = [f"carrier-2-{place}-{BATCH}" for place in range(4)]
        # REG asks once more where it was quicker than what was on its way.
        grown = carriers(units)
        assert grown in (wanted, [*wanted, "carrier-2-4-100"])
        assert units.stop() == 0
        units.start()
        assert carriers(units) == grown
        crowd.all_answered(b"after")
        assert len(echo.sources) == 700
        # With fewer sessions, others end.
        assert units.stop() == 0
        units.file.write_text(text.replace("1100", "620"))
        units.start()
        assert carriers(units) == wanted[:3]
        assert len(units.said("UDPP-888-I")) == 80
        # With more, there are no more than are needed.
        assert units.stop() == 0
        units.file.write_text(text.replace("1100", "15000"))
        units.start()
        crowd.all_answered(b"again")
        assert carriers(units) == [f"carrier-2-{place}-{BATCH}" for place in range(6)]
        units.terminate()


@pytest.mark.parametrize("engine", NAMES)
def test_carriers_that_did_not_come_back_are_made_for_who_needs_them(
    tmp_path: Path, engine: str
) -> None:
    port = free_port()
    with Echo() as echo, clients(1) as socks, ExitStack() as stack:
        text = config(port, str(echo), listen="0.0.0.0", top=top(15_000, engine))
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        crowd = Crowd(port, socks, 700)
        crowd.all_answered(b"before")
        assert units.stop() == 0
        units.lose("carrier-2-1-")
        units.start()
        assert len(units.said("450 sessions go on from other ports")) == 1
        crowd.all_answered(b"after")
        assert carriers(units) == [f"carrier-2-{place}-{BATCH}" for place in range(6)]
        assert len(echo.sources_of(b"before") & echo.sources_of(b"after")) >= BATCH
        units.terminate()


@pytest.mark.parametrize("engine", NAMES)
def test_a_table_of_the_layout_before_has_grown(tmp_path: Path, engine: str) -> None:
    """Of version 0.1.0: there were sockets for all of its slots."""
    port, most = free_port(), 600
    with Echo() as echo, clients(1) as socks, ExitStack() as stack:
        text = config(port, str(echo), listen="0.0.0.0", top=top(most, engine))
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        crowd = Crowd(port, socks, 590)
        crowd.all_answered(b"before")
        assert units.stop() == 0
        fd = units.stored("table")
        content = bytearray(os.pread(fd, os.fstat(fd).st_size, 0))
        old = former_table.former(Table(memoryview(content), most, fresh=False))
        units.lose("table")
        memory = os.memfd_create("old")
        os.write(memory, old)
        units.keep("table", memory)
        os.close(memory)
        units.file.write_text(text.replace("600", "15000"))
        units.start()
        crowd.all_answered(b"after")
        assert len(echo.sources) == 590
        units.terminate()


def limit(pid: int, most: int) -> None:
    """Of descriptors, from now on."""
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))


@pytest.mark.parametrize("who", ["parent", "reg"])
@pytest.mark.parametrize(("engine", "workers"), ENGINES)
def test_descriptors_run_out_for_a_while(
    tmp_path: Path, engine: str, workers: int, who: str
) -> None:
    """It is said once, newcomers are refused and counted, known sessions go on."""
    port = free_port()
    with Echo() as echo, clients(2) as socks, ExitStack() as stack:
        text = config(port, str(echo), listen="0.0.0.0", top=top(15_000, engine, workers))
        proxy = stack.enter_context(Proxy(tmp_path, text))
        pid = proxy.pid if who == "parent" else proxy.reg_pid
        most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
        limit(pid, opened(pid) + 100)
        crowd = Crowd(port, socks, BATCH)
        crowd.all_answered(b"first")
        (said,) = until(lambda: proxy.said("UDPS-231-W"))
        assert f"for {BATCH} sessions and no more for now" in said
        assert "Too many open files" in said or "of 250 sockets of a carrier could be had" in said
        for _ in range(3):
            socks[0].sendto(b"newcomer", ("127.1.9.200", port))
        until(lambda: proxy.info()["refused-no-port"] == 3)
        crowd.all_answered(b"second")
        begun = time.monotonic()
        until(lambda: time.monotonic() > begun + 2.2)
        assert len(proxy.said("UDPS-231-W")) == 1
        assert "the system cannot open it: Too many open files" in proxy.said("UDPS-640-W")[0]
        limit(pid, most)
        until(lambda: proxy.info("reg")["slots"] > BATCH)
        exchange(socks[0], ("127.1.9.200", port), b"newcomer")
        Crowd(port, socks[1:], 900).all_answered(b"many")
        assert proxy.info()["reg-ends"] == 0


@pytest.mark.parametrize("engine", NAMES)
def test_another_reg_hears_that_there_are_none(tmp_path: Path, engine: str) -> None:
    """A REG that comes while there are no sockets hears of it when it asks."""
    port = free_port()
    with Echo() as echo, clients(2) as socks, ExitStack() as stack:
        text = config(port, str(echo), listen="0.0.0.0", top=top(15_000, engine))
        proxy = stack.enter_context(Proxy(tmp_path, text))
        most = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)[0]
        limit(proxy.pid, opened(proxy.pid) + 100)
        Crowd(port, socks, BATCH).all_answered(b"first")
        until(lambda: proxy.said("UDPS-231-W"))
        old = proxy.kill(signal.SIGKILL, "reg")
        proxy.next_reg(old)
        until(lambda: proxy.info()["reg-state"] == "ready")
        socks[0].sendto(b"newcomer", ("127.1.9.200", port))
        until(lambda: proxy.info()["refused-no-port"] == 1)
        limit(proxy.pid, most)
        until(lambda: proxy.info("reg")["slots"] > BATCH)
        exchange(socks[0], ("127.1.9.200", port), b"newcomer")


@pytest.mark.parametrize(("engine", "workers"), ENGINES)
def test_a_family_that_comes_later_has_grown_as_well(
    tmp_path: Path, engine: str, workers: int
) -> None:
    port = free_port()
    with Echo() as echo, Echo("::1") as six, clients(3) as socks, ExitStack() as stack:
        head = top(8000, engine, workers)
        text = config(port, str(echo), listen="0.0.0.0", top=head)
        proxy = stack.enter_context(Proxy(tmp_path, text))
        crowd = Crowd(port, socks[:1], 600)
        crowd.all_answered(b"four")
        slots = proxy.info("reg")["slots"]
        assert 600 < slots < 8000
        acl = f'to = ["127.1.0.0/21"]\n[[session-acl]]\nname = "six"\nplug-to = "{six}"'
        proxy.write(config(port, str(echo), listen="0.0.0.0", top=head, acl=acl))
        assert proxy.ctl("reload").returncode == 0
        crowd.all_answered(b"four")
        # Addresses from 127.1.8.1 on lead to the server that has the other family.
        later = Crowd(port, socks[1:], 2000)
        later.pairs = [
            pair for pair in later.pairs if pair[1][0].startswith(("127.1.8", "127.1.9"))
        ]
        later.all_answered(b"six")
        assert len(six.sources) == len(later.pairs) == 400
        Crowd(port, socks[1:2], 800).all_answered(b"both")
        assert proxy.info("reg")["slots"] > slots
        assert proxy.info()["refused-no-port"] == 0


def test_in_a_single_process(tmp_path: Path) -> None:
    port = free_port()
    with Echo() as echo, clients(1) as socks:
        text = config(port, str(echo), listen="0.0.0.0", top="max-sessions = 8000")
        with Proxy(tmp_path, text, single=True) as proxy:
            Crowd(port, socks, 1000).all_answered(b"first")
            assert proxy.info()["sessions"] == 1000
