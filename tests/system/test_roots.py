"""Roots are made once, whole or not at all, and say what is wrong."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from system import roots


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(roots, "STORE", tmp_path / "roots")
    return tmp_path / "roots"


def test_made_once_by_many_who_want_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    wanted = threading.Barrier(4)

    def make(recipe: roots.Recipe) -> None:
        made.append(recipe.name)
        time.sleep(0.1)  # the work, long enough for the others to want the same
        recipe.root.mkdir()

    def want(_: int) -> Path:
        wanted.wait()
        return roots.obtain("d12")

    monkeypatch.setattr(roots, "_make", make)
    with ThreadPoolExecutor(4) as pool:
        places = set(pool.map(want, range(4)))
    assert len(made) == 1
    assert places == {store / made[0]}


def test_other_packages_are_another_root(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {roots.Recipe(codename, "machine").name for codename in roots.RELEASES.values()}
    monkeypatch.setitem(roots.PACKAGES, "machine", f"{roots.MACHINE} strace")
    after = {roots.Recipe(codename, "machine").name for codename in roots.RELEASES.values()}
    assert len(before | after) == 4


def test_prune_keeps_what_is_current(store: Path) -> None:
    current = [roots.Recipe(codename, "machine").name for codename in roots.RELEASES.values()]
    for name in [*current, "bookworm-0123456789ab", "jessie-builder-0123456789ab"]:
        (store / name / "etc").mkdir(parents=True)
        (store / f"{name}.log").touch()
    roots.prune()
    kept = [name for root in current for name in (root, f"{root}.log")]
    assert sorted(place.name for place in store.iterdir()) == sorted(kept)


def test_missing_tool_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "PATH", "/nonexistent")
    with pytest.raises(roots.RootError, match=r"mmdebstrap is not installed: run .*install-tools"):
        roots.obtain("d12")


def test_dead_mirror_is_named_and_leaves_no_root(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "OPTIONS", [*roots.OPTIONS, "--aptopt=Acquire::Retries 0"])
    monkeypatch.setattr(roots, "sources", lambda _: ["deb http://127.0.0.1:9/debian sid main"])
    with pytest.raises(roots.RootError, match=r"(?s)127\.0\.0\.1:9/debian.*Could not connect"):
        roots.obtain("d12")
    assert not [place for place in store.iterdir() if place.is_dir()]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("http://mirror.example.net/debian/", "debian"),
        ("https://snapshot.example.net/archive/debian/20250520T000000Z/", "debian"),
        ("http://mirror.example.net/debian-security", "debian-security"),
    ],
)
def test_the_hosts_mirror_is_used(uri: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        roots, "_ask", lambda _: f"stable http://other.example/debian/\nmain {uri}\n"
    )
    lines = " ".join(roots.sources("trixie"))
    assert f"deb {uri} trixie" in lines
    assert ("deb.debian.org/debian " in lines) == (name != "debian")


def test_without_a_debian_host_the_public_mirrors_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = (
        "main http://archive.ubuntu.com/ubuntu/\nmain https://packages.example.com/apt/debian/\n"
    )
    monkeypatch.setattr(roots, "_ask", lambda _: foreign)
    assert all("http://deb.debian.org/debian" in line for line in roots.sources("bookworm"))
