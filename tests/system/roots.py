"""The root file systems which the system tests boot: made once, then only read.

A root's name holds a hash of everything that went into it, so a changed recipe is another root.
It appears under its name complete or not at all, and is made by one process while others wait.
Run this file to make roots ahead of the tests: roots.py [--prune] [--kind KIND] [d12|d13]...
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["machine", "broker", "builder", "bare"]

RELEASES = {"d12": "bookworm", "d13": "trixie"}
STORE = Path(__file__).resolve().parents[2] / "build" / "roots"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # not the caller's: its python3 may be any
TOOLS = "run tests/system/install-tools.sh"

# What the package depends on, so that it installs without a network, and what the tests look with.
MACHINE = """
    systemd systemd-sysv dbus polkitd
    python3 python3-dbus-next python3-dnspython python3-sdnotify python3-systemd
    bind9-dnsutils dnsmasq-base iproute2 logrotate nftables procps rsyslog
"""
# The same with the other implementation of the bus, which then runs in place of dbus-daemon.
BROKER = f"{MACHINE} dbus-broker"
# What the package builds with; systemd and dbus, because a builder is booted like any machine.
BUILDER = """
    systemd systemd-sysv dbus
    build-essential cython3 debhelper dh-python fakeroot lintian pybuild-plugin-pyproject
    python3-all-dev python3-setuptools
    python3-dbus-next python3-dnspython python3-hypothesis python3-pytest python3-sdnotify
    python3-systemd
"""
# A container in which nothing runs but what one starts: no systemd, no bus, no journal. cron and
# the standalone sysusers are what logrotate and cron would else have systemd for.
BARE = """
    cron systemd-standalone-sysusers
    python3 python3-dbus-next python3-dnspython python3-sdnotify python3-systemd
    iproute2 logrotate procps rsyslog
"""
PACKAGES: dict[Kind, str] = {
    "machine": MACHINE,
    "broker": BROKER,
    "builder": BUILDER,
    "bare": BARE,
}

# $1 is the root. Timers that take dpkg's lock, and rsyslog, run only where a test starts them.
# Without /etc/hostname a machine is called what its container is called; with .updated as old as
# /usr it does not spend its boot on rebuilding caches.
FINISH = """
    set -e
    for unit in apt-daily.timer apt-daily-upgrade.timer rsyslog.service; do
        if [ -e "$1/usr/lib/systemd/system/$unit" ] || [ -e "$1/lib/systemd/system/$unit" ]; then
            chroot "$1" systemctl --quiet disable "$unit"
        fi
    done
    printf '127.0.0.1 localhost\\n::1 localhost ip6-localhost\\n' >"$1/etc/hosts"
    rm -f "$1/etc/hostname" "$1/etc/resolv.conf"
    touch --reference="$1/usr" "$1/etc/.updated" "$1/var/.updated"
"""
OPTIONS = (
    "--variant=minbase",
    "--mode=root",
    "--format=directory",
    "--dpkgopt=force-unsafe-io",
    f"--customize-hook={FINISH}",
)
# In a bare one nothing is started that would have to be disabled.
BARE_FINISH = """
    set -e
    printf '127.0.0.1 localhost\\n::1 localhost ip6-localhost\\n' >"$1/etc/hosts"
    rm -f "$1/etc/hostname" "$1/etc/resolv.conf"
