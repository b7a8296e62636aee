"""`ctl NAME VERB`: a running instance asked over its control socket, or over D-Bus by
those who may not use that.

Exit status: 0 done, 1 refused or failed (the reason on stderr), 2 unknown words, 3 not running.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from udpproxy import __version__
from udpproxy.cli.program import Program
from udpproxy.errors import LinkError, UnitError
from udpproxy.instance.runtime_directory import running_directory
from udpproxy.process import link, paths, wire
from udpproxy.process.logs import clean
from udpproxy.process.verbs import Arguments, Verb

DONE, FAILED, NOT_RUNNING = 0, 1, 3
PATIENCE = 15.0
"""Seconds to wait for an answer; the instance itself gives up after 10."""
START_LIMIT = 10.0
"""Seconds to wait for the socket of an instance that has its lock, and so is starting."""
MOMENT = 0.5
"""Seconds to wait for the lock itself: somebody may have said `run` just before."""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], program: Program
) -> None:
    """The words after `ctl`."""
    parser = commands.add_parser("ctl", help="control a running instance")
    parser.add_argument(
        "name",
        metavar="NAME",
        type=lambda word: _instance(word, program.identity.name),
        help="the instance: its file's name without .toml",
    )
    parser.add_argument("--process", metavar="P", help=f"only this one: {program.processes}")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")
    parser.add_argument("--runtime-dir", metavar="D", type=Path, help="as given to run")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in program.verbs.values():
        if verb.on_command_line:
            words = _verb(verbs, verb.name, verb.help)
            for argument in verb.arguments:
                argument.add_to(words)


def _instance(word: str, unit: str) -> str:
    """Its name; also where somebody gives its unit, or its file."""
    name = word.rpartition("/")[2].removesuffix(".service").removesuffix(".toml")
    return name.removeprefix(f"{unit}@")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    """A verb that takes the common options after it, too."""
    parser = verbs.add_parser(name, help=text)
    for option in ("--process", "--runtime-dir"):
        kind = Path if option == "--runtime-dir" else str
        parser.add_argument(option, type=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    return parser


def run(words: argparse.Namespace, program: Program) -> int:
    """The exit status."""
    us, verb = program.identity.name, program.verbs[words.verb]
    directory = running_directory(program.identity, words.name, words.runtime_dir)
    try:
        value = _answer(program, words.name, directory / "control.sock", verb, _given(words, verb))
    except (ConnectionRefusedError, FileNotFoundError):
        sys.stderr.write(f"{us}: {words.name} is not running ({directory})\n")
        return NOT_RUNNING
    except (LinkError, UnitError, OSError) as problem:
        sys.stderr.write(f"{us}: {words.name}: {clean(str(problem))}\n")
        return FAILED
    _print(value, program.columns.get(verb.name), as_json=words.json)
    return DONE


def _answer(
    program: Program, name: str, path: Path, verb: Verb, arguments: Arguments
) -> wire.Plain:
    try:
        return ask(path, verb.name, arguments)
    except PermissionError:
        if os.geteuid() == 0:
            raise  # nothing is closed to root: there is another socket in the place of that one
        from udpproxy.bus import client  # which takes as long to load as all the rest

    rights = (
        f"only root and the user as whom {program.identity.spoken} runs may use its control socket"
    )
    try:
        return program.over_bus(name, verb, arguments)
    except client.Unreachable as problem:
        raise LinkError(f"{rights}, and over D-Bus: {problem}; run this as root") from None
    except client.Denied as problem:
        raise LinkError(f"{problem}; run this as root, or join that group") from None


def _given(words: argparse.Namespace, verb: Verb) -> Arguments:
    arguments = Arguments({"process": words.process} if words.process else {})
    for argument in verb.arguments:
        arguments |= argument.given(words)
    return arguments


def ask(path: Path, verb: str, arguments: Arguments, wanted: int = 0) -> wire.Plain:
    """The answer of the proxy behind that socket; LinkError where it refuses or is silent, or is
    another process than the one `wanted`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(PATIENCE)
        _connect(sock, path)
        pid = link.peer_of(sock)[0]
        if wanted and pid != wanted:
            raise LinkError(f"{path} is of process {pid}, not of {wanted}")
        sock.send(wire.encode(wire.Hello("ctl", __version__)))
        sock.send(wire.encode(wire.Ask(1, verb, arguments)))
        parts: list[wire.Plain] = []
        for answer in _answers(sock, verb):
            if answer.error is not None:
                raise LinkError(answer.error)
            if not answer.more:
                return parts + answer.value if isinstance(answer.value, list) else answer.value
            if not isinstance(answer.value, list):
                raise LinkError("a part of an answer that has no parts")
            parts += answer.value
    return None


