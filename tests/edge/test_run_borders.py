"""What the control socket stands: words that make no sense, too late, too many, and silence.

BORDERS_REQUESTS makes the storm longer.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo import Echo, clients, exchange
from host import free_port
from namespaces import Network
from proxy import Proxy, config, until
from udpproxy.cli import ctl
from udpproxy.process import wire

pytestmark = pytest.mark.alone

REQUESTS = int(os.environ.get("BORDERS_REQUESTS", "20000"))
STORMS = 4
FILTERS: list[wire.Plain] = [None, 1, {}, {"acl": "x"}]
VERBS = ["info", "kill", "sessions", "loglevel", "nonsense", "segmentation", "resolve-now", ""]


def connected(proxy: Proxy, name: str = "control.sock") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(str(proxy.runtime / name))
    except OSError:
        sock.close()
        raise
    sock.settimeout(10)
    return sock


def say(proxy: Proxy, packet: bytes) -> None:
    """And go."""
    with contextlib.suppress(OSError), connected(proxy) as sock:
        sock.send(packet)


@pytest.fixture(params=["native", "python"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    if request.param == "native":
        pytest.importorskip("udpproxy.proxy.engine.native")
    top = f'max-sessions = 100\nengine = "{request.param}"'
    with Proxy(tmp_path, config(free_port(), "127.0.0.1:9", top=top)) as proxy:
        yield proxy


def test_wrong_words_of_somebody_who_goes(proxy: Proxy) -> None:
    for verb in (*VERBS, "x" * 60_000):
        say(proxy, wire.encode(wire.Ask(1, verb, {"process": "reg", "session": "x"})))
        say(proxy, wire.encode(wire.Ask(1, verb)))
    assert proxy.info()["reg-ends"] == 0
    assert not proxy.said("UDPS-530")


def test_the_asker_leaves_while_reg_hangs(proxy: Proxy) -> None:
    os.kill(proxy.reg_pid, signal.SIGSTOP)
    asker = subprocess.Popen(proxy.ctl_words("info", "--process", "reg"), stderr=subprocess.PIPE)
    time.sleep(1.0)
    asker.send_signal(signal.SIGINT)
    asker.communicate()
    until(lambda: proxy.said("UDPS-310-W"))
    os.kill(proxy.reg_pid, signal.SIGCONT)
    assert proxy.info()["state"] == "running"


def refused(proxy: Proxy, verb: str, args: dict[str, wire.Plain]) -> str:
    with connected(proxy) as sock:
        sock.send(wire.encode(wire.Ask(1, verb, args)))
        answer = wire.decode(sock.recv(wire.LARGEST))
    assert isinstance(answer, wire.Answer)
    assert answer.error
    return answer.error


def test_no_number_of_a_session(proxy: Proxy) -> None:
    """To whomever it is said."""
    numbers: list[wire.Plain] = [-1, 0, 1 << 64, 10**30, True, None, "1", 1.5]
    for number in numbers:
        for process in ("parent", "reg"):
            why = refused(proxy, "kill", {"session": number, "process": process})
            assert why == f"{number!r} is no session's number"
    assert proxy.info()["reg-ends"] == 0
    assert not proxy.said("UDPS-530")


def test_what_is_between_the_parent_and_reg_is_no_command(proxy: Proxy) -> None:
    why = refused(proxy, "reconsider", {"process": "reg", "removed": [0, 1]})
    assert why == "this process knows no verb 'reconsider'"
    assert refused(proxy, "segmentation", {"process": "reg", "mode": "x"}).startswith("no segm")


def test_children_and_commands_have_a_socket_each(proxy: Proxy) -> None:
    assert {path.name: path.stat().st_mode & 0o777 for path in proxy.runtime.glob("*.sock")} == {
        "children.sock": 0o600,
        "control.sock": 0o600,
    }
    hello, ask = wire.encode(wire.Hello("reg", "x")), wire.encode(wire.Ask(1, "info"))
    for name, packet in (("children.sock", hello), ("children.sock", ask), ("control.sock", hello)):
        with connected(proxy, name) as sock, contextlib.suppress(ConnectionError):
            sock.send(packet)
            assert sock.recv(wire.LARGEST) == b""
    assert proxy.said("no child of ours")
    assert proxy.info()["reg-ends"] == 0


def storm(proxy: Proxy, count: int, seed: int) -> None:
    """Requests by luck, most of them of somebody who does not wait for the answer."""
    luck = random.Random(seed)
    while count > 0:
        with contextlib.suppress(OSError), connected(proxy) as sock:
            requests = luck.choice([0, 1, 1, 5, 50])
            for number in range(requests):
                verb, process = luck.choice(VERBS), luck.choice(["parent", "reg", "acr", "x"])
                args: dict[str, wire.Plain] = {
                    "process": process,
                    "session": luck.choice([-1, 1, 1 << 70, "x", None]),
                    "level": luck.choice(["6", "nonsense", "x" * 1000]),
                    "lines": luck.choice([-1, 10, "x"]),
                    "filter": luck.choice(FILTERS),
                }
                packet = wire.encode(wire.Ask(number, verb, args))
                sock.send(luck.choice([packet, packet, packet[:-2], luck.randbytes(50)]))
                count -= 1
            if requests and luck.random() < 0.3:
                sock.recv(wire.LARGEST)


def test_a_storm_of_requests(proxy: Proxy) -> None:
    """All the time `info` is answered, nothing of ours ends, and the relay relays."""
    threads = [
        threading.Thread(target=storm, args=(proxy, REQUESTS // STORMS, seed))
        for seed in range(STORMS)
    ]
    for thread in threads:
        thread.start()
    slowest, path = 0.0, proxy.runtime / "control.sock"
    while any(thread.is_alive() for thread in threads):
        begin = time.monotonic()
        ctl.ask(path, "info", {"quiet": True})
        slowest = max(slowest, time.monotonic() - begin)
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    print(f"info took at most {slowest:.2f} s")
    assert slowest < 1.0
    assert proxy.info()["reg-ends"] == 0
    assert not proxy.said("UDPS-530")


def test_ten_thousand_that_say_nothing(proxy: Proxy) -> None:
    """They come and stay, as far as they may: others are served meanwhile."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_000), most))
    path = proxy.runtime / "control.sock"
    try:
        with contextlib.ExitStack() as stack:
            for number in range(10_000):
                stack.enter_context(connected(proxy))
                if number % 1000 == 0:
                    begin = time.monotonic()
                    ctl.ask(path, "info", {"quiet": True})
                    assert time.monotonic() - begin < 1.0
            assert len(list(Path(f"/proc/{proxy.pid}/fd").iterdir())) < 150
            old = proxy.kill(signal.SIGKILL, "reg")
            proxy.next_reg(old)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))
    assert proxy.info()["connections-refused"] > 9_000
    assert proxy.info()["reg-ends"] == 1


