"""Started by root to run as somebody else: what that account puts in root's way gets it nothing.
What depends on the umask is in test_run_account.py."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from accounts import (
    NO_SYSTEM,
    NOBODY,
    OTHER,
    RUNS_ALREADY,
    SECRET,
    fails,
    logging_to,
    own_directory,
    owner,
    text,
)
from proxy import Proxy, command, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's that everybody may enter, and a victim in it."""
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        victim = path / "victim"
        victim.write_text(SECRET)
        victim.chmod(0o600)
        yield path
        found = victim.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o600)
        assert victim.read_text() == SECRET


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_directories_above_that_are_missing(place: Path, umask: int) -> None:
    """They are made so that the account gets in, and nobody beside it can write there."""
    file, runtime = place / "one.toml", place / "run" / "udp" / "one"
    file.write_text(text())
    with subprocess.Popen(
        [*command("run", file), "--runtime-dir", runtime], umask=umask, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until((runtime / "control.sock").exists)
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (*runtime.parents[:2], runtime)]
            assert modes == [0o755, 0o755, 0o750]
            assert [owner(path) for path in (*runtime.parents[:2], runtime)] == [0, 0, NOBODY]
        finally:
            process.terminate()
    assert process.returncode == 0


def test_directory_that_the_account_cannot_reach(place: Path) -> None:
    file, runtime = place / "one.toml", place / "closed" / "one"
    file.write_text(text())
    runtime.parent.mkdir(mode=0o700)
    status, said = fails(file, runtime)
    assert status == NO_SYSTEM
    assert "the proxy's user cannot get there" in said


def link(path: Path, place: Path) -> None:
    path.symlink_to(own_directory(place / "there"))


def foreign(path: Path, place: Path) -> None:
    own_directory(path, OTHER)


def open_to_all(path: Path, place: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def open_to_a_group(path: Path, place: Path) -> None:
    own_directory(path)
    path.chmod(0o770)


def in_use(path: Path, place: Path) -> None:
    """Something else altogether, of root's."""
    path.mkdir()
    (path / "passwd").touch()


@pytest.mark.parametrize(
    ("sin", "said"),
    [
        (link, "it is a symbolic link"),
        (foreign, f"it belongs to uid {OTHER}"),
        (open_to_all, "others can write it (mode 0777)"),
        (open_to_a_group, "others can write it (mode 0770)"),
        (in_use, "holds more than sockets"),
    ],
)
def test_directory_that_is_refused(place: Path, sin: object, said: str) -> None:
    file, runtime = place / "one.toml", place / "run"
    file.write_text(text())
    assert callable(sin)
    sin(runtime, place)
    before = runtime.stat(), list(runtime.iterdir())
    status, heard = fails(file, runtime)
    assert status == NO_SYSTEM
    assert said in heard
    after = runtime.stat(), list(runtime.iterdir())
    assert before[0].st_uid == after[0].st_uid
    assert before[0].st_mode == after[0].st_mode
    assert before[1] == after[1]


def test_directory_in_a_directory_of_others_is_no_place_for_root(place: Path) -> None:
    file = place / "one.toml"
    file.write_text(text(0))
    status, said = fails(file, own_directory(place / "theirs") / "run")
    assert status == NO_SYSTEM
    assert "others than root can write" in said or "others can write where" in said
    assert not (place / "theirs" / "run").exists()


def test_start_as_another_user_while_it_runs(place: Path) -> None:
    """It is refused, and takes nothing from the one that runs."""
    with Proxy(place, text()) as proxy:
        runtime = proxy.runtime
        proxy.write(text(OTHER))
        status, said = fails(proxy.file, runtime)
        assert (status, "already running" in said) == (RUNS_ALREADY, True)
        assert {owner(path) for path in (runtime, *runtime.iterdir())} == {NOBODY}
        assert proxy.info()["state"] == "running"
        assert proxy.stop() == 0
        assert list(runtime.iterdir()) == []


@pytest.mark.parametrize("how", ["symbolic", "hard"])
def test_link_in_the_place_of_the_control_socket(place: Path, how: str) -> None:
    """To that of another instance, which root did not mean."""
    with Proxy(place / "one", text()) as proxy, Proxy(place / "other", text(OTHER)) as other:
        sock, another = (each.runtime / "control.sock" for each in (proxy, other))
        sock.unlink()
        sock.symlink_to(another) if how == "symbolic" else sock.hardlink_to(another)
        done = proxy.ctl("terminate")
        assert (done.returncode, str(sock) in done.stderr) == (1, True), done.stderr
        sock.unlink()
        assert other.info()["state"] == "running"
        assert other.stop() == 0
        assert proxy.stop() == 0


def test_device_in_the_place_of_a_log_stays_roots(place: Path) -> None:
    with Proxy(place, text(more=logging_to(Path("/dev/null")))) as proxy:
        assert proxy.stop() == 0
    assert owner(Path("/dev/null")) == 0


def test_end_where_the_directory_cannot_be_reached_any_more(place: Path) -> None:
    """It is said, and is no mistake of ours."""
    above = place / "above"
    above.mkdir(mode=0o755)
    proxy = Proxy(place, text(more=logging_to(own_directory(place / "logs") / "log")))
    proxy.runtime = above / "run"
    with proxy:
        above.chmod(0o700)
        assert proxy.stop() == 0
        assert "UDPS-120-E" in (place / "logs" / "log").read_text()
        above.chmod(0o755)
