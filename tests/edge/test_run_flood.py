"""Strangers that nobody can stop from sending: the service and its sessions go on.

FLOOD_SECONDS=60 makes each flood that long; each prints a line of a table (-s). `make test-long`
does that, in every variant.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, udp
from flood import Flood, Known, build
from host import free_port
from namespaces import Network
from proxy import Proxy, Row, config, until
from router import redirect, routed

pytestmark = pytest.mark.alone

SECONDS = float(os.environ.get("FLOOD_SECONDS", "5"))
_SLOTS = 4000
_WHERE = (
    "refused-table-full", "refused-per-client", "refused-no-port", "refused-own-socket",
    "refused-ports-kept", "bad-header", "refused-rate",
    "refused-by-acl", "drops-listeners", "drops-sessions", "waiting-dropped",
    "sessions-waiting-dropped",
)  # fmt: skip
"""Where a datagram that did not go on is counted."""
_KNOWN, _LISTEN, _STRANGERS = "10.71.0.9", "10.71.0.1", "10.71.128.0/17"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("flood"))


@pytest.fixture
def network() -> Iterator[Network]:
    """The proxy with its server and its known clients, and the strangers' host."""
    with Network() as net:
        net.add("proxy", f"{_LISTEN}/16", f"{_KNOWN}/16", "fd71::1/64")
        net.add("away", "10.71.0.2/16", "fd71::2/64")
        yield net


def _text(engine: str, more: str, *, top: str = 'overflow = "refuse"', pattern: bool) -> str:
    named = """[[session-acl]]
name = "named"
from = ["*.example.org"]
plug-to = "127.0.0.1:6000"
"""
    return f"""
max-sessions = {_SLOTS}
engine = "{engine}"
{top}
[limits]
idle = "60s"
[[listen]]
address = "{_LISTEN}"
port = 5000
[[listen]]
address = "127.0.0.1"
port = 5000
[[listen]]
address = "fd71::1"
port = 5000
{named if pattern else ""}
[[session-acl]]
name = "known"
from = ["{_KNOWN}"]
plug-to = "127.0.0.1:6000"
[[session-acl]]
name = "strangers"
plug-to = "127.0.0.1:6001"
[resolver]
servers = ["127.0.0.1:9"]
{more}
"""


TRANSPARENT = f"""
max-sessions = {_SLOTS}
engine = "{{engine}}"
overflow = "{{overflow}}"
[limits]
idle = "60s"
[[listen]]
transparent = true
port = "5060-5061"
[[session-acl]]
name = "out"
from = ["10.1.0.0/24"]
transparent = true
"""


@dataclass
class Outcome:
    """Of one flood."""

    sent: int
    known: Known
    before: int
    after: int
    info: Row
    reg: Row
    log: list[str] = field(repr=False)
    bytes: int
    memory: tuple[int, int]
    """Of REG, in KiB: half-way, and at the end."""

    def said(self, what: str) -> list[str]:
        """The log's lines with that."""
        return [line for line in self.log if what in line]

    def print_row(self, what: str) -> None:
        """A line of the table."""
        ends, lines = self.info["reg-ends"], len(self.log)
        print(
            f"| {what} | {self.sent} | {self.known.summary()} | {ends} | {lines} lines, "
            f"{self.bytes} bytes | {self.memory[0]}, {self.memory[1]} KiB | {self.unaccounted()} |"
        )

    def unaccounted(self) -> int:
        """Of the strangers' datagrams and of the known clients' that were lost: those that no
        counter tells of."""
        counted = sum(int(self.reg.get(name, 0)) for name in _WHERE)
        opened = int(self.reg["sessions-opened"]) - self.known.clients
        return self.sent + self.known.lost - opened - counted


def settled(proxy: Proxy) -> None:
    """The last strangers have been dealt with, and REG's figures, which may be a second old, say
    so: they stand still. The known clients go on, and are never among these."""

    def read() -> dict[str, object]:
        reg = proxy.info("reg")
        return {name: reg.get(name) for name in (*_WHERE, "sessions-opened", "sessions-waiting")}

    def stands_still() -> bool:
        before = read()
        time.sleep(1.1)
        return read() == before and before["sessions-waiting"] == 0

    until(stands_still)


