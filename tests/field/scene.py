"""A proxy, its clients, servers and name server on hosts of their own, and the basic promise that
is kept to them: sessions that are known keep their service, nothing is lost but what is stated,
log and info tell the truth, and all is well again without help."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from echo import exchange, udp
from field import disk
from field.clock import Clock
from field.network import Host
from field.servers import Place
from flood import Flood, Known
from nameserver import NameServer
from namespaces import Network
from proxy import Endpoint, Proxy, Row, until
from udpproxy.cli import ctl
from udpproxy.process import wire

PROXY = {4: "10.75.0.1", 6: "fd75::1"}
SOURCE = {4: "10.75.0.7", 6: "fd75::7"}
"""The proxy's address on the way to the server."""
GATEWAY = {4: "10.75.0.2", 6: "fd75::2"}
OTHER_GATEWAY = {4: "10.75.0.22", 6: "fd75::22"}
SERVER = {4: "10.77.0.2", 6: "fd77::2"}
CLIENT = {4: "10.75.0.3", 6: "fd75::3"}
LENGTH = {4: 16, 6: 64}
PORT, BY_NAME, BY_DAY = 5000, 5001, 5002
"""Where the known are served, where only clients with a name below lab.test are, and where
everybody is on the day to which the clock steps."""
CLIENTS = 10
PATIENCE = 20.0
"""Seconds within which all is well again, on any machine; the matrix says how many it took."""


def net(address: str) -> str:
    """With the length of its network."""
    return f"{address}/{LENGTH[6 if ':' in address else 4]}"


def furnish(network: Network) -> None:
    """The proxy, the server behind a gateway (both are one host), and the clients."""
    network.add("proxy", *map(net, [*PROXY.values(), *SOURCE.values()]))
    network.add("server", *map(net, [*GATEWAY.values(), *OTHER_GATEWAY.values()]),
                f"{SERVER[4]}/32", f"{SERVER[6]}/128")  # fmt: skip
    network.add("client", *map(net, CLIENT.values()))
    proxy = Host(network, "proxy")
    for ip in (4, 6):
        proxy.add_route(SERVER[ip], GATEWAY[ip], SOURCE[ip])


@dataclass(frozen=True)
class Weather:
    """One row of the matrix.

    `lost`: which share of what the known clients send while it lasts is lost, at least and at most;
    `after`: is something lost also after it, until all is well again? `says`: what the log has of
    it; `counts`: which figures of `info` go up, each with its process."""

    name: str
    happens: Callable[[Scene], None]
    ip: int = 4
    lost: tuple[float, float] = (0.0, 0.0)
    after: bool = False
    says: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    same_sources: bool = True
    top: str = "max-sessions = 1000"
    more: str = ""
    idle: str = "1s"
    """For strangers' sessions."""
    days: int = 0
    """By which the clock steps."""


