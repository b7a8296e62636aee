"""The log: levels, lines that cannot be forged, sinks that never wait and keep the order."""

from __future__ import annotations

import array
import fcntl
import os
import re
import resource
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.config.model import Log
from udpproxy.errors import InvalidArgument, UnitError
from udpproxy.process import logs as logs_module
from udpproxy.process import messages, receivers, sinks, wire
from udpproxy.process.files import FileSink
from udpproxy.process.logs import Logs, RateLimit, clean, level_from, level_name
from udpproxy.process.receivers import JournalSink, SyslogSink
from udpproxy.process.recent_lines import LastLines
from udpproxy.process.sinks import Entry, Sink, StderrSink, priority, stderr_is_journal

ENTRY = Entry("UDPS-100-I", "I", "hello", "ab" * 16, {"SESSION": "7", "EMPTY": ""})


def entry(text: str) -> Entry:
    return Entry("UDPS-100-I", "I", text, "ab" * 16, {})


@pytest.mark.parametrize(
    ("word", "current", "wanted"),
    [
        ("+1", 6, 7), ("-1", 6, 5), ("+1", 9, 9), ("-1", 3, 3), ("+99", 4, 9), ("-99", 8, 3),
        ("+0", 5, 5), ("3", 6, 3), ("9", 6, 9), ("error", 6, 3), ("warning", 6, 4),
        ("err", 6, 3), ("crit", 6, 3), ("warn", 6, 4), ("info", 3, 6),
        ("notice", 6, 5), ("normal", 3, 6), ("debug", 6, 7), ("trace", 6, 8), ("full", 6, 9),
    ],
)  # fmt: skip
def test_levels(word: str, current: int, wanted: int) -> None:
    assert level_from(word, current) == wanted


@pytest.mark.parametrize(
    "word",
    [
        "",
        "0",
        "1",
        "2",
        "10",
        "+",
        "-",
        "+100",
        "--1",
        "+1 ",
        " 6",
        "six",
        "Debug",
        "6.0",
        "٣",
        "+٣",
    ],
)
def test_words_that_name_no_level(word: str) -> None:
    with pytest.raises(InvalidArgument, match="log level"):
        level_from(word, 6)


def test_level_names() -> None:
    assert [level_name(level) for level in (3, 6, 9)] == ["error (3)", "normal (6)", "full (9)"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain, and näive", "plain, and näive"),
        ("a\nUDPS-510-C forged", "a\\x0aUDPS-510-C forged"),
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x00\x7f\x85\x9b", "\\x00\\x7f\\x85\\x9b"),
        ("\u2028\u2029", "\\x2028\\x2029"),
        ("\u202etxet\u2066", "\\x202etxet\\x2066"),
    ],
)
def test_clean(text: str, wanted: str) -> None:
    assert clean(text) == wanted


