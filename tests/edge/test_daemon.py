"""`udp-proxy daemon`: its results, its files, what the daemon is, and every way to fail."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import ALREADY, DONE, FAILED, NOT_RUNNING, STALE, Daemon, status_of
from host import is_bound, tool
from proxy import command, until
from udpproxy.cli.daemon_actions import STOP_SLACK
from udpproxy.instance.ending import CLEAN_UP_LIMIT
from udpproxy.supervisor.fork import KILL_LIMIT

NOBODY = 65534


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "one") as daemon:
        yield daemon


def test_life(daemon: Daemon) -> None:
    assert daemon.result("status") == NOT_RUNNING
    pid = daemon.start()
    assert daemon.pid_file.read_bytes() == b"%d\n" % pid
    assert daemon.said("UDPS-100-I"), "start returns when it is ready"
    done = daemon.do("status")
    assert (done.returncode, done.stdout) == (DONE, f"one is running as process {pid}\n")
    assert daemon.result("start") == ALREADY
    assert daemon.pid == pid
    assert daemon.result("stop") == DONE
    assert daemon.processes() == {}
    assert daemon.left() == set()
    assert daemon.result("status") == NOT_RUNNING
    assert daemon.result("stop") == ALREADY
    assert daemon.result("reload") == NOT_RUNNING
    assert daemon.result("signal", "--signal", "USR1") == NOT_RUNNING
    assert daemon.left() == set()


def test_crash(daemon: Daemon) -> None:
    first = daemon.start()
    reg = daemon.reg_pid()
    os.kill(reg, signal.SIGSTOP)  # it cannot see that the parent has gone
    os.kill(first, signal.SIGKILL)
    for words in (["status"], ["reload"], ["signal", "--signal", "TERM"]):
        assert until(lambda words=words: daemon.result(*words) or 1) == STALE  # type: ignore[misc]
    done = daemon.do("start")
    assert (done.returncode, "had crashed" in done.stderr) == (STALE, True)
    second = daemon.pid
    assert (second != first, reg not in daemon.processes()) == (True, True)
    assert daemon.result("status") == DONE
    os.kill(second, signal.SIGKILL)
    until(lambda: second not in daemon.processes())
    assert daemon.result("stop") == STALE
    assert daemon.processes() == {}
    assert daemon.result("status") == NOT_RUNNING


def test_end_without_the_command_is_no_crash(daemon: Daemon) -> None:
    os.kill(daemon.start(), signal.SIGTERM)
    until(lambda: not daemon.processes())
    assert daemon.result("status") == NOT_RUNNING
    assert daemon.result("start") == DONE


def test_what_the_daemon_is(daemon: Daemon) -> None:
    pid = daemon.start()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    group, session, terminal = map(int, fields[2:5])
    assert (group, session, terminal) == (pid, pid, 0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"  # noqa: PTH115
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3  # noqa: PTH115
    status = status_of(pid)
    assert status["Umask"] == "0022"
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd")} == {"0" * 16}
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert {b"udpproxy.proxy.daemon", b"one"} <= set(words)
    for path in (daemon.pid_file, daemon.runtime):
        lock = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
    assert stat.S_IMODE(daemon.pid_file.stat().st_mode) == 0o600
    child = os.listdir(f"/proc/{daemon.reg_pid()}/fd")  # noqa: PTH208
    names = [os.readlink(f"/proc/{daemon.reg_pid()}/fd/{fd}") for fd in child]  # noqa: PTH115
    assert str(daemon.pid_file) not in names, "the lock is the daemon's alone"


@pytest.mark.parametrize(
    ("keys", "uid", "gid", "groups"),
    [
        ('user = "daemon"', 1, 1, {1}),
        ('user = "#4711"', 4711, 4711, {4711}),
        ('user = "#4711"\ngroup = "#4712"', 4711, 4712, {4712}),
        ('user = "daemon"\ngroup = "mail"', 1, 8, {8, 1}),
        ('group = "mail"', 0, 8, {8}),
    ],
)
def test_whom_it_becomes(tmp_path: Path, keys: str, uid: int, gid: int, groups: set[int]) -> None:
    with Daemon(tmp_path / "one", account=keys, more="# no log") as daemon:
        # A caller with groups of its own, which must not stay.
        done = daemon.do("start", prefix=["setpriv", "--groups", "4,24"])
        assert done.returncode == DONE, done.stderr
        for pid in daemon.processes():
            status = status_of(pid)
            assert set(map(int, status["Uid"].split())) == {uid}
            assert set(map(int, status["Gid"].split())) == {gid}
            assert set(map(int, status["Groups"].split())) == groups
        assert daemon.result("stop") == DONE
        assert daemon.processes() == {}


@pytest.mark.parametrize(
    ("account", "more", "kept"),
    [
        ('user = "daemon"', "# no log", 1 << 10),
        ("", '[log]\ntarget = "file"\nfile = "{log}"', 1 << 24 | 1 << 10 | 1 << 1),
    ],
)
def test_capabilities_that_the_configuration_needs(
    tmp_path: Path, account: str, more: str, kept: int
) -> None:
    """A low port, which a reload may bring again; log files, which may be another user's; for root
    descriptors in flight. Of these what there is: a container may have none."""
    port = next(number for number in range(1023, 500, -1) if not is_bound(number))
    more = more.format(log=tmp_path / "log")
    with Daemon(tmp_path / "one", account=account, more=more) as daemon:
        text = daemon.file.read_text().replace(f"port = {daemon.port}", f"port = {port}")
        daemon.file.write_text(text)
        status = status_of(daemon.start())
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {
            kept & int(status_of(os.getpid())["CapBnd"], 16)
        }
        other = next(number for number in range(port - 1, 400, -1) if not is_bound(number))
        daemon.file.write_text(text.replace(f"port = {port}", f"port = {other}"))
        done = daemon.do("reload")
        assert done.returncode == DONE, done.stderr
        assert (is_bound(port), is_bound(other)) == (False, True)
        reg = status_of(daemon.reg_pid())
        assert {int(reg[name], 16) for name in ("CapEff", "CapPrm", "CapInh")} == {0}


def test_reload(daemon: Daemon) -> None:
    daemon.start()
    text = daemon.file.read_text()
    daemon.file.write_text(text.replace('name = "all"', 'colour = "blue"'))
    done = daemon.do("reload")
    assert done.returncode == FAILED
    assert f"{daemon.file}:" in done.stderr
    assert "colour" in done.stderr
    daemon.file.write_text(text)
    assert daemon.result("reload") == DONE
    assert len(daemon.said("UDPS-303-I")) == 1


def test_reload_of_another_instances_socket(tmp_path: Path) -> None:
    """The runtime directory of another daemon: that one is not touched."""
    with Daemon(tmp_path / "a") as one, Daemon(tmp_path / "b") as other:
        one.start()
        other.start()
        done = one.do("reload", "--runtime-dir", other.runtime)
        assert done.returncode == FAILED
        assert f"is of process {other.pid}, not of {one.pid}" in done.stderr
        assert not other.said("UDPS-303-I")


@pytest.mark.parametrize("word", ["USR1", "sigusr1", "10"])
def test_signal(daemon: Daemon, word: str) -> None:
    daemon.start()
    assert daemon.result("signal", "--signal", word) == DONE
    until(lambda: daemon.said("UDPS-300-I log level is debug (7)"))


@pytest.mark.parametrize(
    "words",
    [
        ["signal", "--signal", "NONE"],
        ["signal", "--signal", "65"],
        ["signal"],
        ["stop", "--timeout", "soon"],
        ["start", "--timeout", "0"],
        ["dance"],
    ],
)
def test_unknown_words(daemon: Daemon, words: list[str]) -> None:
    assert daemon.result(*words) == 2
    assert daemon.left() == set()


def test_pid_file_must_be_given(daemon: Daemon) -> None:
    done = subprocess.run(
        command("daemon", "status", daemon.file), capture_output=True, check=False
    )
    assert (done.returncode, b"--pid-file" in done.stderr) == (2, True)


def test_stop_gives_up_and_force_does_not(daemon: Daemon) -> None:
    """Both hang: the daemon, and a child that could not follow it."""
    pid = daemon.start()
    os.kill(daemon.reg_pid(), signal.SIGSTOP)
    os.kill(pid, signal.SIGSTOP)
    done = daemon.do("stop", "--timeout", "0.5")
    assert (done.returncode, "has not ended within 0.5 s" in done.stderr) == (FAILED, True)
    assert daemon.result("status") == DONE
    done = daemon.do("stop", "--timeout", "0.5", "--force")
    assert (done.returncode, "was killed" in done.stderr) == (DONE, True)
    assert (daemon.processes(), daemon.left() - {"run"}) == ({}, set())
    assert daemon.start()


def test_stop_waits_as_long_as_an_end_may_take() -> None:
    assert STOP_SLACK > CLEAN_UP_LIMIT + KILL_LIMIT


def test_simulate(daemon: Daemon) -> None:
    with (
        (daemon.directory / "stderr").open("wb") as stderr,
        subprocess.Popen(
            daemon.words("start", "--simulate"), env=daemon.environment, stderr=stderr
        ) as process,
    ):
        until(lambda: daemon.said("UDPS-100-I"), 15)
        assert os.getsid(process.pid) == os.getsid(0)
        assert daemon.left() == {"run", "stderr"}, "neither PID file nor guard file"
        process.terminate()
    assert process.returncode == 0


def test_guard_file_makes_commands_wait(daemon: Daemon) -> None:
    guard = daemon.directory / "own.guard"
    with guard.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(
            daemon.words("status", "--guard-file", guard), stdout=subprocess.PIPE
        ) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)
            fcntl.flock(held, fcntl.LOCK_UN)
            process.communicate(timeout=20)
    assert process.returncode == NOT_RUNNING
    assert not guard.exists(), "whoever is last takes it away"


def test_guard_file_by_default(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one") as daemon:
        daemon.start()
        assert daemon.left() == {"one.pid", "one.lock", "run"}
        assert daemon.result("stop") == DONE
        daemon.pid_file = daemon.directory / "number"
        daemon.start()
        assert daemon.left() == {"number", "number.lock", "run"}
        assert daemon.result("stop") == DONE


def test_lock_of_another_process_is_not_taken_for_the_daemons(daemon: Daemon) -> None:
    """A number with a lock that is not its process's: nobody is signalled."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        daemon.pid_file.write_text(f"{bystander.pid}\n")
        with daemon.pid_file.open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for words in (["stop", "--force", "--timeout", "1"], ["signal", "--signal", "KILL"]):
                done = daemon.do(*words)
                assert done.returncode == FAILED
                assert f"not by process {bystander.pid}" in done.stderr
        assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert bystander.returncode == 0