@contextlib.contextmanager
def _served(network: Network) -> Iterator[Echo]:
    """The known clients' server; the strangers' takes what comes and says nothing."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(network.on("proxy", lambda: udp("127.0.0.1", 6001)))
        made = network.on("proxy", lambda: Echo("127.0.0.1", 6000, forgets=True))
        yield stack.enter_context(made)


def _memory(pid: int) -> int:
    """KiB that a process has of it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def _flooded(
    network: Network,
    program: Path,
    directory: Path,
    text: str,
    *,
    rate: int = 60_000,
    seconds: float = SECONDS,
    way: str = "veth",
    port: int = 5000,
) -> Outcome:
    device = hardware = ""
    target, sources, host = (_LISTEN, port), _STRANGERS, "away"
    if way == "loopback":
        target, sources, host = ("127.0.0.1", 5000), "127.64.0.0/10", "proxy"
    elif way == "veth6":
        target, sources = ("fd71::1", 5000), "fd71::10:0/112"
        device, hardware = "eth0", network.hardware("proxy")
    flood = Flood(
        program, target, sources, rate=rate, seconds=seconds, prefix=network.prefix(host),
        device=device, hardware=hardware,
    )  # fmt: skip
    with _served(network), Proxy(directory, text, prefix=network.prefix("proxy")) as proxy:
        known = network.on("proxy", lambda: Known((_LISTEN, 5000), address=_KNOWN))
        return _under(proxy, known, flood, seconds)


def _under(proxy: Proxy, known: Known, flood: Flood, seconds: float) -> Outcome:
    """What became of all."""
    known.begin()
    before = proxy.reg_pid
    with known:
        with flood:
            time.sleep(seconds / 2)
            halfway = _memory(before)
            sent = flood.result(seconds + 60)["sent"]
            memory = halfway, _memory(before)
        time.sleep(0.5)
        until(lambda: proxy.info("reg").get("sessions-waiting") == 0)
        settled(proxy)
    after = proxy.reg_pid
    info = until(lambda: proxy.info())
    reg = proxy.info("reg")
    size = proxy.stderr.stat().st_size
    return Outcome(sent, known, before, after, info, reg, proxy.log, size, memory)


@pytest.mark.parametrize("engine", NAMES)
def test_names_that_nobody_answers_do_not_end_the_relay(
    engine: str, network: Network, program: Path, tmp_path: Path
) -> None:
    """Each stranger needs a name, and no name server answers."""
    rate = 60_000 if engine == "native" else 20_000
    done = _flooded(network, program, tmp_path, _text(engine, "", pattern=True), rate=rate)
    done.print_row(engine)
    assert done.after == done.before, done.log[-10:]
    assert not done.said("UDPS-202-E")
    assert done.known.lost <= done.known.sent // 10
    assert abs(done.unaccounted()) <= done.known.lost


@pytest.mark.parametrize("engine", NAMES)
def test_newcomers_that_evict_cost_neither_the_log_nor_the_known(
    engine: str, network: Network, program: Path, tmp_path: Path
) -> None:
    rate = 60_000 if engine == "native" else 20_000
    text = _text(engine, "", top='overflow = "evict-idlest"', pattern=False)
    done = _flooded(network, program, tmp_path, text, rate=rate)
    done.print_row(f"{engine}, evict, {rate}/s")
    assert done.after == done.before
    assert 1000 < done.reg["evicted"] <= 1000 * (SECONDS + 3)
    assert done.known.lost <= done.known.sent // 50
    assert done.bytes < 100_000 * max(1.0, SECONDS / 60)
    told = sum(int(line.split("UDPP-889-W ")[1].split()[0]) for line in done.said("UDPP-889-W"))
    records = [line for line in done.said("UDPP-888-I") if "REASON=evicted" in line]
    assert told + len(records) == done.reg["evicted"]
    assert done.unaccounted() == 0


