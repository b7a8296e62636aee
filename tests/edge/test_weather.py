"""The basic promise through every weather: sessions that are known keep their service, nothing is
lost but what is stated, log and info tell the truth, and all is well again without help.

Prints a row of a table for each (-s).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from built import NAMES
from echo import Echo, exchange, udp
from field.network import Host
from field.processes import few_descriptors, stop_for
from flood import Flood, Known, build
from nameserver import NameServer
from namespaces import Network
from proxy import Proxy, until

PROXY, SERVER, CLIENT = "10.75.0.1", "10.75.0.2", "10.75.0.3"
LISTEN = (PROXY, 5000)
SHORT = 1.0
"""Seconds that a weather lasts."""


@dataclass
class Scene:
    """What there is to do something to."""

    network: Network
    proxy: Proxy
    zone: NameServer
    flood: Path
    echo: Echo

    @property
    def here(self) -> Host:
        return Host(self.network, "proxy")

    @property
    def there(self) -> Host:
        return Host(self.network, "server")

    def pid(self, role: str) -> int:
        """Of a child."""
        return next(pid for pid, name in self.proxy.processes().items() if name == role)


@dataclass(frozen=True)
class Weather:
    """`lost`: which share of what the known clients send may be lost, at most; `says`: what the
    log has of it, if it is to have something."""

    name: str
    happens: Callable[[Scene], None]
    lost: float = 0.0
    says: str = ""


def _nothing(_: Scene) -> None:
    time.sleep(SHORT)


def _renumbered(scene: Scene) -> None:
    scene.here.add_address("10.75.9.1/16")
    scene.here.drop_address("10.75.9.1/16")
    time.sleep(SHORT)


def _link_down(scene: Scene) -> None:
    with scene.here.link_down():
        time.sleep(SHORT)


def _address_gone(scene: Scene) -> None:
    with scene.here.without_address(f"{PROXY}/16"):
        time.sleep(SHORT)


def _narrow(scene: Scene) -> None:
    with scene.here.narrow("2mbit"):
        time.sleep(SHORT)


def _lossy(scene: Scene) -> None:
    with scene.there.lossy(20):
        time.sleep(SHORT)


def _black_hole(scene: Scene) -> None:
    with scene.there.black_hole(scene.echo.endpoint[1]):
        time.sleep(SHORT)


def _silent_names(scene: Scene) -> None:
    scene.zone.silent = True
    time.sleep(SHORT)
    scene.zone.silent = False


def _lying_names(scene: Scene) -> None:
    scene.zone.host("friend.test", "10.75.255.254")
    scene.proxy.ask("resolve-now")
    time.sleep(SHORT)
    scene.zone.host("friend.test", CLIENT)
    scene.proxy.ask("resolve-now")


def _flooded(scene: Scene) -> None:
    words = scene.network.prefix("client")
    with Flood(
        scene.flood, LISTEN, "10.75.128.0/17", rate=20_000, seconds=SHORT, prefix=words
    ) as it:
        it.result(60)


def _killed(role: str) -> Callable[[Scene], None]:
    def kill(scene: Scene) -> None:
        old = scene.pid(role)
        os.kill(old, signal.SIGKILL)
        until(lambda: role in scene.proxy.processes().values() and scene.pid(role) != old)
        until(lambda: scene.proxy.info()[f"{role}-state"] == "ready")

    return kill


def _stopped(role: str) -> Callable[[Scene], None]:
    def stop(scene: Scene) -> None:
        stop_for(scene.proxy.pid if role == "parent" else scene.pid(role), SHORT)

    return stop


def _few_descriptors(scene: Scene) -> None:
    with few_descriptors(scene.proxy.pid, 0):
        os.kill(scene.pid("reg"), signal.SIGKILL)
        time.sleep(SHORT)


def _reloads(scene: Scene) -> None:
    for _ in range(5):
        scene.proxy.ask("reload")


WEATHERS = [
    Weather("calm", _nothing),
    Weather("another address comes and goes", _renumbered),
    Weather("link down for a second", _link_down, lost=0.6),
    Weather("the address listened on is gone for a second", _address_gone, lost=0.6),
    Weather("a link of 2 Mbit/s", _narrow),
    Weather("a link that loses 20 %", _lossy, lost=0.3),
    Weather("a server behind a black hole", _black_hole, lost=0.6),
    Weather("name server silent", _silent_names),
    Weather("name server lies", _lying_names, says="UDPP-830-N"),
    Weather("20,000 forged datagrams a second", _flooded),
    Weather("REG killed", _killed("reg"), lost=0.1, says="UDPS-201-W"),
    Weather("ACR killed", _killed("acr"), says="UDPS-201-W"),
    Weather("APR killed", _killed("apr"), says="UDPS-201-W"),
    Weather("REG stopped for a second", _stopped("reg")),
    Weather("parent stopped for a second", _stopped("parent")),
    Weather("no descriptors when REG is killed", _few_descriptors, lost=0.8, says="UDPS-208-E"),
    Weather("five reloads", _reloads, says="UDPS-303-I"),
]


@pytest.fixture(scope="module")
def flood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("weather"))


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as net:
        net.add("proxy", f"{PROXY}/16")
        net.add("server", f"{SERVER}/16")
        net.add("client", f"{CLIENT}/16")
        yield net


def _text(engine: str, server: str, zone: NameServer) -> str:
    return f"""
max-sessions = 100
engine = "{engine}"
[[listen]]
address = "{PROXY}"
port = {LISTEN[1]}
[[session-acl]]
name = "friends"
from = ["friend.test", "*.lab.test"]
plug-to = "{server}"
[[session-acl]]
name = "all"
plug-to = "{server}"
{zone.section}
"""


@pytest.mark.parametrize("weather", WEATHERS, ids=lambda weather: weather.name)
@pytest.mark.parametrize("engine", NAMES)
def test_through(
    network: Network, tmp_path: Path, flood: Path, engine: str, weather: Weather
) -> None:
    zone = network.on("proxy", lambda: NameServer(ttl=1))
    zone.host("friend.test", CLIENT)
    with zone, network.on("server", lambda: Echo(SERVER)) as echo:
        text = _text(engine, str(echo), zone)
        with Proxy(tmp_path, text, prefix=network.prefix("proxy")) as proxy:
            until(lambda: proxy.info("reg").get("names-known") == 1)
            known = network.on("client", lambda: Known(LISTEN, address=CLIENT, clients=10))
            known.begin()
            before = {row["client"]: row["source"] for row in proxy.sessions()}
            with known:
                time.sleep(0.3)
                weather.happens(Scene(network, proxy, zone, flood, echo))
                until(lambda: proxy.info()["state"] == "running")
                healed = known.sent
                time.sleep(0.5)
            share = known.lost / known.sent
            print(f"| {weather.name} | {engine} | {known.summary()} | {share:.1%} |")
            assert share <= weather.lost
            assert known.lost_since(healed + 40) == 0, "it is well again"
            with network.on("client", lambda: udp(CLIENT)) as new:
                exchange(new, LISTEN, b"a new session")
            after = {row["client"]: row["source"] for row in proxy.sessions()}
            assert {client: after.get(client) for client in before} == before
            if weather.says:
                assert proxy.said(weather.says)
            assert not proxy.said("UDPS-530-C")
            assert proxy.stop() == 0
