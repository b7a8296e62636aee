#!/usr/bin/env python3
"""Does a relay feel it when all name servers are dead? Latency of known sessions, in turns with
a real name server (dnsmasq) that answers and with the same one stopped, which swallows questions.

Known sessions: 2,000 datagrams a second over 100 of them, by a rule of addresses. Beside them, in
both turns alike, clients that nobody knows yet, whose rule is one of names: each of their sessions
needs a look-up by APR. The proxy is on CPU 0, everything else on CPU 1."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from udpbench import machine, namespace
from udpbench.build import PROJECT, compiled

ROUNDS = 7
SECONDS = 4.0
RATE, SESSIONS = 2_000, 100
STRANGERS = 200
"""New clients a second."""
KNOWN, NAMED, ECHO, DNS = 9301, 9302, 9100, 9353

_CONFIG = f"""\
max-sessions = 8000
engine = "{{engine}}"

[[listen]]
address = "127.0.0.1"
port = {KNOWN}
[[listen]]
address = "127.0.0.1"
port = {NAMED}

[[session-acl]]
name = "known"
to = [":{KNOWN}"]
plug-to = "127.0.0.1:{ECHO}"
[[session-acl]]
name = "named"
from = ["*.lab.test"]
to = [":{NAMED}"]
plug-to = "127.0.0.1:{ECHO}"
limits = {{{{ idle = "2s" }}}}

[resolver]
servers = ["127.0.0.1:{DNS}"]

[log]
target = "file"
file = "{{place}}/proxy.log"
"""


@contextlib.contextmanager
def process(command: list[str], cpus: set[int]) -> Iterator[int]:
    with machine.pinned(cpus):
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield started.pid
    finally:
        started.send_signal(signal.SIGCONT)
        started.terminate()
        started.wait()


def name_server() -> list[str]:
    words = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
    ]
    words += ["--listen-address=127.0.0.1", "--bind-interfaces", f"--port={DNS}", "--user=root"]
    return [*words, "--pid-file=", "--local=/lab.test/", "--bogus-priv"]


def proxy(engine: str, place: Path) -> list[str]:
    file = place / "bench.toml"
    file.write_text(_CONFIG.format(engine=engine, place=place))
    program = str(PROJECT / ".venv/bin/udp-proxy")
    return [program, "run", str(file), "--runtime-dir", str(place / "run")]


class Strangers:
    """Sends for new clients, whose addresses nobody has had before; a context manager."""

    _number = 0

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1 / STRANGERS):
            Strangers._number += 1
            number = Strangers._number
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((f"127.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 0))
                client.sendto(b"may I?", ("127.0.0.1", NAMED))


def wait_ready() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        client.connect(("127.0.0.1", KNOWN))
        for _ in range(100):
            with contextlib.suppress(OSError):
                client.send(b"ready?")
                client.recv(64)
                return
            time.sleep(0.1)
    raise machine.Unfit("the proxy does not answer")


def measured() -> dict[str, float]:
    command = [str(compiled("udpload")), "open", "--clients", str(SESSIONS), "--rate", str(RATE)]
    command += ["--seconds", str(SECONDS), "--target", f"127.0.0.1:{KNOWN}"]
    machine.wait_until_quiet()
    with Strangers():
        run = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(run.stdout)
    return found


def compare(engine: str) -> None:
    turns: dict[str, list[dict[str, float]]] = {"alive": [], "dead": []}
    with (
        tempfile.TemporaryDirectory() as name,
        process([str(compiled("echo")), str(ECHO)], machine.LOAD_CPUS),
        process(name_server(), machine.LOAD_CPUS) as server,
        process(proxy(engine, Path(name)), machine.PROXY_CPUS),
    ):
        wait_ready()
        for number in range(ROUNDS):
            for turn in ("alive", "dead") if number % 2 else ("dead", "alive"):
                os.kill(server, signal.SIGSTOP if turn == "dead" else signal.SIGCONT)
                time.sleep(1)
                turns[turn].append(measured())
    for turn, found in turns.items():
        cells = [turn] + [
            f"{statistics.median(sample[key] for sample in found):.1f}"
            for key in ("p50_us", "p99_us")
        ]
        lost = sum(sample["lost"] for sample in found)
        print(f"| {engine} | {' | '.join(cells)} | {lost:.0f} |", flush=True)
    for key in ("p50_us", "p99_us"):
        pairs = zip(turns["dead"], turns["alive"], strict=True)
        ratio = statistics.median(dead[key] / alive[key] for dead, alive in pairs)
        print(f"{engine}: {key} dead / alive, paired by round: {ratio:.2f}", flush=True)


def main() -> int:
    if not namespace.inside():
        compiled("udpload")
        compiled("echo")
        return namespace.run_inside(Path(__file__).resolve(), sys.argv[1:])
    machine.prepare()
    print(f"{ROUNDS} rounds of {SECONDS:g} s each", end="\n\n")
    print("| engine | name server | p50 µs | p99 µs | lost |")
    print("| --- | --- | ---: | ---: | ---: |")
    for engine in sys.argv[1:] or ["python", "native"]:
        compare(engine)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except machine.Unfit as error:
        sys.exit(f"dead_names: {error}")
