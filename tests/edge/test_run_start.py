"""What `run` does before it relays: mistakes in the file, one instance only, and who is asked."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, command, config, until
from udpproxy.errors import UnitError
from udpproxy.proxy.config.model import Place
from udpproxy.proxy.parent.listening import listening_sockets

BAD_CONFIG, NO_SYSTEM, RUNS_ALREADY, NOT_RUNNING = 78, 71, 75, 3

TEN_MISTAKES = """\
max-sessions = 0
overflow = "panic"
colour = "blue"
[[listen]]
address = "127.0.0.300"
port = 70000
[limits]
idle = "soon"
upload-bytes = "64 parsecs"
[[session-acl]]
name = "one"
type = "anything"
from = ["192.0.2.1/99"]
[log]
level = 11
"""
MISTAKEN = [
    (1, "max-sessions"),
    (2, "overflow"),
    (3, "colour"),
    (5, "listen[1].address"),
    (6, "listen[1].port"),
    (8, "limits.idle"),
    (9, "limits.upload-bytes"),
    (12, "session-acl[1].type"),
    (13, "session-acl[1].from[1]"),
    (15, "log.level"),
]


def run(file: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """`udp-proxy run`, which is expected to end by itself."""
    return subprocess.run(
        command("run", file, *words), capture_output=True, text=True, timeout=60, check=False
    )


def test_ten_mistakes_in_one_file(tmp_path: Path) -> None:
    file, runtime = tmp_path / "one.toml", tmp_path / "run"
    file.write_text(TEN_MISTAKES)
    done = run(file, "--runtime-dir", runtime)
    assert done.returncode == BAD_CONFIG
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    place = re.compile(rf".*: UDPS-521-E cannot start: {re.escape(str(file))}:(\d+): (\S+): .")
    places = [place.match(line) for line in lines]
    found = [(int(each[1]), each[2]) for each in places if each]
    assert found == MISTAKEN, done.stderr
    assert len(lines) == 10
    assert list(tmp_path.iterdir()) == [file], "nothing was started"


def test_a_start_that_fails_at_its_second_socket_leaves_none(tmp_path: Path) -> None:
    file, runtime = tmp_path / "one.toml", tmp_path / "run"
    file.write_text(config(free_port(), "127.0.0.1:9"))
    (runtime / "control.sock").mkdir(parents=True)
    done = run(file, "--runtime-dir", runtime)
    assert done.returncode == NO_SYSTEM, done.stderr
    assert "control.sock: Is a directory" in done.stderr
    assert not (runtime / "children.sock").exists()


@pytest.mark.parametrize("name", ["1st", "a.b", "with space", "a" * 65, "-x"])
def test_instance_name_that_is_not_allowed(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.toml"
    file.write_text(config(free_port(), "127.0.0.1:9"))
    done = run(file, "--runtime-dir", tmp_path / "run")
    assert done.returncode == BAD_CONFIG
    assert f"{name!r}".strip("'") in done.stderr
    assert not (tmp_path / "run").exists()


def test_file_that_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path / "one.toml", "--runtime-dir", tmp_path / "run")
    assert (done.returncode, "cannot be read" in done.stderr) == (BAD_CONFIG, True)


def test_port_that_somebody_has(tmp_path: Path) -> None:
    with udp() as other:
        port = other.getsockname()[1]
        file = tmp_path / "one.toml"
        file.write_text(config(port, "127.0.0.1:9"))
        done = run(file, "--runtime-dir", tmp_path / "run")
    assert done.returncode == NO_SYSTEM
    assert f"listen on 127.0.0.1 port {port}: Address already in use" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("listen", "other", "told"),
    [
        ("127.0.0.1", "127.0.0.1", "{who} has it"),
        ("::1", "::1", "{who} has it"),
        ("0.0.0.0", "127.0.0.53", "{who} has 127.0.0.53, so 0.0.0.0 cannot be had: name the add"),
        ("::", "::1", "{who} has ::1, so :: cannot be had: name the addresses"),
        ("127.0.0.1", "0.0.0.0", "{who} has all addresses (0.0.0.0) of this port"),
        ("::1", "::", "{who} has all addresses (::) of this port"),
        ("127.0.0.1", "::", "{who} has all addresses (::) of this port"),
        ("0.0.0.0", "::ffff:127.0.0.9", "{who} has 127.0.0.9, so 0.0.0.0 cannot be had"),
    ],
)
def test_who_has_the_port(tmp_path: Path, listen: str, other: str, told: str) -> None:
    port = free_port()
    file = tmp_path / "one.toml"
    file.write_text(config(port, "127.0.0.1:9", listen=listen))
    comm = Path("/proc/self/comm").read_text().strip()
    told = told.format(who=f"{comm} (process {os.getpid()}, user root)")
    with socket.socket(
        socket.AF_INET6 if ":" in other else socket.AF_INET, socket.SOCK_DGRAM
    ) as sock:
        sock.bind((other, port))
        done = run(file, "--runtime-dir", tmp_path / "run")
    assert f"listen on {listen} port {port}: Address already in use: {told}" in done.stderr


def test_who_has_the_port_without_a_look_at_processes() -> None:
    """As a unit the proxy does not see what root's processes have."""
    with udp("127.0.0.53") as sock:
        port = sock.getsockname()[1]
        other = subprocess.Popen(["sleep", "60"], pass_fds=[sock.fileno()])
    os.seteuid(65534)
    try:
        with pytest.raises(UnitError, match=r"in use: user root has 127\.0\.0\.53, so 0"):
            listening_sockets(Place(ip_address("0.0.0.0"), port), 2, 1)
    finally:
        os.seteuid(0)
        other.kill()
        other.wait()