@pytest.mark.parametrize("content", ["listen = 53\n", "12 13\n", "0\n", "7"])
def test_file_that_is_no_pid_file_is_left_alone(daemon: Daemon, content: str) -> None:
    daemon.pid_file.write_text(content)
    for action in ("start", "stop", "status"):
        done = daemon.do(action)
        assert (done.returncode, "holds something else" in done.stderr) == (FAILED, True)
    assert daemon.pid_file.read_text() == content


def test_marker_of_a_start_that_was_cut_off(daemon: Daemon) -> None:
    daemon.pid_file.write_text("(starting)\n")
    assert daemon.result("status") == STALE
    assert daemon.result("start") == STALE
    assert daemon.result("status") == DONE


def test_start_goes_on_when_its_command_is_killed(daemon: Daemon) -> None:
    with subprocess.Popen(daemon.words("start"), env=daemon.environment) as process:
        until(lambda: "daemon" in daemon.processes().values(), step=0.001)
        process.kill()
    assert daemon.result("status") == DONE
    until(lambda: daemon.said("UDPS-100-I"))
    assert daemon.result("stop") == DONE
    assert daemon.processes() == {}


def test_log_to_stderr_stays_with_the_commands(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one", more='[log]\ntarget = "stderr"') as daemon:
        with (daemon.directory / "stderr").open("wb") as stderr:
            done = subprocess.run(
                daemon.words("start"), env=daemon.environment, stderr=stderr, check=False
            )
        assert done.returncode == DONE
        assert daemon.result("stop") == DONE
        said = (daemon.directory / "stderr").read_text()
        assert "UDPS-100-I" in said
        assert "UDPS-104-I" in said


SYSLOG = """
import os, socket
from udpproxy.process.logs import Logs
from udpproxy.process import messages
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
    log.bind("/dev/log")
    os.dup2(os.open("/dev/null", os.O_RDWR), 2)
    logs = Logs("test")
    logs.say(messages.REOPENED)
    print(logs.target, log.recv(1000).decode())
    logs.close()
os.unlink("/dev/log")
print(Logs("test").target)
"""


def test_auto_is_syslog_where_stderr_leads_nowhere(tmp_path: Path) -> None:
    device = tmp_path / "dev"
    device.mkdir()
    null = device / "null"
    null.touch()
    # Not a device of its own: /tmp is often mounted without any.
    inside = f'mount --bind /dev/null "{null}" && mount --rbind "{device}" /dev && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside, "sh", sys.executable, "-c", SYSLOG],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("syslog <30>")
    assert "UDPS-301-I log reopened" in first
    assert second == "stderr"


def test_another_user_may_not(daemon: Daemon) -> None:
    """Neither see nor signal: the files are for whoever started it."""
    daemon.start()
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    done = daemon.do("signal", "--signal", "KILL", prefix=prefix)
    assert (done.returncode, "Permission denied" in done.stderr) == (FAILED, True)
    assert daemon.result("status") == DONE


def test_sockets_and_links_are_no_pid_files(daemon: Daemon) -> None:
    daemon.pid_file.symlink_to(daemon.file)
    text = daemon.file.read_text()
    assert daemon.result("start") == FAILED
    assert daemon.file.read_text() == text
    daemon.pid_file.unlink()
    os.mkfifo(daemon.pid_file)
    assert daemon.result("start") == FAILED
    daemon.pid_file.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(daemon.pid_file))
        assert daemon.result("start") == FAILED


