"""Takes one sample: echo server, peer, readiness, quiet machine, load, figures. All fresh."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import machine, tree
from .build import PROJECT, compiled
from .peers import ECHO_PORT, Peer
from .points import Point
from .sample import Sample

_READY_LIMIT = 10.0
_PROBE_INTERVAL = 0.02
_STOP_LIMIT = 5.0
_LOAD_LIMIT = 30.0


class Failed(Exception):
    """The peer or the load did not do its work; the text says what was seen."""


@dataclass(frozen=True)
class Reading:
    """The CPU clocks at one moment."""

    at: float
    machine: float
    peer: float
    echo: float
    own: float


def _stop(process: subprocess.Popen[bytes]) -> None:
    everyone = tree.processes(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_LIMIT)
    # Descendants too: a parent that left before its children must not disturb the next sample.
    for pid in everyone:
        tree.kill(pid)
    process.wait()


@contextmanager
def _echo_server() -> Iterator[int]:
    with machine.pinned(machine.LOAD_CPUS):
        process = subprocess.Popen([compiled("echo"), str(ECHO_PORT)])
    try:
        yield process.pid
    finally:
        _stop(process)


def _last_words(directory: Path) -> str:
    """The last line of its logs, newest first."""
    logs = sorted(directory.glob("*.log"), key=lambda log: log.stat().st_mtime, reverse=True)
    for log in logs:
        if lines := log.read_text(errors="replace").strip().splitlines():
            # Results are published: no paths of this machine in them.
            return lines[-1].replace(f"{directory}/", "").replace(f"{PROJECT}/", "")[:200]
    return "no output"


def _answers(port: int) -> Iterator[bool]:
    """Whether a datagram comes back through the peer, tried again and again from one client."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_PROBE_INTERVAL)
        client.connect(("127.0.0.1", port))
        while True:
            try:
                client.send(b"ready?")
                yield client.recv(64) == b"ready?"
            except ConnectionRefusedError:
                time.sleep(_PROBE_INTERVAL)
                yield False
            except TimeoutError:
                yield False


def _wait_ready(peer: Peer, process: subprocess.Popen[bytes] | None, place: Path) -> None:
    deadline = time.monotonic() + _READY_LIMIT
    for ready in _answers(peer.port):
        if ready:
            return
        if process and process.poll() is not None:
            raise Failed(f"ended with status {process.returncode}: {_last_words(place)}")
        if time.monotonic() > deadline:
            raise Failed(f"no answer within {_READY_LIMIT:g} s: {_last_words(place)}")


@contextmanager
def running(peer: Peer) -> Iterator[int | None]:
    """A ready peer; its root process, None for one without processes."""
    with tempfile.TemporaryDirectory(prefix="sample-") as name:
        place = Path(name)
        command = peer.command(place)
        process = None
        try:
            if command:
                with machine.pinned(peer.cpus), (place / "output.log").open("wb") as output:
                    process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                    )
            _wait_ready(peer, process, place)
            yield process.pid if process else None
        finally:
            if process:
                _stop(process)
            peer.withdraw()


def check(peer: Peer) -> str:
    """Why it cannot be measured here; empty if it can."""
    if reason := peer.missing():
        return reason
    try:
        with _echo_server(), running(peer):
            return ""
    except (Failed, OSError, subprocess.CalledProcessError) as error:
        return str(error)


def _reading(peer: int | None, echo: int) -> Reading:
    now = time.monotonic()
    return Reading(
        at=now,
        machine=machine.busy_seconds(now),
        peer=tree.cpu_seconds(peer) if peer else 0.0,
        echo=tree.cpu_seconds(echo),
        own=time.process_time(),
    )


def _line(stream: IO[str] | None, expected: str) -> str:
    line = stream.readline() if stream else ""
    if not line.startswith(expected):
        raise Failed("the load generator gave up")
    return line


@contextmanager
def _generator(peer: Peer, point: Point, window: float) -> Iterator[subprocess.Popen[str]]:
    command = [str(compiled("udpload")), *point.arguments(window)]
    command += ["--target", f"127.0.0.1:{peer.port}"]
    with machine.pinned(machine.LOAD_CPUS):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
    watchdog = threading.Timer(_LOAD_LIMIT + window, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def _measured(peer: Peer, point: Point, window: float, blank: Sample) -> Sample:
    with _echo_server() as echo, running(peer) as root:
        idle_kib = tree.memory_kib(root) if root else 0
        machine.wait_until_quiet()
        with _generator(peer, point, window) as generator:
            primed = int(_line(generator.stdout, "primed ").split()[1])
            if point.mode != "churn" and primed < point.clients:
                raise Failed(f"only {primed} of {point.clients} sessions were answered")
            assert generator.stdin is not None
            before = _reading(root, echo)
            generator.stdin.write("go\n")
            load = json.loads(_line(generator.stdout, "{"))
            after = _reading(root, echo)
        busy_kib = tree.memory_kib(root) if root else 0
    elapsed = after.at - before.at
    load_cpu = after.echo - before.echo + load["cpu_seconds"]
    used = after.peer - before.peer + load_cpu + after.own - before.own
    known = {field.name for field in dataclasses.fields(Sample)}
    return dataclasses.replace(
        blank,
        **{name: value for name, value in load.items() if name in known},
        elapsed=elapsed,
        peer_cpu=after.peer - before.peer,
        load_cpu=load_cpu,
        foreign=machine.share(after.machine - before.machine - used, elapsed),
        idle_kib=idle_kib,
        busy_kib=busy_kib,
    )


def take(peer: Peer, point: Point, number: int, window: float) -> Sample:
    blank = Sample(peer=peer.name, kind=peer.kind, point=point.name, round=number)
    try:
        return _measured(peer, point, window, blank)
    except (Failed, OSError, subprocess.CalledProcessError) as error:
        return dataclasses.replace(blank, failure=str(error))