@pytest.mark.parametrize("engine", NAMES)
def test_a_flood_opens_as_many_sessions_as_it_may(
    engine: str, network: Network, program: Path, tmp_path: Path
) -> None:
    """Those of real clients and of the strangers together, but the known have theirs."""
    rate = 60_000 if engine == "native" else 20_000
    text = _text(engine, "", top='new-sessions = "200/s"', pattern=False)
    text = text.replace('idle = "60s"', 'idle = "2s"')  # so that all sessions are never in use
    done = _flooded(network, program, tmp_path, text, rate=rate)
    done.print_row(f"{engine}, new-sessions, {rate}/s")
    assert done.after == done.before
    assert done.known.lost <= done.known.sent // 50
    assert 200 <= done.reg["sessions-opened"] <= 200 * (SECONDS + 4)
    assert done.reg["refused-table-full"] == 0
    assert done.reg["refused-rate"] > 0.5 * rate * SECONDS - done.reg["drops-listeners"]
    assert len(done.log) <= done.reg["sessions-ended"] + 50 + 4 * SECONDS
    assert done.unaccounted() == 0


@pytest.mark.parametrize("way", ["veth", "veth6"])
@pytest.mark.parametrize("engine", NAMES)
def test_a_flood_of_clients_with_rates(
    engine: str, way: str, network: Network, program: Path, tmp_path: Path
) -> None:
    """Each forged address of IPv4 is a client, all of IPv6 are of one /64 and so one. Sessions end
    at once, and what their clients have used of their rates is remembered."""
    rate = 60_000 if engine == "native" else 2000
    limits = 'limits = { new-sessions-per-client = "1/h", upload-datagrams = 1 }'
    text = _text(engine, "", pattern=False).replace(
        'name = "strangers"', f'name = "strangers"\ntype = "one-way"\n{limits}'
    )
    done = _flooded(network, program, tmp_path, text, rate=rate, way=way)
    done.print_row(f"{engine}, new-sessions-per-client, {way}, {rate}/s")
    assert done.after == done.before
    assert done.known.lost <= done.known.sent // 50
    strangers = done.reg["sessions-opened"] - done.known.clients
    assert strangers == 1 if way == "veth6" else 1000 <= strangers <= 1 << 15
    if way == "veth6" or done.sent > 2 << 15:  # else no address comes twice
        assert done.reg["refused-rate"] > 0
    assert done.memory[1] < done.memory[0] * 1.5 + 32_768
    assert done.bytes < 100_000 * max(1.0, SECONDS / 60)
    assert done.unaccounted() == 0


@pytest.mark.parametrize("balancer", [_KNOWN, _STRANGERS])
@pytest.mark.parametrize("engine", NAMES)
def test_a_flood_without_headers_opens_nothing(
    engine: str, balancer: str, network: Network, program: Path, tmp_path: Path
) -> None:
    """Where a load balancer is to say who its clients are: of strangers, and of the balancer."""
    rate = 60_000 if engine == "native" else 20_000
    more = f"""[[listen]]
address = "{_LISTEN}"
port = 5001
proxy-protocol = "v2"
proxy-protocol-from = ["{balancer}"]
"""
    text = _text(engine, more, pattern=False)
    done = _flooded(network, program, tmp_path, text, rate=rate, port=5001)
    done.print_row(f"{engine}, no headers, {rate}/s")
    assert done.after == done.before
    assert done.known.lost <= done.known.sent // 50
    assert done.reg["sessions-opened"] == done.known.clients
    assert done.reg["bad-header"] > 0
    assert done.bytes < 100_000 * max(1.0, SECONDS / 60)
    assert done.unaccounted() == 0


@pytest.mark.parametrize("overflow", ["refuse", "evict-idlest"])
@pytest.mark.parametrize("engine", NAMES)
def test_a_flood_of_what_the_firewall_redirects(
    engine: str, overflow: str, program: Path, tmp_path: Path
) -> None:
    """To a server that is another host."""
    rate = 60_000 if engine == "native" else 20_000
    text = TRANSPARENT.format(engine=engine, overflow=overflow)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(routed())
        stack.enter_context(network.on("server", lambda: udp("10.2.0.2", 5061)))
        stack.enter_context(network.on("server", lambda: Echo("10.2.0.2", 5060, forgets=True)))
        proxy = Proxy(tmp_path, text, prefix=network.prefix("router"))
        redirect(network, "router", proxy.file)
        stack.enter_context(proxy)
        known = network.on("client", lambda: Known(("10.2.0.2", 5060), address="10.1.0.5"))
        flood = Flood(
            program, ("10.2.0.2", 5061), "10.1.0.128/25", rate=rate, seconds=SECONDS,
            prefix=network.prefix("client"),
        )  # fmt: skip
        done = _under(proxy, known, flood, SECONDS)
    done.print_row(f"{engine}, redirected, {overflow}, {rate}/s")
    assert done.after == done.before
    assert done.known.lost <= done.known.sent // 50
    assert done.reg["sessions-opened"] >= _SLOTS
    assert done.bytes < 100_000 * max(1.0, SECONDS / 60)
    assert done.unaccounted() == 0