@pytest.mark.parametrize("which", ["pid_file", "guard_file"])
def test_hard_links_are_no_files_of_a_daemon(daemon: Daemon, which: str) -> None:
    """Where an account can put one, root would write, or lock, what it names."""
    victim = daemon.directory.parent / "victim"
    victim.touch()
    getattr(daemon, which).hardlink_to(victim)
    done = daemon.do("start")
    assert (done.returncode, "another name" in done.stderr) == (FAILED, True)
    assert victim.read_bytes() == b""


@pytest.mark.parametrize("action", ["stop", "signal"])
def test_file_of_an_account_that_names_a_process_of_another(daemon: Daemon, action: str) -> None:
    """Its descriptor can be sent to anybody, who then has the file open and locked."""
    with (
        daemon.pid_file.open("w+b") as file,
        subprocess.Popen(["sleep", "60"], pass_fds=[file.fileno()]) as victim,
    ):
        try:
            os.fchown(file.fileno(), NOBODY, NOBODY)
            fcntl.flock(file, fcntl.LOCK_EX)
            os.pwrite(file.fileno(), b"%d\n" % victim.pid, 0)
            options = {"stop": ["--timeout", "0.5"], "signal": ["--signal", "TERM"]}[action]
            done = daemon.do(action, *options)
            assert (done.returncode, "not by process" in done.stderr) == (FAILED, True)
            assert victim.poll() is None
        finally:
            victim.kill()


def test_descriptors_in_flight_of_others_are_not_in_the_way(tmp_path: Path) -> None:
    """All that root has in sockets at the moment would count against a daemon that stays root."""
    with contextlib.ExitStack() as stack, Daemon(tmp_path / "one") as daemon:
        lent = stack.enter_context(daemon.file.open("rb"))
        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        stack.enter_context(other)
        for _ in range(8):
            socket.send_fds(ours, [b"x"], [lent.fileno()] * 250)
        done = daemon.do("start", prefix=[tool("prlimit"), "--nofile=1000:1000"])
        assert done.returncode == DONE, done.stderr