@settings(max_examples=200)
@given(st.text())
def test_clean_is_one_line(text: str) -> None:
    assert len((clean(text) + "x").splitlines()) == 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in clean(text))


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_the_damper(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(logs_module, "time", clock)
    rate_limit = RateLimit()
    assert rate_limit.allow("a") == ""
    assert [rate_limit.allow("a") for _ in range(3)] == [None] * 3
    assert rate_limit.allow("b") == ""
    clock.now += 0.999
    assert rate_limit.allow("a") is None
    clock.now += 0.001
    assert rate_limit.allow("a") == " (4 more held back)"
    clock.now += 61
    assert rate_limit.allow("a") == ""


class ListSink(Sink):
    """Takes `room` lines, then none."""

    def __init__(self, room: int = 1 << 30) -> None:
        super().__init__("who")
        self.room = room
        self.taken: list[str] = []

    def _format(self, entry: Entry) -> bytes:
        return entry.text.encode()

    def _write(self, line: bytes) -> int:
        if not self.room:
            return 0
        self.room -= 1
        self.taken.append(line.decode())
        return len(line)


def test_what_waits_keeps_its_order() -> None:
    sink = ListSink(room=2)
    for number in range(6):
        sink.emit(entry(str(number)))
    assert sink.taken == ["0", "1"]
    sink.room = 3
    sink.emit(entry("6"))
    assert sink.taken == ["0", "1", "2", "3", "4"]
    sink.room = 100
    sink.emit(entry("7"))
    assert sink.taken == [str(number) for number in range(8)]
    assert sink.dropped == 0


def test_what_does_not_fit_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_MOST_WAITING", 3)
    sink = ListSink(room=0)
    for number in range(5):
        sink.emit(entry(str(number)))
    assert sink.dropped == 2
    sink.room = 100
    sink.close()
    assert sink.taken == ["0", "1", "2"]


def test_what_waits_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_MOST_BYTES", 100)
    sink = ListSink(room=0)
    for size in (60, 60, 40, 1):
        sink.emit(entry("x" * size))
    assert (sink.waiting, sink.dropped) == (2, 2)
    sink.room = 100
    assert sink.flush()
    sink.room = 0
    sink.emit(entry("y" * 100))
    assert (sink.waiting, sink.dropped) == (1, 2)


def lines(path: Path) -> list[str]:
    """The texts behind time, sender and id."""
    return [line.split(": UDPS-100-I ", 1)[1] for line in path.read_text().splitlines()]


def test_a_file_is_reopened_after_a_rotation(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    sink = FileSink("who", log)
    sink.emit(entry("one"))
    log.rename(old)
    sink.emit(entry("two"))
    sink.reopen()
    sink.emit(entry("three"))
    sink.close()
    assert lines(old) == ["one", "two"]
    assert lines(log) == ["three"]
    assert log.stat().st_mode & 0o777 & ~0o640 == 0


@pytest.mark.parametrize(("directory", "expected"), [(0o750, 0o600), (0o770, 0o660)])
def test_a_file_is_the_groups_where_the_directory_is(
    tmp_path: Path, directory: int, expected: int
) -> None:
    """Whatever the umask, which is ours again afterwards."""
    before = os.umask(0o077)
    try:
        tmp_path.chmod(directory)
        sink = FileSink("who", tmp_path / "log")
        (tmp_path / "log").rename(tmp_path / "log.1")
        sink.reopen()
        sink.close()
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {expected}
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)


def test_where_a_file_cannot_be_reopened_the_old_one_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "log.d"
    folder.mkdir()
    sink = FileSink("who", folder / "log")
    moved = tmp_path / "moved"
    folder.rename(moved)
    with pytest.raises(FileNotFoundError):
        sink.reopen()
    sink.emit(entry("still here"))
    sink.close()
    assert lines(moved / "log") == ["still here"]


def test_a_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        FileSink("who", tmp_path / "log")


def test_a_full_disk_is_waited_for() -> None:
    """/dev/full is one for ever; in a real one there is room again some day."""
    sink = FileSink("who", Path("/dev/full"))
    sink.emit(entry("one"))
    assert not sink.flush()
    sink.close()


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """As a disk that is full then: what fits is written, and no byte more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_half_line_stays_where_others_write(tmp_path: Path) -> None:
    path = tmp_path / "log"
    one, other = FileSink("one", path), FileSink("other", path)
    one.emit(entry("first"))
    many = [f"{number} {'x' * 100}" for number in range(5)]
    with files_end_at(path.stat().st_size + 250):
        one.emit_lines("UDPS-100-I", "I", many)
    assert path.read_text().endswith("x\n")
    assert (len(lines(path)), one.waiting) == (2, 4)
    other.emit(entry("between"))
    assert one.flush()
    assert lines(path) == ["first", many[0], "between", *many[1:]]
    one.close()
    other.close()


def test_held_lines_wait_for_the_reopening(tmp_path: Path) -> None:
    sink = FileSink("who", tmp_path / "log")
    sink.emit(entry("one"))
    sink.held = True
    sink.emit(entry("two"))
    sink.emit_lines("UDPS-100-I", "I", ["three", "four"])
    assert not sink.flush()
    assert sink.waiting == 3
    assert lines(tmp_path / "log") == ["one"]
    os.truncate(tmp_path / "log", 0)
    sink.reopen()
    sink.emit(entry("five"))
    sink.close()
    assert lines(tmp_path / "log") == ["two", "three", "four", "five"]


def test_a_hold_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Logs("who")
    log.configure(Log(target="file", file=str(tmp_path / "log"), records=str(tmp_path / "records")))
    clock = Clock()
    monkeypatch.setattr(logs_module, "time", clock)
    log.hold()
    log.record("one", {})
    log.say(messages.STOPPING, "two")
    clock.now += logs_module.HOLD_LIMIT - 0.1
    log.flush()
    assert (tmp_path / "records").read_text() == ""
    clock.now += 0.2
    log.flush()
    assert texts(tmp_path / "records") == ["UDPP-888-I one"]
    assert texts(tmp_path / "log")[0] == "UDPS-103-I stopping: two"
    assert texts(tmp_path / "log")[1].startswith("UDPS-309-W log files were held for 60 s")
    log.close()


def test_a_line_that_was_written_in_part_is_finished(tmp_path: Path) -> None:
    """A pipe in the file's place takes what fits."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink("who", path)
    os.set_blocking(sink._fd, False)
    wanted = [str(number) * 3000 for number in range(10)] + ["x" * 100_000]
    for text in wanted:
        sink.emit(entry(text))
    got = b""
    while not sink.flush() or select.select([reader], [], [], 0)[0]:
        got += os.read(reader, 1 << 20)
    sink.close()
    os.close(reader)
    found = [line.split("UDPS-100-I ")[1] for line in got.decode().splitlines()]
    assert [line[:9] for line in found] == [line[:9] for line in wanted]
    assert bool(found == wanted)


@contextmanager
def stderr_pipe() -> Iterator[int]:
    """The reading end of a pipe that is our stderr; one page is all that it holds."""
    saved = os.dup(2)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield reader
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(reader)


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("length", [10, 3000, 50_000])
def test_a_full_pipe_never_blocks_and_keeps_the_order(length: int, *, blocking: bool) -> None:
    wanted = [f"{number}-" + "x" * length for number in range(200 if length < 1000 else 20)]
    got = b""
    with stderr_pipe() as reader:
        os.set_blocking(2, blocking)
        sink = StderrSink("who")
        for text in wanted:
            sink.emit(entry(text))
        flushed_at_once = sink.flush()
        while not sink.flush() or select.select([reader], [], [], 0)[0]:
            got += os.read(reader, 1 << 16)
    assert not flushed_at_once
    assert sink.dropped == 0
    found = [line.split("UDPS-100-I ")[1] for line in got.decode().splitlines()]
    assert [line[:9] for line in found] == [line[:9] for line in wanted]
    assert bool(found == wanted)


def test_a_pipe_that_nobody_will_read() -> None:
    with stderr_pipe() as reader:
        sink = StderrSink("who")
        # The number is closed once more at the end, so something has to stand there.
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, reader)
        os.close(null)
        sink.emit(entry("lost"))
        flushed = sink.flush()
    assert flushed
    assert sink.dropped == 0


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(2)
    sock.bind(str(path))
    return sock