def test_almost_as_many_listeners_as_descriptors(tmp_path: Path) -> None:
    """What waits for REG waits with us: it needs no second descriptor."""
    with Network() as network:
        network.add("one")
        prefix = ["prlimit", "--nofile=20000", *network.prefix("one")]
        text = config(15_000, "127.0.0.1:9", top="max-sessions = 1000")
        text = text.replace("port = 15000", 'port = "15000-29900"')
        with Proxy(tmp_path, text, prefix=prefix) as proxy:
            assert proxy.info()["listening"] == 14_901
            old = proxy.kill(signal.SIGKILL, "reg")
            proxy.next_reg(old)
            until(lambda: proxy.info("reg")["state"] == "relaying")
            assert proxy.info()["reg-ends"] == 1


def test_reg_is_replaced_and_sessions_stay(tmp_path: Path) -> None:
    """Over the children's own socket, while the other is crowded."""
    with Echo() as echo, clients(1) as (client,), contextlib.ExitStack() as stack:
        there = ("127.0.0.1", free_port())
        with Proxy(tmp_path, config(there[1], str(echo))) as proxy:
            exchange(client, there, b"before")
            for _ in range(100):
                stack.enter_context(connected(proxy))
            old = proxy.kill(signal.SIGKILL, "reg")
            proxy.next_reg(old)
            exchange(client, there, b"after")
            assert len(echo.sources) == 1