@dataclass
class Scene:
    """What there is to do something to."""

    weather: Weather
    network: Network
    directory: Path
    flooder: Path
    engine: str
    zone: NameServer = field(init=False)
    server: Place = field(init=False)
    proxy: Proxy = field(init=False)
    clock: Clock | None = None

    @property
    def ip(self) -> int:
        """The version of IP that clients and server have."""
        return self.weather.ip

    @property
    def here(self) -> Host:
        """The proxy's."""
        return Host(self.network, "proxy")

    @property
    def there(self) -> Host:
        """The server's."""
        return Host(self.network, "server")

    @property
    def listen(self) -> Endpoint:
        """Where the known clients are served."""
        return PROXY[self.ip], PORT

    @property
    def resolv(self) -> Path:
        """The proxy's /etc/resolv.conf."""
        return self.directory / "resolv.conf"

    @property
    def disk(self) -> Path:
        """The small disk with the session records, as we find it."""
        return disk.seen_by(self.proxy.pid, self.directory / "disk")

    def pid(self, role: str) -> int:
        """Of a child, or of the parent."""
        pids = {name: pid for pid, name in self.proxy.processes().items()}
        return pids.get(role, 0)

    def info(self, process: str = "parent") -> Row:
        """The figures of one process."""
        return cast(Row, self._told("info", process=process, quiet=True))

    def sessions(self) -> dict[str, str]:
        """Our end of each session towards the server, by its client."""
        rows = cast(list[Row], self._told("sessions", filter={}))
        return {row["client"]: row["source"] for row in rows}

    def _told(self, verb: str, **arguments: wire.Plain) -> wire.Plain:
        """As `udp-proxy ctl` asks, without a process for each question."""
        return ctl.ask(self.proxy.runtime / "control.sock", verb, arguments)

    def ask(self, port: int = PORT, address: str = "") -> None:
        """A new client's question and its answer."""
        until(lambda: self.is_answered((address or PROXY[self.ip], port)), PATIENCE)

    def is_answered(self, to: Endpoint) -> bool:
        """Is a new client served there?"""
        with self.network.on("client", lambda: udp(CLIENT[self.ip])) as sock:
            sock.settimeout(1.0)
            try:
                return exchange(sock, to, b"a new session") == to
            except TimeoutError:
                return False

    def today(self) -> int:
        """The day of the log's last line."""
        return datetime.date.fromisoformat(self.proxy.log[-1][:10]).toordinal()

    def flood(
        self, target: Endpoint, sources: str, *, host: str = "client", seconds: float = 1.0
    ) -> Flood:
        """10,000 a second from a network of strangers; not begun yet."""
        device, hardware = (
            ("eth0", self.network.hardware("proxy")) if ":" in target[0] else ("", "")
        )
        return Flood(self.flooder, target, sources, rate=10_000, seconds=seconds,
                     prefix=self.network.prefix(host), device=device,
                     hardware=hardware)  # fmt: skip

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All that there is; `proxy` and the rest are there from now on."""
        prefix = disk.own_mounts(self.directory / "disk", "16m", self.resolv)
        self.resolv.write_text("nameserver 127.0.0.1\n")
        with contextlib.ExitStack() as stack:
            zone = self.network.on("proxy", lambda: NameServer(ttl=1, port=53))
            self.zone = stack.enter_context(zone)
            self.zone.host("friend.test", *CLIENT.values())
            self.zone.host("c.lab.test", *CLIENT.values())
            for address in CLIENT.values():
                self.zone.reverse(address, "c.lab.test")
            self.server = Place(self.network, "server", SERVER[self.ip])
            stack.enter_context(self.server)
            stack.enter_context(self.network.on("proxy", lambda: udp("127.0.0.1", 6001)))
            where = [*self.network.prefix("proxy"), *prefix]
            self.proxy = Proxy(self.directory, self._text(), prefix=where)
            if self.weather.days:
                self.clock = Clock(self.directory / "clock")
                self.proxy.environment |= self.clock.environment
            stack.enter_context(self.proxy)
            yield

    def _text(self) -> str:
        listening = "".join(
            f'[[listen]]\naddress = "{address}"\nport = "{PORT}-{BY_DAY}"\n'
            for address in (*PROXY.values(), "127.0.0.1")
        )
        day = datetime.date.today() + datetime.timedelta(days=self.weather.days)
        return f"""
{self.weather.top}
engine = "{self.engine}"
[log]
records = "{self.directory}/disk/records"
[resolver]
min-ttl = 1
retry = 1
timeout = 0.5
attempts = 2
{listening}
{self.weather.more}
[[session-acl]]
name = "strangers"
from = ["10.75.128.0/17", "127.64.0.0/10", "fd75::10:0/112"]
plug-to = "127.0.0.1:6001"
limits = {{ idle = "{self.weather.idle}" }}
[[session-acl]]
name = "by-name"
from = ["*.lab.test"]
to = [":{BY_NAME}"]
plug-to = "{self.server}"
limits = {{ idle = "1s" }}
[[session-acl]]
name = "by-day"
to = [":{BY_DAY}"]
time = ["{day:%a}"]
plug-to = "{self.server}"
limits = {{ idle = "1s" }}
[[session-acl]]
name = "friends"
from = ["friend.test"]
to = [":{PORT}"]
plug-to = "{self.server}"
"""


@dataclass(frozen=True)
class Outcome:
    """What a cell of the matrix shows."""

    lost: int
    sent: int
    seconds: float
    said: tuple[str, ...]

    def __str__(self) -> str:
        said = " ".join(self.said) or "-"
        return f"{self.lost}/{self.sent}, {self.seconds:.1f} s, {said}"


def go_through(scene: Scene) -> Outcome:
    """The weather comes and goes over clients that ask all the time; the promise is kept, or the
    test fails."""
    with scene.running():
        proxy = scene.proxy
        until(lambda: scene.info("reg").get("names-known") == 1)
        known = scene.network.on(
            "client", lambda: Known(scene.listen, address=CLIENT[scene.ip], clients=CLIENTS)
        )
        known.begin()
        before, figures, heard = scene.sessions(), _figures(scene), set(proxy.log)
        with known:
            time.sleep(0.2)
            begun = time.monotonic() - 0.1  # what is under way may be lost as well
            scene.weather.happens(scene)
            over = time.monotonic()
            until(lambda: _is_well(scene), PATIENCE)
            well = time.monotonic()
            until(lambda: known.between(well, time.monotonic() - 0.2)[1] >= 20)
        said = {_id(line) for line in proxy.log if line not in heard} - _USUAL
        _expect_service(scene.weather, known, begun, over, well)
        _expect_same(scene, before)
        _expect_words(scene, figures)
        _expect_records(scene, before)
    seconds = max(0.0, known.last_lost - over)
    return Outcome(known.lost, known.sent, seconds, tuple(sorted(said)))


def _expect_service(weather: Weather, known: Known, begun: float, over: float, well: float) -> None:
    """Nothing is lost but what is stated."""
    least, most = weather.lost
    lost, sent = known.between(begun, over)
    late, _ = known.between(over, well)
    assert known.between(0.0, begun)[0] == 0, "nothing is lost before"
    assert least * sent <= lost <= most * sent, f"{lost} of {sent} are lost while it lasts"
    assert weather.after or not late, f"{late} are lost after it"
    assert known.last_lost < well, "nothing is lost once all is well again"


def _expect_words(scene: Scene, figures: dict[str, float]) -> None:
    """Log and info tell the truth."""
    weather = scene.weather
    until(lambda: all(scene.proxy.said(message) for message in weather.says))
    until(lambda: all(_figures(scene)[name] > figures[name] for name in weather.counts))
    until(lambda: scene.info()["sessions"] == len(scene.sessions()))
    assert not scene.proxy.said("UDPS-530-C")


_USUAL = {"", "UDPP-888-I", "UDPS-302-I", "UDPS-200-D"}


def _id(line: str) -> str:
    words = line.split(" ", 3)
    return words[2] if len(words) > 3 and words[2][:3] == "UDP" else ""


def _is_well(scene: Scene) -> bool:
    """Every process is there, and a new client of each kind is served."""
    info = scene.info()
    states = {info[f"{role}-state"] for role in ("reg", "acr", "apr")}
    return info["state"] == "running" and states == {"ready"} and all(
        scene.is_answered((PROXY[scene.ip], port)) for port in (PORT, BY_NAME)
    )  # fmt: skip


def _figures(scene: Scene) -> dict[str, float]:
    found = {}
    for process in ("parent", "reg"):
        for name, value in scene.info(process).items():
            if isinstance(value, int | float):
                found[f"{process} {name}"] = value
    return found


def _expect_same(scene: Scene, before: dict[str, str]) -> None:
    """The known sessions are those that they were."""
    after = scene.sessions()
    assert len(before) == CLIENTS
    for client, source in before.items():
        assert client in after, f"the session of {client} is gone"
        if scene.weather.same_sources:
            assert after[client] == source


def _expect_records(scene: Scene, before: dict[str, str]) -> None:
    """Every session has one record, the known ones with all that they carried."""
    path = scene.directory / "records"
    disk_there = scene.disk
    held = (disk_there / "records").open()
    with held:
        assert scene.proxy.stop() == 0
        path.write_text(held.read())
    records = scene.proxy.records(path)
    numbers = [row["SESSION"] for row in records]
    assert len(numbers) == len(set(numbers)), "each has one record"
    ended = {f"{row['CLIENT_ADDR']} {row['CLIENT_PORT']}": row for row in records}
    for client in before:
        address, _, port = client.rpartition(":")
        row = ended[f"{address.strip('[]')} {port}"]
        assert row["RULE"] == "friends"
        assert row["REASON"] == "terminated"
