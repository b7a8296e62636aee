"""A REG that dies of what it takes over, each time: that is given up, and the service goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, clients, exchange
from host import free_port
from nameserver import NameServer
from proxy import Proxy, config, until
from stored import Units

SESSIONS = 3
CODE = """
import sys
if sys.orig_argv[-3:-1] == ["udpproxy.child", "reg"]:
    import os, signal
    from pathlib import Path
    from udpproxy.proxy.reg.process import Reg
    here, what, when = Path({here!r}), {what!r}, {when!r}
    def die():
        if when == "by a mistake":
            raise KeyError("on purpose")
        os.kill(os.getpid(), signal.SIGSEGV)
    def poisoned(reg):
        if what == "table":
            return (here / "bad").exists() and reg._lent.table.count_live() > 0
        if what == "names":
            return (here / "bad").exists() and bool(reg._naming.known.addresses("x.test"))
        if what == "two tables":
            maps = Path("/proc/self/maps").read_text().splitlines()
            table = {{line.split()[4] for line in maps if "udp-proxy-sessions" in line}}
            seen = here / "tables"
            before = seen.read_text().split() if seen.exists() else []
            all = sorted(table.union(before))
            seen.write_text(" ".join(all))
            return (here / "bad").exists() and len(all) < 3
        files = {{str(os.fstat(one.socket.fileno()).st_ino) for one in reg._lent.listeners}}
        if not (here / "listeners").exists():
            (here / "listeners").write_text(" ".join(files))
        bad = set((here / "listeners").read_text().split())
        return (here / "bad").exists() and bool(files & bad)
    relay = Reg._relay
    def relay_or_die(self, *words):
        if poisoned(self):
            if when == "at once":
                die()
            self._reactor.call_later(0.3, die)
        relay(self, *words)
    Reg._relay = relay_or_die