def parsed(raw: bytes) -> dict[str, str]:
    """journald's native protocol, as its documentation has it."""
    fields = {}
    while raw:
        name, _, raw = raw.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            (size,) = struct.unpack("<Q", raw[:8])
            value, raw = raw[8 : 8 + size], raw[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


def test_a_journal_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "_JOURNAL", str(tmp_path / "journal"))
    with listen(tmp_path / "journal") as journald:
        sink = JournalSink("udp-proxy/test/reg")
        sink.emit(ENTRY)
        raw = journald.recv(1 << 16)
        assert raw == (
            b"MESSAGE=UDPS-100-I hello\nPRIORITY=6\nMESSAGE_ID=" + b"ab" * 16 + b"\n"
            b"SYSLOG_IDENTIFIER=udp-proxy/test/reg\nUDP_PROXY_ID=UDPS-100-I\nSESSION=7\n"
        )
        sink.emit(entry("two\nlines=1"))
        assert parsed(journald.recv(1 << 16))["MESSAGE"] == "UDPS-100-I two\nlines=1"
        sink.close()


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_a_large_journal_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(receivers, "_JOURNAL", str(tmp_path / "journal"))
    with listen(tmp_path / "journal") as journald:
        sink = JournalSink("who")
        sink.emit(entry("x" * size))
        raw, control, _, _ = journald.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if control:
            assert raw == b""
            (memory,) = array.array("i", control[0][2])
            seals = fcntl.fcntl(memory, fcntl.F_GET_SEALS)
            raw = os.pread(memory, 1 << 21, 0)
            os.close(memory)
            assert seals == sum(
                (fcntl.F_SEAL_SEAL, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE)
            )
        assert bool(control) == (size > 500_000)
        assert parsed(raw)["MESSAGE"] == "UDPS-100-I " + "x" * size
        sink.close()


