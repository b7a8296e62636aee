"""The log of a running proxy: a full disk, a name that does not open, a syslog daemon that comes
late, stops reading or goes. Nothing of it holds up a datagram, and no line is lost or torn."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from echo import Echo, exchange, udp
from host import free_port, tool
from proxy import Endpoint, Proxy, config, until

pytestmark = pytest.mark.alone

ONE_ANSWER = "[session-acl.limits]\ndownload-datagrams = 1"
"""Each answer ends its session: a question is a session and its record."""
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} udp-proxy/one(/\w+)?\[\d+\]: [A-Z]{4}-\d{3}-[A-Z] \S.*"
)
RECORD = re.compile(r"UDPP-888-I .* SESSION=(\d+)$")
MOUNTED = """
mount -t tmpfs -o mode=755,size=$1 none "$2"
shift 2
exec "$@"
"""
DEVICES = """
mount -t tmpfs -o mode=755 none "$1"
for name in null zero full random urandom; do cp -a "/dev/$name" "$1"; done
ln -s "$2" "$1/log"
mount --bind "$1" /dev
shift 2
exec "$@"
"""
SLOWEST = 0.5
"""Seconds for an answer that nothing holds up, on a loaded machine."""


def in_shell(script: str, *words: object) -> list[str]:
    """A prefix: in a mount namespace of its own."""
    return [tool("unshare"), "--mount", "sh", "-ec", script, "sh", *map(str, words)]


def ask_often(at: Endpoint, count: int) -> float:
    """So many sessions, one after the other; the longest that one took."""
    slowest = 0.0
    with udp() as client:
        for number in range(count):
            begun = time.monotonic()
            exchange(client, at, b"%d" % number)
            slowest = max(slowest, time.monotonic() - begun)
    return slowest


def numbers(lines: list[str]) -> list[int]:
    """The sessions whose records are there."""
    return [int(found[1]) for found in map(RECORD.search, lines) if found]


def whole_lines(path: Path) -> list[str]:
    """All lines of a log, none of them torn."""
    lines = path.read_text().splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    return lines


@pytest.mark.parametrize("separate", [False, True], ids=["log", "records"])
def test_a_full_disk(tmp_path: Path, *, separate: bool) -> None:
    """Lines wait for room; then all are there, in order, and none is half a line."""
    disk, port = tmp_path / "disk", free_port()
    disk.mkdir()
    log = f'[log]\ntarget = "file"\nfile = "{disk}/log"\nlevel = 7'
    log += f'\nrecords = "{disk}/records"' * separate
    prefix = in_shell(MOUNTED, "256k", disk)
    with Echo() as echo:
        text = config(port, str(echo), acl=ONE_ANSWER, more=log)
        with Proxy(tmp_path, text, prefix=prefix) as proxy:
            inside = Path(f"/proc/{proxy.pid}/root") / disk.relative_to("/")
            ballast = inside / "ballast"
            with ballast.open("wb") as file, suppress(OSError):
                file.write(bytes(200_000))
            assert ask_often(("127.0.0.1", port), 500) < SLOWEST
            until(lambda: proxy.info("reg")["log-lines-waiting"] > 0, step=0.1)
            ballast.unlink()
            resize = ["mount", "-o", "remount,size=4m", str(disk)]
            subprocess.run([tool("nsenter"), "-t", str(proxy.pid), "-m", "--", *resize], check=True)
            until(lambda: proxy.info("reg")["log-lines-waiting"] == 0, step=0.1)
            assert proxy.info("reg")["log-lines-dropped"] == 0
            exchange_once(port)
            until(lambda: len(numbers(whole_lines(inside / name_of(separate)))) == 501)
            assert numbers(whole_lines(inside / name_of(separate))) == list(range(1, 502))
            opened = [line for line in whole_lines(inside / "log") if "UDPP-820-D" in line]
            assert len(opened) == 501


def name_of(separate: bool) -> str:  # noqa: FBT001 - a parameter of the test
    return "records" if separate else "log"


def exchange_once(port: int) -> None:
    """One session more."""
    ask_often(("127.0.0.1", port), 1)


@pytest.mark.parametrize("how", ["ctl", "signal"])
@pytest.mark.parametrize("separate", [False, True], ids=["log", "records"])
def test_a_name_that_does_not_open(tmp_path: Path, how: str, *, separate: bool) -> None:
    """The old file goes on, and the administrator is told: by ctl, and in the log."""
    place, moved, port = tmp_path / "place", tmp_path / "moved", free_port()
    place.mkdir()
    (tmp_path / "fine").mkdir()
    log = f'[log]\ntarget = "file"\nfile = "{tmp_path / "fine" if separate else place}/log"'
    log += f'\nrecords = "{place}/records"' * separate
    wrong = f"{place}/{name_of(separate)}: No such file or directory"
    with (
        Echo() as echo,
        Proxy(tmp_path, config(port, str(echo), acl=ONE_ANSWER, more=log)) as proxy,
    ):
        said = tmp_path / "fine" / "log" if separate else moved / "log"
        exchange_once(port)
        place.rename(moved)
        if how == "ctl":
            done = proxy.ctl("reopen")
            assert (done.returncode, wrong in done.stderr) == (1, True)
        else:
            proxy.kill(signal.SIGWINCH)
        until(lambda: said.read_text().count(f"UDPS-308-W log: {wrong}") == 2)
        assert "UDPS-301-I" not in said.read_text()
        exchange_once(port)
        until(lambda: numbers(whole_lines(moved / name_of(separate))) == [1, 2])
        moved.rename(place)
        assert proxy.ctl("reopen").returncode == 0
        exchange_once(port)
        until(lambda: numbers(whole_lines(place / name_of(separate))) == [1, 2, 3])


class Syslog:
    """A socket where a syslog daemon would have its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self.texts: list[str] = []

    def start(self) -> None:
        """It listens, and reads nothing yet."""
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self._socket.bind(str(self._path))

    def stop(self) -> None:
        """It is gone, with what it had not read."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def read(self) -> list[str]:
        """All that it ever got."""
        assert self._socket
        with suppress(BlockingIOError):
            while True:
                self.texts.append(self._socket.recv(1 << 20).decode())
        return self.texts

    def said(self, what: str) -> list[str]:
        """Those with `what` in them."""
        return [text for text in self.read() if what in text]


@contextmanager
def syslogged(
    tmp_path: Path, echo: Echo, *, more: str = "", limits: str = ONE_ANSWER
) -> Iterator[tuple[Proxy, Syslog, int]]:
    """A proxy on a host whose /dev/log is ours; it is not there yet."""
    (tmp_path / "dev").mkdir()
    port, receiver = free_port(), Syslog(tmp_path / "log")
    text = config(port, str(echo), acl=limits, more=f'[log]\ntarget = "syslog"\n{more}')
    prefix = in_shell(DEVICES, tmp_path / "dev", tmp_path / "log")
    with Proxy(tmp_path, text, prefix=prefix) as proxy:
        try:
            yield proxy, receiver, port
        finally:
            receiver.stop()


def test_a_daemon_that_comes_late(tmp_path: Path) -> None:
    with (
        Echo() as echo,
        syslogged(tmp_path, echo, more='facility = "local3"') as (
            proxy,
            receiver,
            port,
        ),
    ):
        assert ask_often(("127.0.0.1", port), 50) < SLOWEST
        receiver.start()
        until(lambda: len(numbers(receiver.read())) == 50, step=0.05)
        until(lambda: receiver.said("UDPS-100-I"), step=0.05)
        assert numbers(receiver.texts) == list(range(1, 51))
        head = re.compile(
            r"<158>[A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d "
            rf"udp-proxy/one/reg\[{proxy.reg_pid}\]: UDPP-888-I PROTOCOL=UDP CLIENT=127"
        )
        assert all(head.match(text) for text in receiver.said("UDPP-888-I"))
        assert receiver.said("UDPS-102-I")[0].startswith("<158>")


def test_a_daemon_that_is_restarted(tmp_path: Path) -> None:
    with Echo() as echo, syslogged(tmp_path, echo) as (_, receiver, port):
        receiver.start()
        for round_ in range(1, 4):
            ask_often(("127.0.0.1", port), 20)
            until(lambda: len(numbers(receiver.read())) == 40 * round_ - 20, step=0.05)  # noqa: B023
            receiver.stop()
            ask_often(("127.0.0.1", port), 20)
            receiver.start()
            until(lambda: len(numbers(receiver.read())) == 40 * round_, step=0.05)  # noqa: B023
        assert numbers(receiver.texts) == list(range(1, 121))


def test_a_daemon_that_stops_reading(tmp_path: Path) -> None:
    """20,000 lines wait, more are counted; the relay is never held up."""
    count, room = 21_500, 20_000
    with Echo() as echo, syslogged(tmp_path, echo) as (proxy, receiver, port):
        receiver.start()
        assert ask_often(("127.0.0.1", port), count) < SLOWEST
        figures = proxy.info("reg")
        assert figures["log-lines-waiting"] == room
        assert figures["log-lines-dropped"] > 0
        until(lambda: receiver.said("UDPS-306-W"), limit=60, step=0.001)
        (told,) = receiver.said("UDPS-306-W")
        lost = int(told.partition("UDPS-306-W ")[2].split(" ")[0])
        assert lost == proxy.info("reg")["log-lines-dropped"]
        seen = numbers(receiver.read())
        assert seen == sorted(set(seen))
        assert len(seen) + lost == count
        assert proxy.info()["records-dropped"] == lost
        ask_often(("127.0.0.1", port), 1)
        until(lambda: numbers(receiver.read())[-1] == count + 1, step=0.05)


def test_lines_that_nobody_ever_took(tmp_path: Path) -> None:
    """The end without a syslog daemon: stderr hears how many there were."""
    with Echo() as echo, syslogged(tmp_path, echo) as (proxy, _, port):
        ask_often(("127.0.0.1", port), 30)
        begun = time.monotonic()
        assert proxy.stop() == 0
        assert time.monotonic() - begun < 5
        (told,) = [line for line in proxy.said("UDPS-306-W") if "/reg[" in line]
        assert LINE.fullmatch(told)
        assert int(told.partition("UDPS-306-W ")[2].split(" ")[0]) >= 30
        assert len(proxy.said("UDPS-306-W")) == 2


def test_a_line_longer_than_a_daemon_takes(tmp_path: Path) -> None:
    """Level full writes every byte: in parts, none of them longer than a daemon reads."""
    data = bytes(range(256)) * 250
    with Echo() as echo, syslogged(tmp_path, echo, more="level = 9") as (_, receiver, port):
        receiver.start()
        with udp() as client:
            exchange(client, ("127.0.0.1", port), data)
        until(lambda: numbers(receiver.read()), step=0.05)
        parts = [text.partition("UDPP-900-F ")[2] for text in receiver.said("UDPP-900-F")]
        assert max(len(text.encode()) for text in receiver.texts) <= 8000
        marks = [re.match(r"\[(\d+)/(\d+)\] ", part) for part in parts]
        assert all(marks)
        half = len(parts) // 2
        wanted = [(str(number), str(half)) for number in range(1, half + 1)] * 2
        assert [mark.groups() for mark in marks if mark] == wanted
        text = "".join(part.partition("] ")[2] for part in parts)
        assert text.count(data.hex()) == 2


def test_reload_away_from_a_daemon_that_does_not_read(tmp_path: Path) -> None:
    """The last lines for the old log are nobody's to wait for."""
    with Echo() as echo, syslogged(tmp_path, echo) as (proxy, receiver, port):
        receiver.start()
        ask_often(("127.0.0.1", port), 1500)
        text = proxy.file.read_text()
        proxy.write(text.replace('"syslog"', f'"file"\nfile = "{tmp_path}/file"'))
        with udp() as client:
            reloading = subprocess.Popen(proxy.ctl_words("reload"), stdout=subprocess.DEVNULL)
            slowest, number = 0.0, 0
            while reloading.poll() is None:
                begun, number = time.monotonic(), number + 1
                exchange(client, ("127.0.0.1", port), b"%d" % number)
                slowest = max(slowest, time.monotonic() - begun)
            assert reloading.returncode == 0
        assert slowest < SLOWEST
        wanted = list(range(1, 1500 + number + 1))

        def found() -> list[int]:
            for _ in range(100):  # a socket holds ten lines: reading must outdo comparing
                receiver.read()
                time.sleep(0.002)
            return numbers(receiver.read()) + numbers(whole_lines(tmp_path / "file"))

        until(lambda: found() == wanted, limit=40, step=0.005)


