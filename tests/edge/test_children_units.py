"""What a process that says it were a child as a unit can do to the parent: nothing, unless systemd
has it in that very unit, and then little. The test stands in for systemd."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from groups import inside, unit
from host import free_port
from proxy import command, config, until
from udpproxy.cli import ctl
from udpproxy.instance.systemd import PATIENCE
from udpproxy.process import signals

LIAR = """
import socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
sock.settimeout(5)
try:
    sock.send(b'{"":"hello","role":"%s","version":"x"}' % sys.argv[2].encode())
    print(len(sock.recv(100000)))
except ConnectionError:
    print(0)
"""


def test_who_is_no_unit_of_ours(tmp_path: Path) -> None:
    """The same user is not enough, nor is another unit, of ours or of another instance."""
    file = tmp_path / "one.toml"
    environment = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    path = tmp_path / "run" / "children.sock"

    def lent(role: str, *prefix: str) -> int:
        words = [*prefix, sys.executable, "-c", LIAR, str(path), role]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        return int(done.stdout)

    with contextlib.ExitStack() as stack:
        file.write_text(config(free_port(), "127.0.0.1:9"))
        groups = [
            stack.enter_context(unit(f"udp-proxy-{name}.service"))
            for name in ("reg@one", "apr@one", "reg@another")
        ]
        words = command("run", file, "--units")
        parent = stack.enter_context(subprocess.Popen(words, env=environment))
        stack.callback(parent.terminate)
        until(lambda: path.exists() and path.stat().st_mode & 0o777 == 0o660)
        reg, apr, another = map(inside, groups)
        assert lent("reg") == 0
        assert lent("reg", *apr) == 0
        assert lent("reg", *another) == 0
        assert lent("reg", *reg) > 0, "what is refused is not refused for something else"


FLOOD = """
import json, socket, sys, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
sock.send(b'{"":"hello","role":"reg","version":"x"}')
sock.send(b'{"":"tell","what":"ready","args":{"engine":"none"}}')
fat = json.dumps({"": "tell", "what": "nonsense", "args": {"x": [0] * 60000}}).encode()
end = time.monotonic() + 8
while time.monotonic() < end:
    sock.send(fat)
"""


def said_in(log: Path, what: str) -> bool:
    return what in log.read_text()


def test_a_flood_delays_nobody(tmp_path: Path) -> None:
    """Of large messages, as fast as they can be written: commands and signals have their turn."""
    file = tmp_path / "one.toml"
    environment = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    path, log = tmp_path / "run" / "children.sock", tmp_path / "log"
    file.write_text(config(free_port(), "127.0.0.1:9", top="max-sessions = 10\nstop-timeout = 1"))
    with contextlib.ExitStack() as stack:
        reg = inside(stack.enter_context(unit("udp-proxy-reg@one.service")))
        stderr = stack.enter_context(log.open("w"))
        parent = stack.enter_context(
            subprocess.Popen(command("run", file, "--units"), env=environment, stderr=stderr)
        )
        stack.callback(parent.kill)
        until(path.exists)
        flood = stack.enter_context(
            subprocess.Popen([*reg, sys.executable, "-c", FLOOD, path], stderr=subprocess.DEVNULL)
        )
        stack.callback(flood.kill)
        until(lambda: "UDPS-100-I" in log.read_text())
        control = str(tmp_path / "run" / "control.sock")
        for _ in range(10):
            begin = time.monotonic()
            assert ctl.ask(Path(control), "info", {})
            assert time.monotonic() - begin < 1.0
        for number, said in ((signals.LEVEL_UP, "UDPS-300-I"), (signal.SIGTERM, "UDPS-103-I")):
            begin = time.monotonic()
            parent.send_signal(number)
            until(partial(said_in, log, said))
            assert time.monotonic() - begin < 1.0 + (PATIENCE if number == signal.SIGTERM else 0)
        assert flood.poll() is None, "it still writes"
        parent.wait(10)