@pytest.mark.parametrize("unit", [True, False])
def test_a_file_of_a_unit_leaves_alarms_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, unit: bool
) -> None:
    """Where `systemctl status` shows them. Without systemd there is nobody to look."""
    monkeypatch.setattr(receivers, "_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setattr(logs_module, "stderr_is_journal", lambda: unit)
    in_file = Log(target="file", file=str(tmp_path / "log"))
    with listen(tmp_path / "journal") as journald:
        journald.settimeout(0)
        ours = Logs("udp-proxy/test")
        ours.configure(in_file)
        ours.say(messages.REOPENED)
        ours.say(messages.RELOAD_FAILED, "a mistake")
        ours.say(messages.START_FAILED, "no port")
        ours.reopen()
        ours.record("of a session", {})
        for said in ("UDPS-304-W", "UDPS-520-E") if unit else ():
            assert said in parsed(journald.recv(4096))["MESSAGE"]
        with pytest.raises(BlockingIOError):
            journald.recv(4096)
        # Once it goes there as a whole, nothing comes twice.
        ours.configure(Log(target="journal"))
        ours.say(messages.START_FAILED, "no port")
        assert "UDPS-520-E" in parsed(journald.recv(4096))["MESSAGE"]
        with pytest.raises(BlockingIOError):
            journald.recv(4096)
        ours.close()
    written = (tmp_path / "log").read_text()
    idents = ("UDPS-301-I", "UDPS-304-W", "UDPS-520-E", "UDPP-888-I")
    assert [written.count(ident) for ident in idents] == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["journal", "syslog"])
def test_a_receiver_that_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "receiver"
    monkeypatch.setattr(receivers, "_JOURNAL", str(path))
    monkeypatch.setattr(receivers, "_SYSLOG", str(path))
    sink = JournalSink("who") if kind == "journal" else SyslogSink("who", "daemon")
    sink.emit(entry("before it is there"))
    with listen(path) as receiver:
        sink.emit(entry("one"))
        assert b"before it is there" in receiver.recv(4096)
        assert b"one" in receiver.recv(4096)
    path.unlink()
    sink.emit(entry("two"))
    sink.emit(entry("three"))
    with listen(path) as receiver:
        assert sink.flush()
        assert b"two" in receiver.recv(4096)
        assert b"three" in receiver.recv(4096)
    path.unlink()
    with listen(path) as receiver:
        sink.emit(entry("four"))
        assert b"four" in receiver.recv(4096)
        sink.reopen()
        sink.emit(entry("five"))
        assert b"five" in receiver.recv(4096)
        sink.close()


def test_a_receiver_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "_SYSLOG", str(tmp_path / "syslog"))
    with listen(tmp_path / "syslog") as receiver:
        sink = SyslogSink("who", "local3")
        for number in range(2000):
            sink.emit(entry(str(number)))
        assert not sink.flush()
        got: list[str] = []
        while len(got) < 2000:
            got.append(receiver.recv(4096).decode())
            sink.flush()
        sink.close()
    assert [int(line.rpartition(" ")[2]) for line in got] == list(range(2000))
    assert got[0].startswith(f"<{19 * 8 + 6}>")
    assert f" who[{os.getpid()}]: UDPS-100-I 0" in got[0]


