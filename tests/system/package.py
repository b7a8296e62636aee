"""The .deb of the working tree, built inside a machine of the release that it is for.

Built once for each state of the tree: build/deb/RELEASE/ has it, with what lintian said.
DEB_BUILD_OPTIONS is handed on: with nocheck the unit tests do not run while it is built.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from system.machine import Machine

ROOT = Path(__file__).parents[2]
STORE = ROOT / "build" / "deb"
OLDER = "0.0.9"
"""The version of the package that upgrades begin with."""
LANDED = "83baf37"
"""The last commit of version 0.1.0, whose session table has layout 1."""
_BUILD = ("dpkg-buildpackage", "-us", "-uc", "-b")
_LINTIAN = ("lintian", "--allow-root", "--profile", "debian", "--pedantic", "--fail-on")
_SEVERITIES = "error,warning,pedantic"


@dataclass(frozen=True)
class Package:
    """One build: the binary package, and lintian's complaints about it."""

    path: Path
    lintian: str


def build(release: str, builder_root: Path, *, version: str | None = None) -> Package:
    """The package of `release`; `version` instead of the changelog's own, for an upgrade: then
    the unit tests, which the real one has passed, do not run again."""
    options = "nocheck" if version else os.environ.get("DEB_BUILD_OPTIONS", "")
    target = STORE / release / "-".join(filter(None, [_state(), version, options]))
    (STORE / release).mkdir(parents=True, exist_ok=True)
    with (STORE / release / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory() as work:
                source = Path(work) / "udp-proxy"
                copy_tree(source)
                if version:
                    _call(source / "debian" / "changelog", version)
                _build(release, builder_root, source, target, options)
    (deb,) = target.glob("udp-proxy_*.deb")
    return Package(deb, (target / "lintian").read_text())


def build_landed(release: str, builder_root: Path) -> Package:
    """The package of version 0.1.0, of its last commit; the checkout has to have its history."""
    target = STORE / release / f"landed-{LANDED}"
    (STORE / release).mkdir(parents=True, exist_ok=True)
    with (STORE / release / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory() as work:
                archive = Path(work) / "landed.tar"
                words = ["git", "archive", f"--output={archive}", LANDED]
                subprocess.run(words, cwd=ROOT, check=True)
                source = Path(work) / "udp-proxy"
                shutil.unpack_archive(archive, source)
                _build(release, builder_root, source, target, "nocheck")
    (deb,) = target.glob("udp-proxy_*.deb")
    return Package(deb, (target / "lintian").read_text())


def copy_tree(target: Path) -> None:
    """The working tree without what is made from it."""
    for path in _files():
        if path.exists():
            copy = target / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy, follow_symlinks=False)


def _files() -> list[Path]:
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in sorted(listed.split("\0")) if name]


def _state() -> str:
    digest = hashlib.sha256()
    for path in _files():
        inside = path.relative_to(ROOT)
        packaged = inside.parts[0] in ("service", "dbus", "units", "debian", "man", "examples")
        if path.is_file() and (packaged or len(inside.parts) == 1):
            digest.update(f"{inside}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _call(changelog: Path, version: str) -> None:
    """The package is of that version."""
    first, rest = changelog.read_text().split("\n", 1)
    upgraded = first.replace(first[first.index("(") : first.index(")") + 1], f"({version})")
    changelog.write_text(f"{upgraded}\n{rest}")


def _build(release: str, builder_root: Path, source: Path, target: Path, options: str) -> None:
    with (
        tempfile.TemporaryDirectory() as work,
        Machine(builder_root, f"{release}-build") as machine,
    ):
        machine.put(source, "/build/udp-proxy")
        chosen = {"DEB_BUILD_OPTIONS": options} if options else {}
        machine.run(*_BUILD, cwd="/build/udp-proxy", timeout=600, environment=chosen)
        said = machine.run(
            *_LINTIAN, _SEVERITIES, *_changes(machine), cwd="/build", check=False, timeout=300
        )
        finished = Path(work) / "finished"
        finished.mkdir()
        (finished / "lintian").write_text(said.stdout + said.stderr)
        for deb in machine.path("/build").glob("udp-proxy_*.deb"):
            shutil.copy2(deb, finished)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(finished, target)


def _changes(machine: Machine) -> list[str]:
    return [path.name for path in machine.path("/build").glob("*.changes")]
