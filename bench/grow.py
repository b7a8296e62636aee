#!/usr/bin/env python3
"""What does a large `max-sessions` cost? Start, memory, descriptors and latency with 50 sessions,
and new sessions a second, with 1,000 and 18,000; then the structures alone, for 1,000,000.

`--gently`: not before other programs. PROGRAM: udp-proxy of another checkout, to compare; the
structures are those of this one. The proxy is on CPU 0, everything else on CPU 1."""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

from udpbench import machine, namespace, tree
from udpbench.build import PROJECT, compiled

SIZES = (1_000, 18_000)
MILLION = 1_000_000
FEW = 50
ROUNDS = 5
RATE, SECONDS = 5_000, 2.0
PROXY, ECHO = 9401, 9100
_PAGE = os.sysconf("SC_PAGE_SIZE")

_CONFIG = """\
max-sessions = {most}
engine = "{engine}"
use-all-ports = true
[limits]
idle = "10m"
[[listen]]
address = "127.0.0.1"
port = {port}
[[session-acl]]
name = "all"
plug-to = "127.0.0.1:{echo}"
[log]
target = "file"
file = "{place}/proxy.log"
"""


@contextlib.contextmanager
def process(command: list[str], cpus: set[int]) -> Iterator[int]:
    with machine.pinned(cpus):
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield started.pid
    finally:
        started.terminate()
        started.wait()


class Instance:
    """One proxy that relays, and how long that took from its start, in seconds."""

    def __init__(self, program: str, engine: str, most: int) -> None:
        self._stack = contextlib.ExitStack()
        place = self._stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(place) / "grow.toml"
        file.write_text(
            _CONFIG.format(most=most, engine=engine, port=PROXY, echo=ECHO, place=place)
        )
        begun = time.monotonic()
        command = [program, "run", str(file), "--runtime-dir", f"{place}/run"]
        self.pid = self._stack.enter_context(process(command, machine.PROXY_CPUS))
        _wait_ready()
        self.took = time.monotonic() - begun

    def __enter__(self) -> Instance:
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

    @property
    def reg(self) -> int:
        return next(pid for pid in tree.processes(self.pid) if b"\0reg\0" in _words(pid))


def _words(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _wait_ready() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.02)
        client.connect(("127.0.0.1", PROXY))
        for _ in range(1000):
            with contextlib.suppress(OSError):
                client.send(b"ready?")
                client.recv(64)
                return
            time.sleep(0.002)
    raise machine.Unfit("the proxy does not answer")


def pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def kernel_kib() -> int:
    """Of sockets: sizes of all objects of the caches that they come from."""
    total = 0
    for line in Path("/proc/slabinfo").read_text().splitlines()[2:]:
        name, active, _, size = line.split()[:4]
        if name in ("UDP", "UDPv6", "sock_inode_cache", "filp", "dentry"):
            total += int(active) * int(size) >> 10
    return total


