"""Root's directories, those of the account that the proxy runs as, and what is in them."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from host import free_port
from proxy import command, config

NOBODY, OTHER = 65534, 47111
SECRET = "secret\n"
NO_SYSTEM, RUNS_ALREADY = 71, 75

Look = tuple[int, int, int]


def text(user: int = NOBODY, more: str = "") -> str:
    """A proxy that becomes that account; 0: it stays root."""
    account = f'user = "#{user}"\ngroup = "#{user}"' if user else ""
    return config(free_port(), "127.0.0.1:9", top=f"max-sessions = 5\n{account}", more=more)


def logging_to(path: Path, key: str = "file") -> str:
    """The log in that file, or with `records` only those."""
    target = 'target = "file"\n' if key == "file" else ""
    return f'[log]\n{target}{key} = "{path}"\n'


def own_directory(path: Path, uid: int = NOBODY, mode: int = 0o755) -> Path:
    """One of that account's."""
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def owner(path: Path) -> int:
    return path.lstat().st_uid


def look(path: Path) -> Look:
    """Its owner, group and mode."""
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def inside(directory: Path) -> dict[str, Look]:
    """The same of all that is in there."""
    return {path.name: look(path) for path in directory.iterdir()}


def fails(file: Path, runtime: Path) -> tuple[int, str]:
    """A start that does not work: its status, and what it says."""
    done = subprocess.run(
        [*command("run", file), "--runtime-dir", runtime],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr
