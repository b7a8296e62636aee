"""Everything at once for a while: workers, churn, limits, evictions, extensions, reloads, kills.
Nothing may be lost to the books: every session that opened is there or has its record. Descriptors
and memory stay as they are. SOAK_SECONDS makes it longer."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import statistics
import time
from pathlib import Path

from built import of_native
from echo import Echo
from host import free_port
from proxy import Proxy, config, until

pytestmark = of_native

SECONDS = float(os.environ.get("SOAK_SECONDS", "2"))
PARTS = max(4, round(SECONDS / 15))
SINGLE = "SOAK_SINGLE" in os.environ  # tools/sanitize: children are born without LD_PRELOAD
SIZES = [0, 1, 40, 40, 40, 1200, 1200, 1200, 9000, 65_507]
PACE = 0.001
EXTENSION = """
from udpproxy.extension import DROP, PASS, Answer, End, Extension, Replace


class Fickle(Extension):
    \"\"\"Does something else each time; the mark at the beginning stays.\"\"\"

    def __init__(self, rule):
        self.turn = 0

    def opened(self, session, *, adopted):
        session.state = session.client

    def from_client(self, session, payload):
        assert session.state == session.client
        self.turn += 1
        return (PASS, DROP, Replace(payload[:100]), PASS, Answer(payload), End("fickle"))[
            self.turn % 6 if session.type != "one-way" else self.turn % 4
        ]

    def ended(self, session, reason):
        session.state = None
"""
TYPES = ["normal", "normal", "any-port", "any-sock", "one-way"]


def rules(echo: Echo, seed: int) -> str:
    """One for each of some addresses, with limits by luck."""
    luck = random.Random(seed)
    parts = []
    for last, kind in enumerate(TYPES):
        limits = f"download-datagrams = {luck.choice([0, 1, 5])}, idle = {luck.choice([1, 60])}"
        extension = luck.choice(["", "", 'extension = "fickle:Fickle"\n'])
        parts.append(
            f'[[session-acl]]\nname = "r{last}"\ntype = "{kind}"\nplug-to = "{echo}"\n'
            f'from = ["127.0.1.{last}"]\nlimits = {{ {limits} }}\n{extension}'
        )
    return "\n".join(parts)


def traffic(luck: random.Random, port: int, seconds: float) -> list[tuple[bytes, bytes]]:
    """Clients that come and go; the marks of answers that came to somebody else, with his."""
    deadline = time.monotonic() + seconds
    astray = []
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(60):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.0.1.{luck.randrange(len(TYPES) + 1)}", 0))
            sock.settimeout(0)
            socks.append(sock)
        while time.monotonic() < deadline:
            sock = luck.choice(socks)
            # The server keeps up: where answers lag thousands of sessions behind, the kernel gives
            # a new session the port of one that has ended and whose answer is still on its way.
            time.sleep(PACE)
            mark = b"%d " % sock.getsockname()[1]
            data = (mark + bytes(luck.choice(SIZES)))[:65_507]
            for _ in range(luck.choice([1, 1, 8])):
                with contextlib.suppress(BlockingIOError):
                    sock.sendto(data, ("127.0.0.1", port))
            with contextlib.suppress(BlockingIOError):
                while True:
                    answer = sock.recv(65_535)
                    if not answer.startswith(mark):
                        astray.append((answer[: answer.index(b" ") + 1], mark))
    return astray


def descriptors(pid: int) -> int:
    """How many it has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def memory(pid: int) -> int:
    """What it has in RAM, in KiB."""
    found = re.search(r"^VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_soak(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    luck = random.Random(seed)
    port = free_port()
    with Echo(answers=lambda data: len(data) % 7 != 3, forgets=True) as echo:

        def text(number: int) -> str:
            whole = config(
                port,
                str(echo),
                top='max-sessions = 40\noverflow = "evict-idlest"\nworkers = 2',
                acl='from = ["192.0.2.1"]',
            )
            return whole + rules(echo, seed + number)

        (tmp_path / "packages").mkdir(mode=0o755)
        (tmp_path / "packages" / "fickle.py").write_text(EXTENSION)
        proxy = Proxy(tmp_path, text(0), single=SINGLE)
        path = f"{tmp_path}/packages:{os.environ.get('PYTHONPATH', '')}"
        proxy.environment["PYTHONPATH"] = path
        with proxy:
            opens, sizes = [], []
            for number in range(1, PARTS + 1):
                assert traffic(luck, port, SECONDS / PARTS) == []
                proxy.write(text(number))
                assert proxy.ctl("reload").returncode == 0
                for row in proxy.sessions()[:3]:
                    proxy.ctl("kill", row["session"])
                until(lambda: proxy.ctl("info").returncode == 0)  # what came before is closed
                opens.append(descriptors(proxy.reg_pid))
                sizes.append(memory(proxy.reg_pid))
            print(f"after each part: descriptors {opens}, KiB {sizes}")
            assert max(opens) <= opens[0]
            # In the first quarter everything that is kept comes to its size.
            quarter = PARTS // 4
            early, late = float(sizes[quarter - 1]), float(max(sizes[quarter:]))
            if SINGLE:
                # A single part says little there: some 10 MiB more or less, by what was freed last.
                early = statistics.median(sizes[quarter : 2 * quarter])
                late = statistics.median(sizes[-quarter:])
            assert late <= 1.1 * early + 4096
            figures = proxy.info("reg")
            assert not proxy.said("UDPP-852-E")
            assert figures["sessions-opened"] == figures["sessions-ended"] + figures["sessions"]
            opened = figures["sessions-opened"]
            # Only when it has ended: to read ten minutes of log takes longer than a session.
            assert proxy.stop() == 0
            records, unrecorded = proxy.records(), proxy.unrecorded()
            assert len(records) + unrecorded == opened
            assert len({record["SESSION"] for record in records}) == len(records)
