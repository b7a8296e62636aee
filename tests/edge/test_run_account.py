"""Started by root to run as somebody else, with every umask: whose the files are, and what root
does with what that account has put in the place of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from accounts import (
    NO_SYSTEM,
    NOBODY,
    OTHER,
    SECRET,
    fails,
    inside,
    logging_to,
    look,
    own_directory,
    text,
)
from daemons import DONE, FAILED, USER, Daemon
from proxy import Proxy, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

SOCKETS = ("control.sock", "children.sock", "notify")
INSTEAD = ["link", "link to nothing", "hard link", "pipe", "directory", "link above"]


@pytest.fixture(params=[0o000, 0o022, 0o077], ids="{:03o}".format, autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of whatever is started."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's that everybody may enter: a victim in it, a directory of root's, and
    one of the account's."""
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        victim = path / "victim"
        victim.write_text(SECRET)
        victim.chmod(0o600)
        own_directory(path / "roots", 0)
        own_directory(path / "theirs")
        before = victim.stat().st_mtime_ns, look(path / "roots")
        yield path
        assert look(victim) == (0, 0, 0o600)
        assert victim.read_text() == SECRET
        assert (victim.stat().st_mtime_ns, look(path / "roots")) == before
        assert inside(path / "roots") == {}
        assert not (path / "nothing").exists()


@pytest.fixture
def daemon(tmp_path: Path, place: Path) -> Iterator[Daemon]:
    """Its files are where the account can write."""
    with Daemon(tmp_path / "one") as daemon:
        daemon.pid_file = place / "theirs" / "one.pid"
        daemon.guard_file = place / "theirs" / "one.lock"
        yield daemon


def put(what: str, path: Path, place: Path) -> Path:
    """As the account may: in the place of that file. Where it is now."""
    match what:
        case "link":
            path.symlink_to(place / "victim")
        case "link to nothing":
            path.symlink_to(place / "nothing")
        case "hard link":
            path.hardlink_to(place / "victim")
        case "pipe":
            os.mkfifo(path)
            os.chown(path, NOBODY, NOBODY)
        case "directory":
            own_directory(path)
        case "link above":
            (path.parent / "below").symlink_to(place)
            return path.parent / "below" / "victim"
    return path


@pytest.mark.parametrize("whose", [0, NOBODY])
def test_files_of_a_proxy(place: Path, umask: int, whose: int) -> None:
    """In a directory of root's it makes the logs and gives them away."""
    logs = own_directory(place / "logs", whose)
    more = logging_to(logs / "log") + f'records = "{logs}/records"\n'
    with Proxy(place, text(more=more)) as proxy:
        log = NOBODY, NOBODY, 0o640 & ~umask
        assert inside(logs) == {"log": log, "records": log}
        assert look(proxy.runtime) == (NOBODY, NOBODY, 0o750)
        assert inside(proxy.runtime) == dict.fromkeys(SOCKETS, (NOBODY, NOBODY, 0o600))
        assert proxy.stop() == 0
    assert look(logs) == (whose, whose, 0o755)


def test_files_of_a_proxy_that_stays_root(place: Path, umask: int) -> None:
    logs = own_directory(place / "logs", 0)
    more = logging_to(logs / "log") + f'records = "{logs}/records"\n'
    with Proxy(place, text(0, more=more)) as proxy:
        assert inside(logs) == dict.fromkeys(("log", "records"), (0, 0, 0o640 & ~umask))
        assert look(proxy.runtime) == (0, 0, 0o750)
        assert inside(proxy.runtime) == dict.fromkeys(SOCKETS, (0, 0, 0o600))
        assert proxy.stop() == 0


@pytest.mark.parametrize("whose", [0, USER])
def test_files_of_a_daemon(daemon: Daemon, place: Path, whose: int) -> None:
    """Its own umask is 022; the two files of its control are root's."""
    files = own_directory(place / "files", whose)
    daemon.pid_file, daemon.guard_file = files / "one.pid", files / "one.lock"
    daemon.log_file = files / "log"
    log = logging_to(daemon.log_file) + f'records = "{files}/records"\n'
    daemon.file.write_text(text(USER, log))
    daemon.start()
    control = dict.fromkeys(("one.pid", "one.lock"), (0, 0, 0o600))
    assert inside(files) == control | dict.fromkeys(("log", "records"), (USER, USER, 0o640))
    assert look(daemon.runtime) == (USER, USER, 0o750)
    assert inside(daemon.runtime) == dict.fromkeys(SOCKETS, (USER, USER, 0o600))
    assert daemon.result("stop") == DONE
    assert set(inside(files)) == {"log", "records"}


@pytest.mark.parametrize(("user", "key"), [(NOBODY, "records"), (0, "file")])
@pytest.mark.parametrize("what", INSTEAD)
def test_instead_of_a_log(place: Path, user: int, key: str, what: str) -> None:
    """Nothing is opened that the account has no right to, whoever the proxy becomes."""
    path = put(what, place / "theirs" / "log", place)
    file = place / "one.toml"
    file.write_text(text(user, logging_to(path, key)))
    before = look(path)
    status, said = fails(file, place / "run")
    assert (status, f"log: {path}: " in said) == (NO_SYSTEM, True)
    assert look(path) == before


