"""The units have one source: they are what it makes, and differ only where that is meant."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "units"
NAMES = {
    "parent": "udp-proxy@.service",
    "reg": "udp-proxy-reg@.service",
    "acr": "udp-proxy-acr@.service",
    "apr": "udp-proxy-apr@.service",
}
MEANT = {
    "parent": {
        "Wants": "it starts the others",
        "ReloadPropagatedFrom": "it has a file to read again",
        "BusName": "it alone is on the bus",
        "ExecReload": "it has a file to read again",
        "ExecStopPost": "ends children that missed its end",
        "KillMode": "the command of a reload is beside it",
        "FileDescriptorStoreMax": "it owns every descriptor",
        "RuntimeDirectory": "it owns the directory",
        "RuntimeDirectoryMode": "it owns the directory",
        "RuntimeDirectoryPreserve": "it owns the directory",
        "LogsDirectory": "it owns the directory",
        "LogsDirectoryMode": "it owns the directory",
        "WantedBy": "it starts the others",
    },
    "reg acr apr": {
        "StopPropagatedFrom": "they end with the parent",
        "StartLimitIntervalSec": "the parent counts",
        "ExecStartPre": "the directory is the parent's",
        "SuccessExitStatus": "only the parent is to be a failed unit",
        "ProcSubset": "the parent reads the range of ports",
        "ReadWritePaths": "the directory is the parent's",
        "TemporaryFileSystem": "no other instance",
        "BindPaths": "no other instance",
        "InaccessiblePaths": "no bus",
        "PrivateUsers": "the parent sees who calls, and may have low-ports.conf",
    },
    "parent / reg acr apr": {
        "Documentation": "the file is the parent's",
        "After": "the parent ends before the bus",
        "PartOf": "the target's, and the parent's",
        "User": "children cannot signal the parent",
        "SyslogIdentifier": "name",
        "ExecStart": "program",
        "Restart": "the parent may end, children are replaced",
        "RestartSec": "children are replaced at once",
        "RestartPreventExitStatus": "the parent's statuses",
        "WatchdogSec": "the parent is to outlive children",
        "TimeoutStartSec": "the parent waits for children",
        "TimeoutStopSec": "the parent waits for children",
        "Environment": "RuntimeDirectory= tells the parent",
    },
    "parent / reg / acr / apr": {"Description": "name"},
    "acr apr": {"Nice": "sessions go first"},
    "reg": {
        "PrivateNetwork": "it is lent every socket",
        "IPAddressDeny": "it is lent every socket",
    },
    "parent / reg / acr apr": {
        "RestrictAddressFamilies": "it is lent every socket; the parent hears of the network",
    },
}
"""Who has a setting, with a bar between those that have another, and why."""
MEANT_COMMENTS = {
    "CapabilityBoundingSet": "of low-ports.conf, the parent's",
    "PrivateTmp": "why the parent has no ProcSubset= before it",
}


Settings = dict[str, list[tuple[str, str]]]
"""By its name what a setting says, once or several times, and the comments before it."""


def settings(role: str, text: str) -> Settings:
    """Those of a unit; in what tells it apart it is called ROLE."""
    found: Settings = {}
    comments = ""
    for line in text.splitlines():
        if line.startswith("#"):
            comments += line
        elif "=" in line:
            key, _, value = line.partition("=")
            if key in ("ExecStart", "SyslogIdentifier"):
                value = re.sub(rf"(?<=[ /]){role}(?= |$)", "ROLE", value)
            found.setdefault(key, []).append((value, comments))
            comments = ""
    return found


def parted(contents: dict[str, object]) -> str:
    """Who has something, with a bar between those that have something else."""
    groups: dict[str, list[str]] = {}
    for role, content in contents.items():
        groups.setdefault(repr(content), []).append(role)
    return " / ".join(" ".join(roles) for roles in groups.values())


def not_meant(directory: Path) -> list[str]:
    """Each difference that has no reason above, and each reason that has no difference."""
    units = {role: settings(role, (directory / name).read_text()) for role, name in NAMES.items()}
    meant = {key: who for who, reasons in MEANT.items() for key in reasons}
    wrong = []
    for key in sorted(meant.keys() | {key for unit in units.values() for key in unit}):
        having = {role: unit[key] for role, unit in units.items() if key in unit}
        who = parted({role: [value for value, _ in said] for role, said in having.items()})
        if who != meant.get(key, " ".join(NAMES)):
            wrong.append(f"{key}: {who}")
        commented = parted({**having})
        if (commented != who) != (key in MEANT_COMMENTS):
            wrong.append(f"{key}: comments: {commented}")
    return wrong


def tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "units", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(UNITS / "source", tmp_path / "source")
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_files_are_what_the_source_makes() -> None:
    done = tool("--check")
    assert (done.returncode, done.stderr) == (0, ""), "change units/source, then run tools/units"


def test_every_unit_is_from_the_source(copy: Path) -> None:
    assert tool("--in", copy).returncode == 0
    made = {path.name for path in copy.glob("*.service")}
    assert made == {path.name for path in UNITS.glob("*.service")}


def test_a_change_of_one_file_is_found_and_undone(copy: Path) -> None:
    tool("--in", copy)
    changed = copy / "udp-proxy-reg@.service"
    replace(changed, "ProtectHome=yes\n", "")
    done = tool("--check", "--in", copy)
    assert done.returncode == 1
    assert done.stderr == f"tools/units: {changed} is not what units/source makes\n"
    assert "ProtectHome" not in changed.read_text()
    assert tool("--in", copy).returncode == 0
    assert changed.read_bytes() == (UNITS / changed.name).read_bytes()


def test_units_differ_only_where_it_is_meant() -> None:
    assert not_meant(UNITS) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("|UMask=0077", "|UMask=0077\nacr|IPAccounting=yes", ["IPAccounting: acr"]),
        ("|UMask=0077", "|UMask=0077\nreg|UMask=0007", ["UMask: parent acr apr / reg"]),
        ("           |UMask=0077", "parent acr apr|UMask=0077", ["UMask: parent acr apr"]),
        ("|UMask=0077", "|# a\nreg|# b\n|UMask=0077", ["UMask: comments: parent acr apr / reg"]),
        ("child      |ProcSubset=pid", "acr apr|ProcSubset=pid", ["ProcSubset: acr apr"]),
        ("|Restart=always", "|Restart=always\nreg|Restart=no", ["Restart: parent / reg / acr apr"]),
        ("child      |PrivateUsers", "|PrivateUsers", ["PrivateUsers: parent reg acr apr"]),
        ("reg        |IPAddressDeny=any\n", "", ["IPAddressDeny: "]),
        ("{role} %i", "{role} %i {task}", ["ExecStart: parent / reg / acr / apr"]),
    ],
)
def test_a_line_for_some_is_found(copy: Path, old: str, new: str, said: list[str]) -> None:
    replace(copy / "source" / "service.in", old, new)
    done = tool("--in", copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert not_meant(copy) == said


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("service.in", "resolver   |Nice=5", "resolvr    |Nice=5", "no unit is resolvr"),
        ("service.in", "resolver   |Nice=5", "Nice=5", "neither a comment nor a line with a bar"),
        ("service.in", "|Nice=5", "|Nice={nice}", "udp-proxy-acr@: KeyError('nice')"),
        ("services.toml", 'task = "relay"', "", "udp-proxy-reg@: KeyError('task')"),
        ("services.toml", 'task = "relay"', "task", "services.toml: "),
    ],
)
def test_a_mistake_in_the_source_is_said(
    copy: Path, name: str, old: str, new: str, said: str
) -> None:
    replace(copy / "source" / name, old, new)
    done = tool("--in", copy)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(copy.glob("*.service"))


ANOTHER = """
[other-one]
title = "Something else"
dashless = "otherone"
module = "otherone.child"
[other-one.parent]
groups = ["network"]
[other-one.hub]
groups = ["child", "network"]
task = "hub"
"""


def test_another_service_needs_only_its_table(copy: Path) -> None:
    services = copy / "source" / "services.toml"
    services.write_text(services.read_text() + ANOTHER)
    assert tool("--in", copy).returncode == 0
    for path in UNITS.glob("*.service"):
        assert (copy / path.name).read_bytes() == path.read_bytes()
    for role in ("@", "-hub@"):
        text = (copy / f"other-one{role}.service").read_text()
        assert "udp-proxy" not in text
        assert "udpproxy" not in text
        assert "\nUser=other-one" in text
        assert "\nProtectSystem=strict\n" in text