def _connect(sock: socket.socket, path: Path) -> None:
    """As soon as somebody listens there, if somebody is about to."""
    begin, absent = time.monotonic(), 0
    while True:
        waited = time.monotonic() - begin
        try:
            _connect_to(sock, path)
        except BlockingIOError:  # others are in the queue
            if waited > START_LIMIT:
                raise LinkError("no answer") from None
        except (ConnectionRefusedError, FileNotFoundError):
            # The list of locks can lack one while others come and go.
            absent = absent + 1 if waited > MOMENT and not _is_held(path.parent) else 0
            if waited > START_LIMIT or absent > 2:
                raise
        else:
            return
        time.sleep(0.02)


def _connect_to(sock: socket.socket, path: Path) -> None:
    """Where an account can put a link to the socket of another instance, none is followed: root's
    command is for this one."""
    there = paths.open_file(path, os.O_PATH, 0)
    try:
        if stat.S_ISLNK(os.fstat(there).st_mode):
            raise UnitError("control socket", f"{path} is a symbolic link")
        sock.connect(f"/proc/self/fd/{there}")
    finally:
        os.close(there)


def _is_held(directory: Path) -> bool:
    """Has a proxy locked its directory? Not by trying: it might be starting at this very moment."""
    try:
        inode = directory.stat().st_ino
        held = Path("/proc/locks").read_text("ascii").splitlines()
    except OSError:
        return False
    # 1: FLOCK  ADVISORY  WRITE 4711 00:1f:123456 0 EOF
    words = [line.split() for line in held]
    return any(
        len(each) == 8 and each[1] == "FLOCK" and each[5].endswith(f":{inode}") for each in words
    )


def _answers(sock: socket.socket, verb: str) -> Iterator[wire.Answer]:
    while True:
        try:
            packet = sock.recv(wire.LARGEST)
        except TimeoutError:
            raise LinkError("no answer") from None
        except ConnectionResetError:
            packet = b""
        if not packet:
            if verb == "terminate":
                return
            raise LinkError("the proxy ended before it answered")
        message = wire.decode(packet)
        if not isinstance(message, wire.Answer):
            raise LinkError("an answer was expected")
        yield message


def _print(value: wire.Plain, columns: tuple[str, ...] | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(value, indent=2))
    elif columns and isinstance(value, list):
        for line in _table(value, columns):
            print(line)
    elif isinstance(value, dict):
        lines = value.pop("last-lines", None)
        width = max(map(len, value), default=0)
        # Some of it is a child's own word, and the terminal is root's.
        for key, item in value.items():
            print(clean(f"{key:<{width}}  {item}"))
        if isinstance(lines, list) and lines:
            print("last-lines", *(clean(str(line)) for line in lines), sep="\n  ")
    elif value is not None:
        print(clean(str(value)))


def _table(rows: list[wire.Plain], columns: tuple[str, ...]) -> Iterator[str]:
    cells = [list(columns)]
    cells += [[str(row[key]) for key in columns] for row in rows if isinstance(row, dict)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(
            f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)
        ).rstrip()