def test_a_line_that_no_daemon_ever_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted, and those behind it do not wait for ever."""
    monkeypatch.setattr(receivers, "_SYSLOG", str(tmp_path / "syslog"))
    monkeypatch.setattr(receivers, "_LONGEST", 1 << 24)
    with listen(tmp_path / "syslog") as receiver:
        sink = SyslogSink("who", "daemon")
        sink.emit(entry("x" * (8 << 20)))
        sink.emit(entry("short"))
        assert receiver.recv(4096).endswith(b"UDPS-100-I short")
        assert (sink.dropped, sink.waiting) == (1, 0)
        sink.close()


class KeptSyslog(SyslogSink):
    """Keeps what it would send."""

    def __init__(self, who: str, facility: str) -> None:
        super().__init__(who, facility)
        self.sent: list[str] = []

    def _write(self, line: bytes) -> int:
        self.sent.append(line.decode())
        return len(line)


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=20))
def test_the_parts_of_a_long_line(piece: str) -> None:
    """Each is text by itself, none is too long, and together they are the line."""
    sink = KeptSyslog("who", "daemon")
    sent, text = sink.sent, clean(piece) * 3000
    sink.emit(entry(text))
    assert all(len(line.encode()) <= 8000 for line in sent)
    if len(sent) > 1:
        parts = [
            re.fullmatch(r"<\d+>.{15} who\[\d+\]: \S+ \[(\d+)/(\d+)\] (.*)", line) for line in sent
        ]
        found = [part.groups() for part in parts if part]
        assert [part[:2] for part in found] == [
            (str(number), str(len(sent))) for number in range(1, len(sent) + 1)
        ]
        assert "".join(part[2] for part in found) == text
    else:
        assert sent[0].endswith(f"UDPS-100-I {text}")


def test_priorities() -> None:
    assert [priority(letter) for letter in "CEWNIDTF"] == [2, 3, 4, 5, 6, 7, 7, 7]


def test_is_stderr_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = socket.socketpair()
    saved = os.dup(2)
    try:
        os.dup2(ours.fileno(), 2)
        status = os.fstat(2)
        for words, wanted in (
            (f"{status.st_dev}:{status.st_ino}", True),
            (f"{status.st_dev}:{status.st_ino + 1}", False),
            ("", False),
            ("no numbers", False),
        ):
            monkeypatch.setenv("JOURNAL_STREAM", words)
            assert stderr_is_journal() is wanted
    finally:
        os.dup2(saved, 2)
        for number in (saved, ours.detach(), other.detach()):
            os.close(number)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Logs]:
    logs = Logs("who")
    logs.configure(Log(target="file", file=str(tmp_path / "log")))
    yield logs
    logs.close()


def texts(path: Path) -> list[str]:
    return [line.split("]: ", 1)[1] for line in path.read_text().splitlines()]


def test_the_level_decides_what_is_seen(log: Logs, tmp_path: Path) -> None:
    for level in (3, 5, 7):
        log.level = level
        log.say(messages.CHILD_READY)
        log.say(messages.STOPPING, f"at {level}")
        log.say(messages.CHILD_KILLED, "reg", level, 1.0)
        log.record("record", {})
        assert log.seen(messages.CHILD_READY) is (level == 7)
    killed = "UDPS-203-E reg (process {}) did not go within 1 s: killed"
    assert texts(tmp_path / "log") == [
        killed.format(3), "UDPP-888-I record",
        killed.format(5), "UDPP-888-I record",
        "UDPS-101-D ready", "UDPS-103-I stopping: at 7", killed.format(7), "UDPP-888-I record",
    ]  # fmt: skip


def test_nobody_forges_a_line(log: Logs, tmp_path: Path) -> None:
    log.say(messages.STOPPING, "x\n2030-01-01T00:00:00.000 who[1]: UDPS-510-C forged\x1b[1m")
    assert texts(tmp_path / "log") == [
        "UDPS-103-I stopping: x\\x0a2030-01-01T00:00:00.000 who[1]: UDPS-510-C forged\\x1b[1m"
    ]


def test_text_that_no_encoding_has(log: Logs, tmp_path: Path) -> None:
    log.say(messages.STOPPING, "\udc80")
    assert texts(tmp_path / "log") == ["UDPS-103-I stopping: \\udc80"]


def test_records_may_have_a_file_of_their_own(tmp_path: Path) -> None:
    log = Logs("who")
    target, records = tmp_path / "log", tmp_path / "records"
    log.configure(Log(target="file", file=str(target), records=str(records)))
    log.record("one", {"SESSION": "1"})
    log.say(messages.STOPPING, "two")
    records.rename(tmp_path / "records.1")
    log.reopen()
    log.record("three", {"SESSION": "3"})
    log.flush()
    log.close()
    assert texts(target) == ["UDPS-103-I stopping: two"]
    assert texts(tmp_path / "records.1") == ["UDPP-888-I one"]
    assert texts(records) == ["UDPP-888-I three"]


def test_a_configuration_that_cannot_be_had_changes_nothing(log: Logs, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing" / "log")
    for config in (
        Log(level=9, target="file", file=missing),
        Log(level=9, target="file", file=str(tmp_path / "other"), records=missing),
    ):
        with pytest.raises(UnitError, match="missing"):
            log.configure(config)
    assert log.level == 6
    log.say(messages.STOPPING, "still here")
    assert texts(tmp_path / "log") == ["UDPS-103-I stopping: still here"]


def test_the_same_place_stays_open(log: Logs, tmp_path: Path) -> None:
    config = Log(target="file", file=str(tmp_path / "log"))
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.configure(Log(target="file", file=str(tmp_path / "log"), level=9))
    assert log.level == 9
    log.configure(config, keep_level=True)
    assert log.level == 9
    log.say(messages.STOPPING, "in the old file")
    assert texts(tmp_path / "log.1") == ["UDPS-103-I stopping: in the old file"]
    assert not (tmp_path / "log").exists()


def test_a_failure_has_its_traceback_line_by_line(log: Logs, tmp_path: Path) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as problem:
        log.failure(problem)
    said = texts(tmp_path / "log")
    assert said[0] == "UDPS-530-C internal error, please report it: ValueError('two\\nlines')"
    assert said[1] == "UDPS-530-C Traceback (most recent call last):"
    assert said[-2:] == ["UDPS-530-C ValueError: two", "UDPS-530-C lines"]


def test_the_last_lines_fit_into_an_answer() -> None:
    last = LastLines("who")
    for number in range(300):
        last.add(entry(f"{number} short"))
    assert [line.rpartition("UDPS-100-I ")[2] for line in last.newest(3)] == [
        "297 short", "298 short", "299 short"
    ]  # fmt: skip
    assert len(last.newest(200)) == 200
    assert last.newest(0) == []
    for _ in range(200):
        last.add(entry("\u00e9" * 5000))
    shown = last.newest(200)
    assert 30 < len(shown) < 200
    assert shown[0].endswith("\u00e9... (5000 characters)")
    assert wire.encode(wire.Answer(1, {"last-lines": [*shown]}))


def test_lost_lines_stay_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the log is changed to."""
    monkeypatch.setattr(receivers, "_SYSLOG", str(tmp_path / "syslog"))
    monkeypatch.setattr(sinks, "_MOST_WAITING", 2)
    clock = Clock()
    monkeypatch.setattr(logs_module, "time", clock)
    log = Logs("who")
    log.configure(Log(target="syslog"))
    for number in range(5):
        log.say(messages.STOPPING, number)
    log.configure(Log(target="file", file=str(tmp_path / "log")))
    assert (log.dropped, log.waiting) == (3, 2)
    log.flush()
    clock.now += 61
    log.flush()
    assert (log.dropped, log.waiting) == (5, 0)
    log.close()
    assert [text[:30] for text in texts(tmp_path / "log")] == [
        "UDPS-306-W 3 log lines are los", "UDPS-306-W 2 log lines are los"
    ]  # fmt: skip


def test_lost_lines_are_spoken_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(receivers, "_SYSLOG", str(tmp_path / "syslog"))
    monkeypatch.setattr(sinks, "_MOST_WAITING", 2)
    log = Logs("who")
    log.configure(Log(target="syslog"))
    for number in range(5):
        log.say(messages.STOPPING, number)
    log.flush()
    assert log.dropped == 3
    with listen(tmp_path / "syslog") as receiver:
        log.flush()
        log.flush()
        log.say(messages.STOPPING, "at last")
        got = [receiver.recv(4096).decode().split("]: ")[1] for _ in range(4)]
        log.close()
    assert got == [
        "UDPS-103-I stopping: 0",
        "UDPS-103-I stopping: 1",
        "UDPS-306-W 3 log lines are lost: nobody took them in time",
        "UDPS-103-I stopping: at last",
    ]