def test_the_last_lines(tmp_path: Path) -> None:
    """Each process remembers its own, also those that the log never took; info shows them."""
    with Echo() as echo, syslogged(tmp_path, echo) as (proxy, _, port):
        ask_often(("127.0.0.1", port), 300)
        shown = proxy.ask("info", "--process", "reg", "--lines", 200)["last-lines"]
        assert numbers(shown) == list(range(101, 301))
        assert all(LINE.fullmatch(line) for line in shown)
        assert len(proxy.ask("info", "--process", "reg")["last-lines"]) == 10
        assert "last-lines" not in proxy.ask("info", "--lines", 0)
        parent = proxy.ask("info", "--lines", 200)["last-lines"]
        assert f"udp-proxy/one[{proxy.pid}]: UDPS-102-I" in parent[0]
        assert numbers(parent) == []
        text = proxy.ctl("info", "--process", "reg", "--lines", "3").stdout
        table, _, last = text.partition("\nlast-lines\n")
        assert "state " in table
        assert [bool(LINE.fullmatch(line.strip())) for line in last.splitlines()] == [True] * 3
        for wrong in ("-1", "201"):
            assert proxy.ctl("info", "--lines", wrong).returncode == 1
        assert proxy.ctl("info", "--lines", "all").returncode == 2


def test_the_last_lines_of_the_resolvers(tmp_path: Path) -> None:
    port = free_port()
    acl = 'from = ["client.test"]\n'
    more = '[resolver]\nservers = ["127.0.0.1:9"]\n[log]\nlevel = 7'
    with Proxy(tmp_path, config(port, "127.0.0.1:9", acl=acl, more=more)) as proxy:
        until(lambda: proxy.info()["acr-state"] == "ready", step=0.1)
        shown = until(lambda: proxy.ask("info", "--process", "acr")["last-lines"], step=0.1)
        assert any("udp-proxy/one/acr[" in line and "UDPS-101-D" in line for line in shown)
