"""Completion on the command line, asked of a real bash."""

from __future__ import annotations

import argparse
import os
import pty
import select
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from udpproxy.cli.main import _parser
from udpproxy.process.logs import NAMES

SCRIPT = Path(__file__).parents[2] / "debian" / "udp-proxy.bash-completion"
PROCESSES = ["acr", "apr", "parent", "reg"]
LEVELS = sorted([*NAMES, *"3456789"])
CTL_OPTIONS = ["--help", "--json", "--process", "--runtime-dir"]
ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_udp_proxy
printf '%s\\n' "${COMPREPLY[@]}"
"""
LIMIT = 20.0


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The completion with directories of our own; two instances are configured, one runs."""
    configured, running = tmp_path / "etc", tmp_path / "run"
    for name in ("dns", "my-dns"):
        path = configured / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (configured / "README").touch()
    (running / "tftp").mkdir(parents=True)
    text = SCRIPT.read_text()
    for real, ours in (("/etc/udp-proxy", configured), ("/run/udp-proxy", running)):
        assert f" {real}/*" in text
        text = text.replace(f" {real}/*", f" {ours}/*")
    changed = tmp_path / "completion"
    changed.write_text(text)
    return changed


def completed(script: Path, line: str, *, where: Path | None = None) -> list[str]:
    """What could stand in place of the last word, which is empty after a blank."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", script, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=where,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.stderr == ""
    return sorted(line for line in done.stdout.splitlines() if line)


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    return sorted(
        max(action.option_strings, key=len) for action in parser._actions if action.option_strings
    )


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def test_commands(script: Path) -> None:
    parser = _parser()
    assert completed(script, "udp-proxy ") == sorted([*commands_of(parser), *options_of(parser)])
    assert completed(script, "udp-proxy ex") == ["explain"]


@pytest.mark.parametrize("command", commands_of(_parser()))
def test_options_are_those_of_the_program(script: Path, command: str) -> None:
    known = options_of(commands_of(_parser())[command])
    assert completed(script, f"udp-proxy {command} -") == known
    assert completed(script, f"udp-proxy {command} x -") == known


@pytest.mark.parametrize("action", commands_of(commands_of(_parser())["daemon"]))
def test_options_of_daemon_are_those_of_the_program(script: Path, action: str) -> None:
    known = options_of(commands_of(commands_of(_parser())["daemon"])[action])
    assert completed(script, f"udp-proxy daemon {action} -") == known
    assert completed(script, f"udp-proxy daemon {action} x.toml --pid-file x -") == known


def test_verbs_are_those_of_the_program(script: Path) -> None:
    verbs = commands_of(commands_of(_parser())["ctl"])
    assert completed(script, "udp-proxy ctl dns ") == sorted(verbs)
    actions = commands_of(commands_of(_parser())["daemon"])
    assert completed(script, "udp-proxy daemon ") == sorted(actions)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("udp-proxy ctl ", ["dns", "my-dns", "tftp"]),
        ("udp-proxy ctl my", ["my-dns"]),
        ("udp-proxy ctl --process ", PROCESSES),
        ("udp-proxy ctl --process reg --json d", ["dns"]),
        ("udp-proxy ctl dns info --process r", ["reg"]),
        ("udp-proxy ctl dns info --", sorted([*CTL_OPTIONS, "--lines"])),
        ("udp-proxy ctl dns info --lines ", []),
        ("udp-proxy ctl dns re", ["reload", "reopen", "resolve-now"]),
        ("udp-proxy ctl dns loglevel ", sorted(["+1", "-1", *LEVELS, *CTL_OPTIONS])),
        ("udp-proxy ctl dns loglevel -", sorted(["-1", *CTL_OPTIONS])),
        ("udp-proxy ctl dns loglevel -1 -", CTL_OPTIONS),
        ("udp-proxy ctl dns loglevel debug ", []),
        ("udp-proxy ctl dns sessions ", ["client=", "listener=", "rule=", "server="]),
        ("udp-proxy ctl dns sessions c", ["client="]),
        # bash makes words of their own of the equals sign and of what follows it.
        ("udp-proxy ctl dns sessions client =", []),
        ("udp-proxy ctl dns sessions client = ", []),
        ("udp-proxy ctl dns kill ", ["client=", "listener=", "rule=", "server="]),
        ("udp-proxy ctl dns segmentation ", ["auto", "off"]),
        ("udp-proxy ctl dns segmentation off ", []),
        ("udp-proxy ctl dns segmentation -", CTL_OPTIONS),
        ("udp-proxy daemon st", ["start", "status", "stop"]),
        ("udp-proxy daemon signal x.toml --signal US", ["USR1", "USR2"]),
        ("udp-proxy daemon stop x.toml --timeout ", []),
        ("udp-proxy run --level ", LEVELS),
        ("udp-proxy explain x.toml --from ", []),
        ("udp-proxy show x.toml ", []),
        ("udp-proxy nonsense ", []),
    ],
)
def test_words(script: Path, line: str, found: list[str]) -> None:
    assert completed(script, line) == sorted(found)


@pytest.mark.parametrize(
    "command", ["run", "check", "check x.toml", "explain", "show", "daemon stop"]
)
def test_files(script: Path, tmp_path: Path, command: str) -> None:
    here = tmp_path / "here"
    (here / "directory").mkdir(parents=True)
    for name in ("dns.toml", "with blank.toml", "notes.txt"):
        (here / name).touch()
    wanted = ["directory", "dns.toml", "with blank.toml"]
    assert completed(script, f"udp-proxy {command} ", where=here) == wanted


def test_directories(script: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "directory").mkdir(parents=True)
    (here / "dns.toml").touch()
    assert completed(script, "udp-proxy run --runtime-dir ", where=here) == ["directory"]
    assert completed(script, "udp-proxy ctl dns info --runtime-dir d", where=here) == ["directory"]


def test_tab_key(script: Path) -> None:
    """A terminal, readline, and the key itself."""
    terminal, inside = pty.openpty()
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "ready> ", "INPUTRC": "/dev/null"},
    )
    os.close(inside)
    try:
        _seen(terminal, "ready> ")
        os.write(terminal, f"source {shlex.quote(str(script))}; echo loa''ded\n".encode())
        _seen(terminal, "\nloaded\r\nready> ")
        os.write(terminal, b"udp-proxy ctl tf\tlogl\tde\t")
        _seen(terminal, "udp-proxy ctl tftp loglevel debug ")
    finally:
        bash.kill()
        bash.wait()
        os.close(terminal)


def _seen(terminal: int, wanted: str) -> None:
    """Read until it is there."""
    text, deadline = "", time.monotonic() + LIMIT
    while wanted not in text:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {wanted!r} in {text!r}"
        text += os.read(terminal, 4096).decode()
