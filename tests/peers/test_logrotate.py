"""Rotation of log files by the real logrotate, in both of its ways, while sessions come and go."""

from __future__ import annotations

import gzip
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from echo import Echo, exchange, udp
from host import free_port, tool
from proxy import Endpoint, Proxy, config, until

ROTATIONS = 12
ONE_ANSWER = "[session-acl.limits]\ndownload-datagrams = 1"
"""Each answer ends its session."""
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} udp-proxy/one(/reg)?\[\d+\]: [A-Z]{4}-\d{3}-[A-Z] \S.*"
)
OPENED = re.compile(r"UDPP-820-D session (\d+) ")
RECORD = re.compile(r"UDPP-888-I .* SESSION=(\d+)$")
# Before the old file is compressed, all have left it.
BY_CTL = """
    create
    compress
    postrotate
        {ctl} reopen
    endscript
"""
# A signal does not say when it was obeyed: the old file stays as it is for a round.
BY_SIGNAL = """
    create
    compress
    delaycompress
    postrotate
        kill -WINCH {pid}
    endscript
"""
# What is written between the copy and the truncation would be lost.
COPIED = """
    copytruncate
    compress
    prerotate
        {ctl} hold
    endscript
    postrotate
        {ctl} reopen
    endscript
"""


class Clients(threading.Thread):
    """One session after the other until the end."""

    def __init__(self, at: Endpoint) -> None:
        super().__init__(daemon=True)
        self._at = at
        self._over = threading.Event()
        self.count = 0

    def run(self) -> None:
        with udp() as client:
            while not self._over.is_set():
                exchange(client, self._at, b"%d" % self.count)
                self.count += 1

    def end(self) -> int:
        """How many sessions there were."""
        self._over.set()
        self.join()
        return self.count


@contextmanager
def busy_proxy(directory: Path, level: int = 7) -> Iterator[tuple[Proxy, Clients, Path]]:
    """Its log, with a line for each session's begin, and its records, with one for each end."""
    place, port = directory / "logs", free_port()
    place.mkdir(mode=0o750)
    log = f"""[log]
level = {level}
target = "file"
file = "{place}/proxy.log"
records = "{place}/records.log"
"""
    with Echo() as echo, Proxy(directory, config(port, str(echo), acl=ONE_ANSWER, more=log)) as one:
        clients = Clients(("127.0.0.1", port))
        clients.start()
        try:
            yield one, clients, place
        finally:
            clients.end()


def rotate(proxy: Proxy, place: Path, how: str) -> None:
    """Now, as logrotate's timer would."""
    ctl = " ".join(map(str, proxy.ctl_words()))
    rules = proxy.file.with_name("logrotate.conf")
    rules.write_text(
        f"{place}/*.log {{\n    rotate 99\n    sharedscripts\n"
        f"{how.format(ctl=ctl, pid=proxy.pid)}}}\n"
    )
    rules.chmod(0o644)
    state = proxy.file.with_name("state")
    words = [tool("logrotate"), "--force", "--state", str(state), str(rules)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def lines_of(place: Path, name: str) -> list[str]:
    """All that was ever written under that name, the oldest first, none of it torn."""

    def age(path: Path) -> int:
        return -int(path.name.removeprefix(name).strip(".gz") or "0")

    lines: list[str] = []
    for path in sorted(place.glob(f"{name}*"), key=age):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines += data.decode().splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    return lines


def numbers(lines: list[str], what: re.Pattern[str]) -> list[int]:
    """The sessions of which the lines tell that."""
    return [int(found[1]) for found in map(what.search, lines) if found]


@pytest.mark.parametrize("how", [BY_CTL, BY_SIGNAL, COPIED], ids=["ctl", "signal", "copied"])
def test_no_line_is_lost(tmp_path: Path, how: str) -> None:
    with busy_proxy(tmp_path) as (proxy, clients, place):
        for _ in range(ROTATIONS):
            before = clients.count
            rotate(proxy, place, how)
            until(lambda: clients.count > before + 100)  # noqa: B023
            until(lambda: (place / "proxy.log").read_text().count(" UDPS-301-I ") == 2)
        count = clients.end()
        assert proxy.stop() == 0
        assert proxy.said("UDPS-306-W") == []
        log = lines_of(place, "proxy.log")
        records = lines_of(place, "records.log")
    assert len(list(place.glob("records.log.*"))) == ROTATIONS
    wanted = list(range(1, count + 1))
    assert numbers(records, RECORD) == wanted
    assert numbers(log, OPENED) == wanted
    counts = Counter(line.split("]: ")[1].split(" ")[0] for line in log)
    assert counts["UDPS-301-I"] == 2 * ROTATIONS, "parent and REG, each time"
    assert counts["UDPS-103-I"] == counts["UDPS-104-I"] == 1


def test_a_hold_that_nobody_ends_is_bounded(tmp_path: Path) -> None:
    """Lines wait in memory, and the time is limited: a broken rotation costs no log."""
    with busy_proxy(tmp_path, level=6) as (proxy, clients, place):
        records = place / "records.log"
        assert proxy.ctl("hold").returncode == 0
        size, before = records.stat().st_size, clients.count
        until(lambda: clients.count > before + 200)
        assert records.stat().st_size == size
        assert proxy.info("reg")["log-lines-waiting"] > 200
        clients.end()
        until(lambda: records.stat().st_size > size, limit=70, step=0.2)
        until(lambda: "UDPS-309-W" in (place / "proxy.log").read_text(), step=0.1)
        until(lambda: proxy.info("reg")["log-lines-waiting"] == 0, step=0.1)
        assert numbers(lines_of(place, "records.log"), RECORD) == list(range(1, clients.count + 1))
        assert proxy.stop(signal.SIGTERM) == 0