"""
BARE_OPTIONS = (*OPTIONS[:-1], f"--customize-hook={BARE_FINISH}")
# What the host's apt must be told to reach its mirror, apt in the root must be told as well.
HANDED_ON = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until")


class RootError(Exception):
    """A root cannot be made here; the text says what to do."""


@dataclass(frozen=True)
class Recipe:
    codename: str
    kind: Kind

    @property
    def packages(self) -> list[str]:
        return sorted(PACKAGES[self.kind].split())

    @property
    def options(self) -> tuple[str, ...]:
        return BARE_OPTIONS if self.kind == "bare" else OPTIONS

    @property
    def name(self) -> str:
        contents = "\n".join([self.codename, *self.packages, *self.options])
        kind = "" if self.kind == "machine" else f"-{self.kind}"
        return f"{self.codename}{kind}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"

    @property
    def root(self) -> Path:
        return STORE / self.name


def obtain(release: str, kind: Kind = "machine") -> Path:
    """The root of that release, made now if it is not there yet."""
    recipe = Recipe(RELEASES[release], kind)
    if not recipe.root.is_dir():
        STORE.mkdir(parents=True, exist_ok=True)
        with _alone(recipe.name):
            if not recipe.root.is_dir():
                _make(recipe)
    return recipe.root


def obtain_all(wanted: Iterable[tuple[str, Kind]]) -> dict[tuple[str, Kind], Path]:
    """Several roots, those that are missing made side by side."""
    keys = sorted(set(wanted))
    with ThreadPoolExecutor(max_workers=max(1, len(keys))) as pool:
        return dict(zip(keys, pool.map(lambda key: obtain(*key), keys), strict=True))


def prune() -> list[Path]:
    """Removes what no recipe makes any more: not while another run may use it."""
    current = {Recipe(codename, kind).name for codename in RELEASES.values() for kind in PACKAGES}
    stale = [place for place in sorted(STORE.glob("*")) if place.name.split(".")[0] not in current]
    for place in stale:
        _remove(place)
    return stale


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    with (STORE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel drops it if we die
        yield


def _make(recipe: Recipe) -> None:
    if os.geteuid() != 0:
        raise RootError(f"{recipe.root} is missing, and only root can make it")
    if shutil.which("mmdebstrap", path=PATH) is None:
        raise RootError(f"mmdebstrap is not installed: {TOOLS}")
    unfinished = STORE / f"{recipe.name}.unfinished"
    _remove(unfinished)
    command = [
        "mmdebstrap",
        *recipe.options,
        *_apt_options(),
        f"--include={','.join(recipe.packages)}",
    ]
    lines = sources(recipe.codename)
    log = STORE / f"{recipe.name}.log"
    with log.open("w") as output:
        done = subprocess.run(
            [*command, recipe.codename, str(unfinished), *lines],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    if done.returncode != 0:
        _remove(unfinished)
        end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RootError(
            f"no root of {recipe.codename} from {lines}; all is in {log}, its end:\n{end}"
        )
    unfinished.rename(recipe.root)


def _remove(tree: Path) -> None:
    if tree.exists():  # a maker that was killed may have left /dev or /proc mounted: stay out of it
        subprocess.run(["rm", "-rf", "--one-file-system", str(tree)], check=True)


def sources(codename: str) -> list[str]:
    """Lines for apt: the mirrors of this host, if it is a Debian one, else the public ones."""
    mirrors = _host_mirrors()
    main = mirrors.get("debian", "http://deb.debian.org/debian")
    security = mirrors.get("debian-security", "http://deb.debian.org/debian-security")
    return [
        f"deb {main} {codename} main",
        f"deb {main} {codename}-updates main",
        f"deb {security} {codename}-security main",
    ]


def _host_mirrors() -> dict[str, str]:
    """{"debian": URI, "debian-security": URI} of those the host has, a dated snapshot too."""
    shown = _ask(["apt-get", "indextargets", "--format", "$(COMPONENT) $(REPO_URI)"])
    found: dict[str, str] = {}
    for line in shown.splitlines():
        component, _, uri = line.partition(" ")
        path = re.search(r"//[^/]+/(?:archive/)?(debian|debian-security)(/\d{8}T\d{6}Z)?/?$", uri)
        if component == "main" and path:
            found.setdefault(path[1], uri)
    return found


def _apt_options() -> list[str]:
    known = dict(
        line.split(" ", 1) for line in _ask(["apt-config", "dump"]).splitlines() if " " in line
    )
    values = {name: known.get(name, "").strip('";') for name in HANDED_ON}
    return [f'--aptopt={name} "{value}"' for name, value in values.items() if value]


def _ask(command: list[str]) -> str:
    """Its output, or nothing where there is no apt to ask."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the roots of the system tests.")
    parser.add_argument("--kind", choices=list(PACKAGES), action="append")
    parser.add_argument("--prune", action="store_true", help="remove those of older recipes first")
    parser.add_argument("release", nargs="*", default=list(RELEASES), metavar="d12|d13")
    given = parser.parse_args()
    unknown = set(given.release) - set(RELEASES)
    if unknown:
        parser.error(f"no such release: {', '.join(sorted(unknown))}")
    kinds: list[Kind] = given.kind or list(PACKAGES)
    if given.prune:
        for place in prune():
            print(f"removed {place}", file=sys.stderr)
    begun = time.monotonic()
    try:
        made = obtain_all((release, kind) for release in given.release for kind in kinds)
    except RootError as error:
        print(error, file=sys.stderr)
        return 1
    for root in made.values():
        print(root)
    print(f"ready after {time.monotonic() - begun:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
