"""The package where there is no systemd, bus or journal: the same verbs, by signal as by ctl."""

from __future__ import annotations

import contextlib
import re
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from system.bare import SYSLOG_FILE, Bare, Foreground, echo, rsyslogd
from system.service import PORT
from system.waiting import until

pytestmark = pytest.mark.one_release("d13")

FILE = "/var/log/udp-proxy/one.log"
ASK = f"""
import socket

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 8000))
sock.settimeout(5)
sock.sendto(b"from", ("127.0.0.1", {PORT}))
print(sock.recv(100).decode())
"""
STALE = "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind({!r})"
SIGNALS = {
    "info": signal.SIGRTMIN,
    "up": signal.SIGUSR1,
    "down": signal.SIGUSR2,
    "reopen": signal.SIGWINCH,
    "terminate": signal.SIGTERM,
}
WORDS = {
    "info": ("info", "--lines", "0"),
    "up": ("loglevel", "+1"),
    "down": ("loglevel", "-1"),
    "reopen": ("reopen",),
    "terminate": ("terminate",),
}
EFFECTS = {"info": "UDPS-302-I", "up": "UDPS-300-I", "down": "UDPS-300-I", "reopen": "UDPS-301-I"}


def do(one: Foreground, how: str, verb: str, process: str) -> None:
    """Nothing is logged meanwhile but what the verb does."""
    pid = one.pid(process)
    one.news()
    if how == "signal":
        one.container.run("kill", f"-{int(SIGNALS[verb])}", str(pid))
    else:
        one.ctl(*WORDS[verb], "--process", process)


def expect(one: Foreground, *wanted: tuple[str, str]) -> None:
    """Exactly these messages of these processes are logged."""
    found: Counter[tuple[str, str]] = Counter()

    def came() -> bool:
        found.update(one.news())
        return not Counter(wanted) - found

    with contextlib.suppress(AssertionError):
        until(came)
    assert found == Counter(wanted)


@contextlib.contextmanager
def logging(container: Bare, target: str) -> Iterator[Foreground]:
    if target == "file":
        container.run("rm", "-f", FILE)
        log = f'target = "file"\nfile = "{FILE}"'
        yield Foreground(container, log, container.path(FILE))
    else:
        container.run("rm", "-f", SYSLOG_FILE)
        with rsyslogd(container) as path:
            log = 'target = "syslog"\nfacility = "local5"'
            yield Foreground(container, log, path)


def test_nothing_of_systemd_is_there(container: Bare) -> None:
    for program in ("systemctl", "journalctl", "systemd-tmpfiles", "dbus-daemon", "busctl"):
        assert container.run("which", program, check=False).returncode == 1
    for path in ("/run/systemd", "/run/dbus", "/dev/log"):
        assert container.run("test", "-e", path, check=False).returncode == 1
    shown = container.run("stat", "-c", "%U %G %a", "/var/log/udp-proxy").stdout
    assert shown == "udp-proxy udp-proxy 770\n"


@pytest.mark.parametrize("target", ["file", "syslog"])
@pytest.mark.parametrize("how", ["signal", "ctl"])
def test_the_verbs(container: Bare, how: str, target: str) -> None:
    with (
        echo(container),
        logging(container, target) as one,
        one.started() as process,
    ):
        source = container.run("python3", "-c", ASK).stdout
        for verb, message in EFFECTS.items():
            do(one, how, verb, "reg")
            expect(one, ("reg", message))
            do(one, how, verb, "parent")
            both = [("parent", message), ("reg", message)]
            expect(one, *(both[:1] if verb == "info" else both))
            step = {"up": 1, "down": 0}.get(verb)
            if step is not None:
                # REG was told twice, by itself and by the parent.
                levels = {"up": ("debug (7)", "trace (8)"), "down": ("normal (6)", "normal (6)")}
                found = tuple(one.figure("log-level", each) for each in ("parent", "reg"))
                assert found == levels[verb]

        old = one.pid("reg")
        do(one, how, "terminate", "reg")
        expect(one, ("parent", "UDPS-201-W"), ("reg", "UDPS-210-I"))
        until(lambda: one.pid("reg") != old and one.figure("reg-state") == "ready")
        assert container.run("python3", "-c", ASK).stdout == source, "the same session"

        do(one, how, "terminate", "parent")
        assert process.wait(15) == 0
        wanted = ("UDPS-103-I", "UDPP-888-I", "UDPS-104-I")
        expect(one, *(("parent", message) for message in wanted))
        shown = container.run("ps", "-e", "-o", "args=").stdout
        assert "udpproxy" not in shown
        assert container.run("ls", "-A", "/run/udp-proxy/one").stdout == ""


