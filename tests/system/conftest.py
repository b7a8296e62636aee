"""Machines of both releases for the tests, and the journal of those whose test failed.

Nothing here skips: where no machine can be booted, the tests fail.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from system import bare, losses, nspawn, package, roots
from system.machine import Machine
from system.package import Package
from system.service import install

# by fixture
KINDS: dict[str, roots.Kind] = {
    "root": "machine",
    "broker_root": "broker",
    "builder_root": "builder",
    "bare_root": "bare",
}

Roots = dict[tuple[str, roots.Kind], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Beside -k, which is the caller's."""
    parser.addoption(
        "--release",
        choices=list(roots.RELEASES),
        help="the tests of that release; what concerns none is of the first",
    )
    parser.addoption(
        "--once", action="store_true", help="what is marked one_release on that release alone"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those of one release, and those that need not run on each."""
    wanted, once = config.getoption("--release"), config.getoption("--once")
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        release = _release_of(item)
        alone = item.get_closest_marker("one_release") if once else None
        kept = wanted in (None, release) and (alone is None or alone.args == (release,))
        (chosen if kept else others).append(item)
    if others:
        items[:] = chosen
        config.hook.pytest_deselected(items=others)


def _release_of(item: pytest.Item) -> str:
    params = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    return str(params.get("release", next(iter(roots.RELEASES))))


@pytest.fixture(scope="session")
def all_roots(request: pytest.FixtureRequest) -> Roots:
    """The roots that the chosen tests ask for: made at once, so that they are made side by side."""
    nspawn.sweep()
    wanted = {
        (str(item.callspec.params["release"]), kind)
        for item in request.session.items
        if isinstance(item, pytest.Function) and "release" in item.fixturenames
        for fixture, kind in KINDS.items()
        if fixture in item.fixturenames
    }
    return roots.obtain_all(wanted)


@pytest.fixture(scope="session", params=list(roots.RELEASES))
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def root(release: str, all_roots: Roots) -> Path:
    """What machines of this release boot from; never written to."""
    return all_roots[release, "machine"]


@pytest.fixture(scope="session")
def broker_root(release: str, all_roots: Roots) -> Path:
    """The same with dbus-broker."""
    return all_roots[release, "broker"]


@pytest.fixture(scope="session")
def builder_root(release: str, all_roots: Roots) -> Path:
    """The same with all that builds a package of this release."""
    return all_roots[release, "builder"]


@pytest.fixture(scope="session")
def bare_root(release: str, all_roots: Roots) -> Path:
    """One without systemd and a bus."""
    return all_roots[release, "bare"]


@pytest.fixture
def machine(root: Path, release: str) -> Iterator[Machine]:
    """Fresh, for this test only."""
    with Machine(root, release) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def shared_machine(root: Path, release: str) -> Iterator[Machine]:
    """One for all tests that leave it as they found it."""
    with Machine(root, f"{release}-shared") as shared:
        yield shared


@pytest.fixture(scope="session")
def deb(release: str, builder_root: Path) -> Package:
    """The package of the working tree."""
    return package.build(release, builder_root)


@pytest.fixture(scope="session")
def older_deb(release: str, builder_root: Path) -> Package:
    """The same as if it were of an older version."""
    return package.build(release, builder_root, version=package.OLDER)


@pytest.fixture(scope="session")
def landed_deb(release: str, builder_root: Path) -> Package:
    """That of version 0.1.0."""
    return package.build_landed(release, builder_root)


@pytest.fixture
def host(machine: Machine, deb: Package) -> Machine:
    """Fresh, with the package installed."""
    install(machine, deb)
    return machine


@pytest.fixture(scope="module")
def shared_host(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    """The same for all tests of a module; each uses an instance of its own name, or stops it."""
    with Machine(root, f"{release}-host") as shared:
        install(shared, deb)
        yield shared


@pytest.fixture(scope="module")
def container(bare_root: Path, release: str, deb: Package) -> Iterator[bare.Bare]:
    """The package where nothing boots, for all tests of a module."""
    with bare.Bare(bare_root, f"{release}-bare") as shared:
        bare.install(shared, deb)
        yield shared


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What clients lost when things happened to the proxy."""
    if lines := losses.lines():
        terminalreporter.section("datagrams lost")
        for line in lines:
            terminalreporter.write_line(line)
        losses.save(lines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for fixture, value in item.funcargs.items():
            if isinstance(value, Machine) and value.leader:
                report.sections.append((f"journal of {fixture}", value.journal_text()))
    return report