@pytest.mark.parametrize("engine", NAMES)
def test_two_proxies_that_send_to_each_other_are_bounded(engine: str, tmp_path: Path) -> None:
    top = f'max-sessions = 50\noverflow = "evict-idlest"\nengine = "{engine}"'
    one, other = free_port(), free_port()
    there = Proxy(tmp_path / "there", config(other, f"127.0.0.1:{one}", top=top), name="there")
    here = Proxy(tmp_path / "here", config(one, f"127.0.0.1:{other}", top=top), name="here")
    with there, here:
        with udp() as sock:
            for _ in range(5):  # a round ends where its one datagram is lost
                sock.sendto(b"round", ("127.0.0.1", one))
                time.sleep(0.1)
        time.sleep(3.5)
        opened = here.info("reg")["sessions-opened"]
        assert opened > 50
        assert opened < 50 + 1000 * 6
        assert sum(proxy.stderr.stat().st_size for proxy in (here, there)) < 200_000


@pytest.mark.parametrize("overflow", ["refuse", "evict-idlest"])
@pytest.mark.parametrize("engine", NAMES)
def test_level_debug_does_not_log_a_flood_line_by_line(
    engine: str, overflow: str, network: Network, program: Path, tmp_path: Path
) -> None:
    rate = 60_000 if engine == "native" else 20_000
    top = f'overflow = "{overflow}"'
    text = _text(engine, '[log]\nlevel = "debug"', top=top, pattern=False)
    done = _flooded(network, program, tmp_path, text, rate=rate)
    done.print_row(f"{engine}, debug, {overflow}, {rate}/s")
    assert done.after == done.before
    assert done.known.lost <= done.known.sent // 50
    chatter = [line for line in done.log if "UDPP-821-D" in line or "UDPP-820-D" in line]
    assert 150 <= len(chatter) <= 700 + 4 * SECONDS
    assert done.bytes < 100_000 * max(1.0, SECONDS / 60)
    assert done.unaccounted() == 0


@pytest.mark.long
@pytest.mark.parametrize("way", ["loopback", "veth", "veth6"])
@pytest.mark.parametrize("level", [6, 7])
@pytest.mark.parametrize("pattern", [False, True], ids=["addresses", "names"])
@pytest.mark.parametrize("overflow", ["refuse", "evict-idlest"])
@pytest.mark.parametrize("engine", NAMES)
def test_every_variant(
    engine: str,
    overflow: str,
    *,
    pattern: bool,
    level: int,
    way: str,
    network: Network,
    program: Path,
    tmp_path: Path,
) -> None:
    rate = 60_000 if engine == "native" else 20_000
    text = _text(engine, f"[log]\nlevel = {level}", top=f'overflow = "{overflow}"', pattern=pattern)
    done = _flooded(network, program, tmp_path, text, rate=rate, way=way)
    done.print_row(f"{engine}, {overflow}, {'names' if pattern else '-'}, {level}, {way}, {rate}/s")
    assert done.after == done.before
    assert done.known.lost == 0
    assert done.bytes < 100_000
    assert done.memory[1] < done.memory[0] * 1.1 + 4096
    assert done.unaccounted() == 0


@pytest.mark.parametrize("way", ["loopback", "veth", "veth6"])
def test_the_flood_arrives_by_each_way(
    way: str, network: Network, program: Path, tmp_path: Path
) -> None:
    """The sender itself: else a flood that nobody notices would pass for one that does no harm."""
    text = _text(NAMES[-1], "", pattern=False)
    done = _flooded(network, program, tmp_path, text, rate=5000, seconds=2.0, way=way)
    assert done.reg["sessions-opened"] == _SLOTS
    assert done.unaccounted() == 0