"""
"""Python runs it before anything else in each process."""


def poison(directory: Path, what: str, when: str = "at once") -> Path:
    """What has to be on PYTHONPATH; a file `bad` in it makes it work."""
    here = directory / "poison"
    here.mkdir()
    code = CODE.format(here=str(here), what=what, when=when)
    (here / "sitecustomize.py").write_text(code)
    return here


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


def given_up(lines: list[str]) -> list[str]:
    """What, in order, as the log says."""
    found = [re.search(r"UDPS-219-E .*; given up: (.*?);", line) for line in lines]
    return [match[1] for match in found if match]


@pytest.mark.parametrize("when", ["at once", "soon"])
@pytest.mark.parametrize("engine", NAMES)
def test_the_table(tmp_path: Path, echo: Echo, engine: str, when: str) -> None:
    here, port = poison(tmp_path, "table", when), free_port()
    text = config(port, str(echo), top=f'max-sessions = 20\nengine = "{engine}"')
    proxy = Proxy(tmp_path, text)
    proxy.environment["PYTHONPATH"] = str(here)
    with proxy, clients(SESSIONS) as socks:
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"before")
        before = proxy.sessions()
        (here / "bad").touch()
        proxy.kill(signal.SIGSEGV, "reg")
        until(lambda: len(given_up(proxy.log)) == 2)
        assert given_up(proxy.log) == ["the names that are known", "the session table"]
        assert "3 sessions end, and 0 that nobody can read" in proxy.said("UDPS-219-E")[1]
        until(lambda: proxy.info()["reg-state"] == "ready")
        records = proxy.records()
        assert [record["REASON"] for record in records] == ["error"] * SESSIONS
        assert {int(one["SESSION"]) for one in records} == {row["session"] for row in before}
        assert {one["BYTES_CIN"] for one in records} == {"6"}
        (here / "bad").unlink()
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"after")
        info = proxy.info()
        assert info["sessions"] == SESSIONS
        assert info["sessions-opened"] == 2 * SESSIONS
        assert min(row["session"] for row in proxy.sessions()) > SESSIONS
        assert proxy.stop() == 0
        assert len(proxy.records()) == 2 * SESSIONS
        assert proxy.said("UDPS-510") == proxy.said("UDPS-530") == proxy.said("UDPS-120") == []


def test_the_table_once_more(tmp_path: Path, echo: Echo) -> None:
    """Whatever spoiled the first one has spoiled the second one as well."""
    here, port = poison(tmp_path, "two tables"), free_port()
    text = config(port, str(echo), top="max-sessions = 20\ncrash-limit = 50")
    proxy = Proxy(tmp_path, text)
    proxy.environment["PYTHONPATH"] = str(here)
    with proxy, clients(1) as (sock,):
        exchange(sock, ("127.0.0.1", port), b"before")
        (here / "bad").touch()
        proxy.kill(signal.SIGSEGV, "reg")
        until(lambda: given_up(proxy.log).count("the session table") == 2)
        until(lambda: proxy.info()["reg-state"] == "ready")
        exchange(sock, ("127.0.0.1", port), b"after")
        names, table, listeners = dict.fromkeys(given_up(proxy.log))
        assert given_up(proxy.log) == [names, table, listeners, names, table]
        assert proxy.stop() == 0


@pytest.mark.parametrize("engine", NAMES)
def test_the_names(tmp_path: Path, echo: Echo, engine: str) -> None:
    """Sessions have nothing to do with them: they go on."""
    here, port = poison(tmp_path, "names"), free_port()
    with NameServer(ttl=60) as zone, clients(SESSIONS) as socks:
        zone.host("x.test", "127.0.0.1")
        top = f'max-sessions = 20\nengine = "{engine}"'
        text = config(port, f"x.test:{echo.endpoint[1]}", top=top, more=zone.section)
        proxy = Proxy(tmp_path, text)
        proxy.environment["PYTHONPATH"] = str(here)
        with proxy:
            until(lambda: proxy.info("reg")["names-known"] == 1)
            for sock in socks:
                exchange(sock, ("127.0.0.1", port), b"before")
            before = {row["session"] for row in proxy.sessions()}
            zone.silent = True
            (here / "bad").touch()
            proxy.kill(signal.SIGSEGV, "reg")
            until(lambda: given_up(proxy.log))
            until(lambda: proxy.info()["reg-state"] == "ready")
            for sock in socks:
                exchange(sock, ("127.0.0.1", port), b"after")
            assert {row["session"] for row in proxy.sessions()} == before
            assert given_up(proxy.log) == ["the names that are known"]
            assert proxy.stop() == 0


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_listeners(tmp_path: Path, engine: str, host: str) -> None:
    here, port = poison(tmp_path, "listeners"), free_port(host)
    workers = 2 if engine == "native" else 1
    top = f'max-sessions = 20\nengine = "{engine}"\nworkers = {workers}'
    with Echo(host) as echo, clients(SESSIONS, host) as socks:
        proxy = Proxy(tmp_path, config(port, str(echo), listen=host, top=top))
        proxy.environment["PYTHONPATH"] = str(here)
        with proxy:
            for sock in socks:
                exchange(sock, (host, port), b"before")
            (here / "bad").touch()
            proxy.kill(signal.SIGSEGV, "reg")
            until(lambda: len(given_up(proxy.log)) == 3)
            until(lambda: proxy.info()["reg-state"] == "ready")
            for sock in socks:
                exchange(sock, (host, port), b"after")
            assert given_up(proxy.log)[2] == "the listeners"
            assert proxy.info()["reg-ends"] == 4
            assert proxy.stop() == 0


def test_all_of_it_before_the_end_that_would_be_the_last(tmp_path: Path, echo: Echo) -> None:
    here, port = poison(tmp_path, "listeners"), free_port()
    text = config(port, str(echo), top="max-sessions = 20\ncrash-limit = 3")
    proxy = Proxy(tmp_path, text)
    proxy.environment["PYTHONPATH"] = str(here)
    with proxy, clients(1) as (sock,):
        exchange(sock, ("127.0.0.1", port), b"before")
        (here / "bad").touch()
        proxy.kill(signal.SIGSEGV, "reg")
        until(lambda: len(given_up(proxy.log)) == 3)
        until(lambda: proxy.info()["reg-state"] == "ready")
        exchange(sock, ("127.0.0.1", port), b"after")
        assert proxy.info()["reg-ends"] == 2


def test_all_of_it_where_there_is_one_chance(tmp_path: Path, echo: Echo) -> None:
    """After a restart, with the fewest ends that may be: the first one is the last but one."""
    here, port = poison(tmp_path, "table", "by a mistake"), free_port()
    text = config(port, str(echo), top="max-sessions = 20\ncrash-limit = 2")
    with (
        pytest.MonkeyPatch.context() as patch,
        clients(1) as (sock,),
        Units(tmp_path, text) as units,
    ):
        patch.setenv("PYTHONPATH", str(here))
        units.start()
        exchange(sock, ("127.0.0.1", port), b"before")
        assert units.stop() == 0
        (here / "bad").touch()
        units.start()
        until(lambda: begun_again(units) and len(given_up(units.log)) == 3)
        (here / "bad").unlink()
        until(lambda: begun_again(units) and units.reg.poll() is None)
        exchange(sock, ("127.0.0.1", port), b"after")
        assert len(units.said("UDPP-888-I")) == 1
        units.terminate()


@pytest.mark.parametrize("engine", NAMES)
def test_an_end_from_outside_costs_no_session(tmp_path: Path, echo: Echo, engine: str) -> None:
    """Killed, or told to leave, however soon and often: nothing is given up."""
    port = free_port()
    top = f'max-sessions = 20\nengine = "{engine}"\ncrash-limit = 50'
    with Proxy(tmp_path, config(port, str(echo), top=top)) as proxy, clients(1) as (sock,):
        exchange(sock, ("127.0.0.1", port), b"before")
        for number in [signal.SIGKILL, signal.SIGTERM] * 3:
            old = proxy.kill(number, "reg")
            proxy.next_reg(old)
            until(lambda: proxy.info()["reg-state"] == "ready")
        exchange(sock, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 1
        assert given_up(proxy.log) == []


def test_killed_as_a_unit(tmp_path: Path, echo: Echo) -> None:
    """Nobody says by whom: nothing is given up as long as it could take everything over."""
    port = free_port()
    text = config(port, str(echo), top="max-sessions = 20\ncrash-limit = 50")
    with clients(1) as (sock,), Units(tmp_path, text) as units:
        units.start()
        for number in range(6):
            exchange(sock, ("127.0.0.1", port), b"%d" % number)
            units.reg.kill()
            units.reg.wait()
            units.start_reg()
        exchange(sock, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 1
        assert given_up(units.log) == []
        units.terminate()


def begun_again(units: Units) -> bool:
    """As systemd would; has it been told something?"""
    if units.reg.poll() is not None:
        units.start_reg()
    return bool(units.listen())


@pytest.mark.parametrize("engine", NAMES)
def test_as_units(tmp_path: Path, echo: Echo, engine: str) -> None:
    """What systemd keeps is the new table and the new sockets."""
    here, port = poison(tmp_path, "table"), free_port()
    text = config(port, str(echo), top=f'max-sessions = 20\nengine = "{engine}"')
    with (
        pytest.MonkeyPatch.context() as patch,
        clients(SESSIONS) as socks,
        ExitStack() as stack,
    ):
        patch.setenv("PYTHONPATH", str(here))
        units = stack.enter_context(Units(tmp_path, text))
        units.start()
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"before")
        old = os.fstat(units.stored("table")).st_ino
        (here / "bad").touch()
        units.reg.kill()

        until(lambda: begun_again(units) and len(given_up(units.log)) == 2)
        assert len(units.said("UDPP-888-I")) == SESSIONS
        for sock in socks:
            until(lambda: units.reg.poll() is None)
            exchange(sock, ("127.0.0.1", port), b"after")
        assert [name for name, _ in units.store].count("table") == 1
        assert os.fstat(units.stored("table")).st_ino != old
        (here / "bad").unlink()
        assert units.stop() == 0
        units.start()
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"again")
        assert len(units.said("UDPP-888-I")) == SESSIONS
        units.terminate()
        assert len(units.said("UDPP-888-I")) == 2 * SESSIONS


@pytest.mark.parametrize("engine", NAMES)
def test_as_units_nobody_tells_who_has_killed_it(
    tmp_path: Path, echo: Echo, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that relayed is not taken for one that dies of what it took over, unless it says so."""
    here, port = poison(tmp_path, "table", "by a mistake"), free_port()
    top = f'max-sessions = 20\nengine = "{engine}"\ncrash-limit = 50'
    text = config(port, str(echo), top=top)
    monkeypatch.setenv("PYTHONPATH", str(here))
    with clients(1) as (sock,), Units(tmp_path, text) as units:
        units.start()
        exchange(sock, ("127.0.0.1", port), b"before")
        for number in range(5):
            units.reg.kill()
            units.reg.wait()
            units.start_reg()
            exchange(sock, ("127.0.0.1", port), b"%d" % number)
        assert len(echo.sources) == 1
        assert given_up(units.log) == []
        (here / "bad").touch()
        units.reg.kill()
        sock.settimeout(0.1)

        def table_is_gone() -> bool:
            with contextlib.suppress(TimeoutError):
                sock.sendto(b"in between", ("127.0.0.1", port))
                sock.recv(100)
            return begun_again(units) and "the session table" in given_up(units.log)

        until(table_is_gone)
        (here / "bad").unlink()
        units.terminate()