def test_instead_of_a_log_that_is_reopened(place: Path) -> None:
    """Root says no, and writes on where it did."""
    path = place / "theirs" / "log"
    with Proxy(place, text(0, logging_to(path))) as proxy:
        for what in INSTEAD[:-1]:
            path.rename(path.with_name("old"))
            put(what, path, place)
            done = proxy.ctl("reopen")
            assert (done.returncode, str(path) in done.stderr) == (1, True)
            path.rmdir() if path.is_dir() else path.unlink()
            path.with_name("old").rename(path)
        assert proxy.stop() == 0
    assert "UDPS-104-I" in path.read_text()


@pytest.mark.parametrize("what", INSTEAD[:-2])
def test_instead_of_the_sockets(place: Path, what: str) -> None:
    """The account had the directory, and has it again; root opens nothing in there."""
    runtime = own_directory(place / "run", mode=0o750)
    for name in (*SOCKETS, "lock"):
        put(what, runtime / name, place)
    lock = {"lock": look(runtime / "lock")}
    with Proxy(place, text()) as proxy:
        sockets = dict.fromkeys(SOCKETS, (NOBODY, NOBODY, 0o600))
        assert inside(runtime) == sockets | lock
        assert all((runtime / name).is_socket() for name in SOCKETS)
        assert proxy.stop() == 0
    assert inside(runtime) == lock


INSIDE = """mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 755 /run/udp-proxy
mount --bind "$0" /run/udp-proxy
exec "$@"
"""


@pytest.mark.parametrize("user", [NOBODY, 0])
def test_instead_of_the_sockets_of_an_earlier_account(place: Path, user: int) -> None:
    """In /run/udp-proxy the directory goes from one account to the next."""
    name = f"account-{os.getpid()}"  # another run has such a directory, too, and its processes
    runtime = own_directory(place / "roots" / name, OTHER, 0o750)
    for each in SOCKETS:
        put("link", runtime / each, place)
    prefix = ["unshare", "--mount", "sh", "-ec", INSIDE, str(runtime.parent)]
    proxy = Proxy(place, text(user), name=name, prefix=prefix)
    proxy.runtime = Path("/run/udp-proxy") / name
    with proxy.launched():
        until(lambda: proxy.said("UDPS-100-I"))
        assert look(runtime) == (user, user, 0o750)
        assert inside(runtime) == dict.fromkeys(SOCKETS, (user, user, 0o600))
        assert proxy.stop() == 0
    assert inside(runtime) == {}
    runtime.rmdir()


@pytest.mark.parametrize("name", SOCKETS)
def test_directory_instead_of_a_socket(place: Path, name: str) -> None:
    runtime = own_directory(place / "run", mode=0o750)
    own_directory(runtime / name)
    file = place / "one.toml"
    file.write_text(text())
    status, said = fails(file, runtime)
    assert (status, f"{runtime / name}: Is a directory" in said) == (NO_SYSTEM, True)
    assert look(runtime / name) == (NOBODY, NOBODY, 0o755)


@pytest.mark.parametrize("what", INSTEAD)
def test_instead_of_the_pid_file(daemon: Daemon, place: Path, what: str) -> None:
    options = "--guard-file", daemon.guard_file
    daemon.pid_file = put(what, daemon.pid_file, place)
    for action in ("start", "stop") if what == "link" else ("start",):
        done = daemon.do(action, *options)
        assert (done.returncode, f"PID file: {daemon.pid_file}" in done.stderr) == (FAILED, True)


@pytest.mark.parametrize("what", [what for what in INSTEAD if what != "pipe"])
def test_instead_of_the_guard_file(daemon: Daemon, place: Path, what: str) -> None:
    """A pipe is as good as a file: it is only locked."""
    path = put(what, daemon.guard_file, place)
    done = daemon.do("start", "--guard-file", path)
    assert (done.returncode, f"guard file: {path}" in done.stderr) == (FAILED, True)


def foreign(path: Path, place: Path) -> None:
    own_directory(path, OTHER)


def open_to_all(path: Path, place: Path) -> None:
    own_directory(path, mode=0o777)


def link(path: Path, place: Path) -> None:
    path.symlink_to(place / "roots")


@pytest.mark.parametrize("above", ["roots", "theirs"])
@pytest.mark.parametrize(
    ("sin", "said"),
    [
        (link, "it is a symbolic link"),
        (foreign, f"it belongs to uid {OTHER}"),
        (open_to_all, "others can write it (mode 0777)"),
        (partial(put, "link to nothing"), "it is a symbolic link"),
        (partial(put, "hard link"), "Not a directory"),
        (partial(put, "pipe"), "Not a directory"),
    ],
)
def test_instead_of_the_runtime_directory(
    place: Path, above: str, sin: Callable[[Path, Path], object], said: str
) -> None:
    parent = own_directory(place / "above", NOBODY if above == "theirs" else 0)
    sin(parent / "run", place)
    file, before = place / "one.toml", inside(parent)
    file.write_text(text())
    status, heard = fails(file, parent / "run")
    assert (status, said in heard) == (NO_SYSTEM, True), heard
    assert inside(parent) == before


def test_link_above_the_runtime_directory(place: Path) -> None:
    """It is followed with the account's rights, which end in root's directory."""
    (place / "theirs" / "below").symlink_to(place / "roots")
    file = place / "one.toml"
    file.write_text(text())
    status, said = fails(file, place / "theirs" / "below" / "run")
    assert (status, "Permission denied for the proxy's user" in said) == (NO_SYSTEM, True)
