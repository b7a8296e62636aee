"""One process for everything, for debugging: what it says, logs and leaves behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, config, reloaded, until

NOBODY = 65534


@pytest.mark.parametrize("by_file", [False, True], ids=["option", "file"])
def test_one_process_that_warns(tmp_path: Path, *, by_file: bool) -> None:
    top = f"max-sessions = 10\nsingleproc = {str(by_file).lower()}"
    with Proxy(tmp_path, config(free_port(), "127.0.0.1:9", top=top), single=not by_file) as proxy:
        (line,) = proxy.said("UDPS-111-W")
        for word in ("restarts", "sessions end with it", "look-ups block"):
            assert word in line
        assert proxy.processes() == {proxy.pid: "parent"}
        info = proxy.info()
        assert (info["pid"], info["reg-pid"], info["reg-state"]) == (proxy.pid, proxy.pid, "ready")
        assert proxy.stop() == 0
    assert not proxy.runtime.exists()
    assert proxy.processes() == {}


def test_the_four_verbs_by_signal(tmp_path: Path) -> None:
    with Proxy(tmp_path, config(free_port(), "127.0.0.1:9"), single=True) as proxy:
        proxy.kill(signal.SIGUSR1)
        until(lambda: proxy.info("reg")["log-level"] == "debug (7)", step=0.05)
        assert proxy.info()["log-level"] == "debug (7)"
        proxy.kill(signal.SIGUSR2)
        until(lambda: proxy.info("reg")["log-level"] == "normal (6)", step=0.05)
        before = len(proxy.said("UDPS-302-I info: version="))
        proxy.kill(signal.SIGRTMIN)
        until(lambda: len(proxy.said("UDPS-302-I info: version=")) == before + 1)
        proxy.kill(signal.SIGWINCH)
        until(lambda: len(proxy.said("UDPS-301-I")) == 2)
        assert proxy.stop(signal.SIGINT) == 0


def test_the_verbs_by_ctl(tmp_path: Path) -> None:
    port = free_port()
    with (
        Echo() as echo,
        udp() as client,
        Proxy(tmp_path, config(port, str(echo)), single=True) as proxy,
    ):
        exchange(client, ("127.0.0.1", port), b"hello")
        assert proxy.ask("loglevel", "debug") == "debug (7)"
        assert proxy.info("reg")["log-level"] == "debug (7)"
        assert proxy.ask("--process", "reg", "loglevel", "6") == "normal (6)"
        assert proxy.info()["log-level"] == "debug (7)"
        proxy.ask("reopen")
        assert proxy.ask("reload") == reloaded(0)
        (row,) = proxy.sessions()
        proxy.ask("kill", row["session"])
        (record,) = until(proxy.records)
        assert record["REASON"] == "killed"
        proxy.ask("terminate")
        assert proxy.wait() == 0


@pytest.mark.parametrize("single", [False, True], ids=["fork", "single"])
def test_log_and_records_in_files(tmp_path: Path, *, single: bool) -> None:
    """Rotated by renaming and `reopen`; nothing on stderr, nothing lost, nothing twice."""
    port, log, records = free_port(), tmp_path / "log", tmp_path / "records"
    more = f'[log]\ntarget = "file"\nfile = "{log}"\nrecords = "{records}"'
    with (
        Echo() as echo,
        udp() as client,
        Proxy(tmp_path, config(port, str(echo), more=more), single=single) as proxy,
    ):

        def session() -> None:
            exchange(client, ("127.0.0.1", port), b"hello")
            proxy.ask("kill", proxy.sessions()[0]["session"])

        session()
        until(lambda: len(proxy.records(records)) == 1)
        for path in (log, records):
            path.rename(path.with_suffix(".1"))
        session()
        until(lambda: len(proxy.records(records.with_suffix(".1"))) == 2)
        assert not log.exists()
        proxy.ask("reopen")
        session()
        until(lambda: len(proxy.records(records)) == 1)
        exchange(client, ("127.0.0.1", port), b"open at the end")
        assert proxy.stop() == 0

        assert [record["REASON"] for record in proxy.records(records)] == ["killed", "terminated"]
        text = log.read_text()
        assert "UDPP-888-I" not in text
        assert "UDPS-104-I" in text
        assert "UDPS-100-I" in log.with_suffix(".1").read_text()
        assert proxy.log == []
        assert {path.stat().st_mode & 0o777 for path in (log, records)} == {0o640}


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody may enter, other than pytest's own."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_files_of_whom_it_becomes(open_path: Path) -> None:
    """Started by root and running as somebody else, it can still rotate its logs."""
    port, log = free_port(), open_path / "logs" / "log"
    log.parent.mkdir()
    os.chown(log.parent, NOBODY, NOBODY)
    top = f'max-sessions = 10\nuser = "#{NOBODY}"\ngroup = "#{NOBODY}"'
    more = f'[log]\ntarget = "file"\nfile = "{log}"'
    with (
        Echo() as echo,
        udp() as client,
        Proxy(open_path, config(port, str(echo), top=top, more=more)) as proxy,
    ):
        for pid in proxy.processes():
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Uid:" + f"\t{NOBODY}" * 4 in status
            assert "CapEff:\t0000000000000000" in status
        exchange(client, ("127.0.0.1", port), b"hello")
        log.rename(log.with_suffix(".1"))
        proxy.ask("reopen")
        until(lambda: log.exists() and "UDPS-301-I" in log.read_text())
        assert proxy.stop() == 0
        assert len(proxy.records(log)) == 1