def load(mode: str, *words: object) -> dict[str, float]:
    command = [str(compiled("udpload")), mode, "--target", f"127.0.0.1:{PROXY}", *map(str, words)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(run.stdout)
    return found


def start_and_memory(program: str, engine: str, most: int) -> list[str]:
    """With FEW sessions."""
    took, parent, reg, opened, kernel = [], [], [], [], []
    for _ in range(ROUNDS):
        machine.wait_until_quiet()
        before = kernel_kib()
        with Instance(program, engine, most) as proxy:
            load("open", "--clients", FEW, "--rate", 1000, "--seconds", 0.2)
            took.append(proxy.took)
            parent.append(pss_kib(proxy.pid))
            reg.append(pss_kib(proxy.reg))
            opened.append(len(list(Path(f"/proc/{proxy.reg}/fd").iterdir())))
            kernel.append(kernel_kib() - before)
    numbers = [1000 * min(took), *map(statistics.median, (parent, reg, opened, kernel))]
    return [f"{number:.0f}" for number in numbers]


def new_sessions(program: str, engine: str, most: int, under_way: int) -> list[str]:
    """A second, all of which stay; the best of some rounds."""
    rates, lost = [], 0.0
    for _ in range(3):
        machine.wait_until_quiet()
        with Instance(program, engine, most):
            words = ("--count", most - FEW, "--inflight", under_way, "--timeout", 1)
            found = load("churn", *words)
            rates.append(found["received"] / found["seconds"])
            lost += found["lost"]
    return [f"{max(rates):.0f}", f"{lost:.0f}"]


def latency(program: str, engine: str) -> dict[int, list[dict[str, float]]]:
    """In turns, with FEW sessions."""
    turns: dict[int, list[dict[str, float]]] = {most: [] for most in SIZES}
    for number in range(2 * ROUNDS):
        for most in SIZES if number % 2 else reversed(SIZES):
            with Instance(program, engine, most):
                machine.wait_until_quiet()
                words = ("--clients", FEW, "--rate", RATE, "--seconds", SECONDS)
                turns[most].append(load("open", *words))
    return turns


def measure(program: str, engine: str) -> None:
    for most in SIZES:
        cells = start_and_memory(program, engine, most)
        for under_way in (64, 512):
            cells += new_sessions(program, engine, most, under_way)
        print(f"| {engine} | {most} | {' | '.join(cells)} |", flush=True)


def measure_latency(program: str, engine: str) -> None:
    turns = latency(program, engine)
    for most, found in turns.items():
        cells = [statistics.median(sample[key] for sample in found) for key in ("p50_us", "p99_us")]
        lost = sum(sample["lost"] for sample in found)
        print(f"| {engine} | {most} | {cells[0]:.1f} | {cells[1]:.1f} | {lost:.0f} |", flush=True)
    pairs = list(zip(*turns.values(), strict=True))
    ratio = statistics.median(large["p99_us"] / small["p99_us"] for small, large in pairs)
    print(f"{engine}: p99 with {SIZES[1]} / {SIZES[0]}, paired: {ratio:.2f}", flush=True)


# ---- the structures alone ----


def resident() -> int:
    """Bytes of our memory that exist."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def timed(what: str, work: Callable[[], object], times: int = 1) -> object:
    """A row: what it is, milliseconds or nanoseconds for each, and what memory it took."""
    before, begun = resident(), time.perf_counter()
    made = work()
    took = time.perf_counter() - begun
    each = f"{1e9 * took / times:.0f} ns" if times > 1 else f"{1e3 * took:.2f} ms"
    print(f"| {what} | {each} | {(resident() - before) / (1 << 20):.2f} |", flush=True)
    return made


class _Loop:
    """Nobody reads."""

    def add_reader(self, fd: int, callback: object) -> None: ...
    def remove_reader(self, fd: int) -> None: ...


class _Host:
    def scarce(self) -> None: ...
    def spent(self, sockets: list[tuple[int, int]]) -> None: ...


def structures() -> None:
    from udpproxy.proxy.config.model import Limits
    from udpproxy.proxy.engine.native import NativeEngine
    from udpproxy.proxy.engine.pool import Pool
    from udpproxy.proxy.session.index import Session, SessionIndex
    from udpproxy.proxy.session.limits import budget
    from udpproxy.proxy.session.table import Table, size

    memory = os.memfd_create("grow")
    os.ftruncate(memory, size(MILLION))
    view = memoryview(mmap.mmap(memory, 0))
    os.close(memory)

    def filled(slots: int) -> Table:
        table = Table(view, MILLION, fresh=True)
        table.grow(slots)
        return table

    table = timed("table, 250 slots with sockets", lambda: filled(250))
    assert isinstance(table, Table)
    timed("all its scans", lambda: (table.figures(), table.count_live(), list(table.records())))

    def made_index(slots: int) -> SessionIndex:
        return SessionIndex(
            slots, MILLION, per_client=0, evict=True, last=lambda _: 0, asked=lambda _: 0
        )

    timed("index of the Python engine, 250 slots", lambda: made_index(250))
    index = timed("the same, all slots", lambda: made_index(MILLION))
    assert isinstance(index, SessionIndex)
    owner: dict[Hashable, Session] = {}
    limits = budget(Limits(idle=10.0))

    def session(number: int) -> Session:
        return Session(
            number=number, slot=index.take_slot(), owner=owner, key=number,
            client="192.0.2.1", budget=limits, opened=0,
        )  # fmt: skip

    def open_all() -> list[Session]:
        made = [session(number) for number in range(MILLION)]
        for one in made:
            index.open(one)
        return made

    def close_all() -> None:
        while opened:
            index.close(opened.pop())

    opened = timed("open a session in it, of 1,000,000", open_all, MILLION)
    assert isinstance(opened, list)
    timed("close one", close_all, MILLION)

    def engine(slots: int) -> NativeEngine:
        return NativeEngine(
            _Loop(), filled(slots), Pool([]), _Host(),
            per_client=1, prefix6=64, evict=True, workers=2, threads=False, lasting=None,
        )  # fmt: skip

    for slots in (250, MILLION):
        words = f"native engine of two workers, {slots} slots"
        made = timed(words, lambda slots=slots: engine(slots))  # type: ignore[misc]
        assert isinstance(made, NativeEngine)
        made.close()
    table.grow(MILLION)
    timed("scans of a table whose slots have all been used", table.figures)


def main() -> int:
    words = [word for word in sys.argv[1:] if word != "--gently"]
    if not namespace.inside():
        compiled("udpload")
        compiled("echo")
        return namespace.run_inside(Path(__file__).resolve(), sys.argv[1:])
    machine.prepare(urgent="--gently" not in sys.argv)
    program = words[0] if words else str(PROJECT / ".venv/bin/udp-proxy")
    print(f"{FEW} sessions, {ROUNDS} rounds; kernel: slabs of sockets and their files", end="\n\n")
    columns = ("engine", "max-sessions", "start ms", "parent PSS KiB", "REG PSS KiB")
    columns += (
        "REG descriptors",
        "kernel KiB",
        "new/s, 64 under way",
        "lost",
        "new/s, 512",
        "lost",
    )
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    with process([str(compiled("echo")), str(ECHO)], machine.LOAD_CPUS):
        for engine in ("python", "native"):
            measure(program, engine)
        print(
            "\n| engine | max-sessions | p50 µs | p99 µs | lost |\n| --- | --- | --- | --- | --- |"
        )
        for engine in ("python", "native"):
            measure_latency(program, engine)
    if not words:
        print("\n| for 1,000,000 sessions | time | MiB |\n| --- | --- | --- |")
        structures()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except machine.Unfit as error:
        sys.exit(f"grow: {error}")