def test_a_syslog_daemon_that_is_restarted(container: Bare) -> None:
    """Nobody tells the proxy, and the lines of the meantime arrive."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(echo(container))
        with logging(container, "syslog") as one:
            stack.enter_context(one.started())
        one.ctl("loglevel", "notice")  # from here on there are records only
        for number in range(1, 4):
            container.run("python3", "-c", ASK)
            one.ctl("kill", str(number))
        one.news()
        with rsyslogd(container):
            expect(one, *[("reg", "UDPP-888-I")] * 3)


def test_a_long_line_through_a_syslog_daemon(container: Bare) -> None:
    """What is too long for a line of syslog is there all the same, in parts."""
    size = 30_000
    with echo(container), logging(container, "syslog") as one, one.started():
        one.ctl("loglevel", "full")
        container.run("python3", "-c", ASK.replace('b"from"', f'b"x" * {size}'))
        one.ctl("loglevel", "normal")
        until(lambda: one.text().count(" UDPS-300-I log level is normal") == 2)
        parts = re.findall(r"UDPP-900-F \[(\d+)/(\d+)\] (.*)", one.text())
    upload = parts[: int(parts[0][1])]
    assert [int(number) for number, _, _ in upload] == list(range(1, len(upload) + 1))
    assert "".join(text for _, _, text in upload).endswith(f" {size} bytes: {'78' * size}")


@pytest.mark.parametrize("how", ["signal", "ctl"])
def test_a_rotated_file(container: Bare, how: str) -> None:
    with logging(container, "file") as one, one.started():
        for process, others in (("reg", []), ("parent", [("reg", "UDPS-301-I")])):
            one.path.rename(one.path.with_name("one.log.1"))
            pid = one.pid(process)
            one.forget()
            if how == "signal":
                container.run("kill", f"-{int(signal.SIGWINCH)}", str(pid))
            else:
                one.ctl("reopen", "--process", process)
            expect(one, (process, "UDPS-301-I"), *others)
    container.run("rm", f"{FILE}.1")


def test_the_packages_logrotate(container: Bare) -> None:
    """One instance that runs, one that left its socket behind; the old file is packed at once."""
    container.run("mkdir", "-p", "/run/udp-proxy/gone")
    container.run("python3", "-c", STALE.format("/run/udp-proxy/gone/control.sock"))
    words = ["logrotate", "--force", "--state", "/tmp/state", "/etc/logrotate.d/udp-proxy"]
    with echo(container), logging(container, "file") as one, one.started():
        for number in range(1, 4):
            container.run("python3", "-c", ASK)
            one.ctl("kill", str(number))
            container.run(*words)
        texts = [
            container.run("zcat", f"{FILE}.{number}.gz").stdout.splitlines() for number in (3, 2, 1)
        ]
        texts.append(container.run("cat", FILE).stdout.splitlines())
    found = re.findall(r" SESSION=(.)$", "\n".join(map("\n".join, texts)), re.MULTILINE)
    assert found == ["1", "2", "3"]
    assert ["UDPP-888-I" in text[-1] for text in texts] == [True, True, True, False]
    assert all("UDPS-301-I" in line for text in texts[1:] for line in text[:2])
    shown = container.run("stat", "-c", "%U %G %a", FILE, f"{FILE}.1.gz").stdout
    assert shown == "udp-proxy udp-proxy 660\n" * 2
    container.run("sh", "-c", f"rm -r {FILE}.* /run/udp-proxy/gone")


def test_cron_runs_logrotate(container: Bare) -> None:
    """As an administrator finds it after the installation: without a word."""
    done = container.run("logrotate", "--debug", "/etc/logrotate.conf")
    assert "udp-proxy" in done.stderr
    assert "error:" not in done.stderr