def test_start_while_it_runs(tmp_path: Path) -> None:
    port = free_port()
    with (
        Echo() as echo,
        udp() as client,
        Proxy(tmp_path, config(port, str(echo))) as proxy,
    ):
        exchange(client, ("127.0.0.1", port), b"before")
        done = run(proxy.file, "--runtime-dir", proxy.runtime)
        assert done.returncode == RUNS_ALREADY
        assert f"already running in {proxy.runtime}" in done.stderr
        exchange(client, ("127.0.0.1", port), b"after")
        assert len(echo.sources) == 1
        assert proxy.info()["state"] == "running"


def test_runtime_directory_from_the_environment(tmp_path: Path) -> None:
    file, runtime = tmp_path / "one.toml", tmp_path / "elsewhere"
    file.write_text(config(free_port(), "127.0.0.1:9"))
    environment = os.environ | {"RUNTIME_DIRECTORY": str(runtime)}
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        subprocess.Popen(command("run", file), env=environment, stderr=stderr) as process,
    ):
        try:
            until((runtime / "control.sock").exists)
            ask = subprocess.run(
                command("ctl", "one", "info"), env=environment, capture_output=True, check=False
            )
            assert ask.returncode == 0
        finally:
            process.terminate()
    assert process.returncode == 0
    assert not runtime.exists()


def test_ctl_of_what_does_not_run(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, config(free_port(), "127.0.0.1:9"))
    done = proxy.ctl("info")
    assert (done.returncode, done.stdout) == (NOT_RUNNING, "")
    assert "one is not running" in done.stderr
    # A socket without anybody behind it, as SIGKILL leaves it.
    proxy.runtime.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(proxy.runtime / "control.sock"))
    assert proxy.ctl("info").returncode == NOT_RUNNING


@pytest.mark.parametrize("words", [["dance"], ["info", "--loud"], [], ["kill"], ["loglevel"]])
def test_ctl_with_unknown_words(tmp_path: Path, words: list[str]) -> None:
    proxy = Proxy(tmp_path, config(free_port(), "127.0.0.1:9"))
    assert proxy.ctl(*words).returncode == 2


def test_ctl_waits_for_a_proxy_that_is_starting(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, config(free_port(), "127.0.0.1:9", top="max-sessions = 5000"))
    with proxy.launched():
        until((proxy.runtime / "control.sock").exists, step=0.0005)
        assert proxy.info()["state"] == "running"


def test_killed_in_the_middle_of_the_start(tmp_path: Path) -> None:
    """A stop that comes at once is a stop in order all the same."""
    proxy = Proxy(tmp_path, config(free_port(), "127.0.0.1:9"))
    with proxy.launched():
        until(proxy.runtime.exists, step=0.0005)
        assert proxy.stop(signal.SIGTERM) == 0
    assert not proxy.runtime.exists()
    assert proxy.processes() == {}


def test_directory_of_an_instance_that_was_killed_is_used_again(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, config(free_port(), "127.0.0.1:9"))
    proxy.runtime.mkdir()
    for name in ("control.sock", "notify"):
        (proxy.runtime / name).touch()
    with proxy:
        assert proxy.stop() == 0
        assert list(proxy.runtime.iterdir()) == [], "a directory that we did not make stays"


def test_lock_is_held_as_long_as_it_runs(tmp_path: Path) -> None:
    with Proxy(tmp_path, config(free_port(), "127.0.0.1:9")) as proxy:
        lock = os.open(proxy.runtime, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(lock)


def test_command_of_the_package(tmp_path: Path) -> None:
    """The console script is the same as the module."""
    program = Path(sys.executable).parent / "udp-proxy"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("udp-proxy ")
