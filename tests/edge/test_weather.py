"""The basic promise through every weather (docs/field.md lists them), with each engine. The matrix
is printed at the end; field.scene has what is expected of each cell."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from built import NAMES
from field import disk
from field.clock import DAY
from field.processes import few_descriptors, frozen, stop_for
from field.scene import (
    BY_DAY,
    BY_NAME,
    CLIENT,
    GATEWAY,
    OTHER_GATEWAY,
    PATIENCE,
    PORT,
    PROXY,
    SERVER,
    SOURCE,
    Scene,
    Weather,
    furnish,
    go_through,
    net,
)
from flood import build
from namespaces import Network
from proxy import until

pytestmark = pytest.mark.alone

SHORT = 0.7
"""Seconds that a weather lasts."""
LATE = {4: "10.75.0.33", 6: "fd75::33"}
Happens = Callable[[Scene], None]


def _while(make: Callable[[Scene], AbstractContextManager[object]]) -> Happens:
    """For so long."""

    def happen(scene: Scene) -> None:
        with make(scene):
            time.sleep(SHORT)

    return happen


def _calm(_: Scene) -> None:
    time.sleep(SHORT)


def _another_address(scene: Scene) -> None:
    for number in range(3):
        scene.here.add_address(net(f"10.75.9.{number}"))
        scene.here.add_address(f"fd75::9:{number}/64")
        time.sleep(SHORT / 3)
        scene.here.drop_address(net(f"10.75.9.{number}"))
        scene.here.drop_address(f"fd75::9:{number}/64")


def _late_address(scene: Scene) -> None:
    """One that is listened on and was not there at the start."""
    assert scene.proxy.said("UDPS-126-W")
    late = LATE[scene.ip]
    scene.here.add_address(net(late))
    scene.ask(address=late)
    scene.here.drop_address(net(late))


def _late(ip: int) -> str:
    return f'[[listen]]\naddress = "{LATE[ip]}"\nport = {PORT}'


def _renumbered(scene: Scene) -> None:
    """The address from which the server is written to becomes another one."""
    old, new = net(SOURCE[scene.ip]), "10.75.0.8" if scene.ip == 4 else "fd75::8"
    scene.here.renumber(old, net(new))
    scene.here.add_route(SERVER[scene.ip], GATEWAY[scene.ip], new)
    time.sleep(SHORT)
    scene.here.renumber(net(new), old)
    scene.here.add_route(SERVER[scene.ip], GATEWAY[scene.ip], SOURCE[scene.ip])


def _route_moves(scene: Scene) -> None:
    for gateway in (OTHER_GATEWAY, GATEWAY):
        scene.here.add_route(SERVER[scene.ip], gateway[scene.ip], SOURCE[scene.ip])
        time.sleep(SHORT / 2)


def _resolv_gone(scene: Scene) -> None:
    scene.resolv.write_text("")
    time.sleep(SHORT)
    scene.resolv.write_text("nameserver 127.0.0.1\n")


def _resolv_changed(scene: Scene) -> None:
    """To a name server that nobody is at, and back."""
    scene.resolv.write_text("nameserver 127.0.0.9\n")
    time.sleep(SHORT)
    scene.resolv.write_text("nameserver 127.0.0.1\n")


def _replaced(scene: Scene) -> None:
    for _ in range(3):
        scene.server.replace()
        time.sleep(SHORT / 3)


def _silent_names(scene: Scene) -> None:
    scene.zone.silent = True
    time.sleep(SHORT * 3)
    scene.zone.silent = False


def _slow_names(scene: Scene) -> None:
    scene.zone.delay = 0.4
    time.sleep(SHORT * 2)
    scene.zone.delay = 0.0


def _lying_names(scene: Scene) -> None:
    """The known clients have another address in it: new ones would be refused."""
    scene.zone.host("friend.test", "10.75.255.254", "fd75::ffff")
    scene.proxy.ask("resolve-now")
    until(lambda: scene.proxy.said("UDPP-830-N"))
    scene.zone.host("friend.test", *CLIENT.values())
    scene.proxy.ask("resolve-now")


def _no_such_name(scene: Scene) -> None:
    scene.zone.gone("friend.test")
    scene.proxy.ask("resolve-now")
    time.sleep(SHORT)
    scene.zone.host("friend.test", *CLIENT.values())
    scene.proxy.ask("resolve-now")


def _flapping_names(scene: Scene) -> None:
    for number in range(5):
        scene.zone.host("friend.test", f"10.75.255.{number}")
        scene.proxy.ask("resolve-now")
        scene.zone.host("friend.test", *CLIENT.values())
        scene.proxy.ask("resolve-now")


def _flooded(target: str, sources: str, host: str = "client") -> Happens:
    def flood(scene: Scene) -> None:
        with scene.flood((target, PORT), sources, host=host) as strangers:
            assert strangers.result(60)["sent"] > 1000

    return flood


def _disk_full(scene: Scene) -> None:
    with disk.full(scene.disk):
        scene.ask(BY_NAME)
        time.sleep(1.5)  # its session ends, and has nowhere to be recorded


def _killed(*roles: str) -> Happens:
    def kill(scene: Scene) -> None:
        old = [scene.pid(role) for role in roles]
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(scene.pid(role) not in (0, *old) for role in roles))

    return kill


def _stopped(role: str, seconds: float = SHORT) -> Happens:
    return lambda scene: stop_for(scene.pid(role), seconds)


def _hangs(scene: Scene) -> None:
    """For longer than a child may give no sign of life."""
    old = scene.pid("reg")
    os.kill(old, signal.SIGSTOP)
    until(lambda: scene.pid("reg") not in (0, old), 30)


def _frozen(scene: Scene) -> None:
    with frozen(scene.proxy.processes()):
        time.sleep(SHORT * 2)


def _few_descriptors(scene: Scene) -> None:
    with few_descriptors(scene.proxy.pid, 0):
        os.kill(scene.pid("reg"), signal.SIGKILL)
        until(lambda: scene.proxy.said("UDPS-208-E"))


def _stepped(scene: Scene) -> None:
    """A session that is idle meanwhile ends when it would have, and lasted as long as it did. A
    rule that holds on that other day only begins to."""
    assert scene.clock
    scene.ask(BY_NAME)
    assert not scene.is_answered((PROXY[scene.ip], BY_DAY))
    day = scene.today()
    scene.clock.step(scene.weather.days * DAY)
    scene.proxy.ctl("info")  # is logged
    assert scene.today() - day == scene.weather.days
    scene.ask(BY_DAY)
    ended = until(lambda: scene.proxy.records(scene.disk / "records"))
    assert {row["REASON"] for row in ended} == {"idle"}
    assert all(0.9 < float(row["DURATION"]) < PATIENCE for row in ended)


def _many_clients(scene: Scene) -> None:
    with scene.flood((PROXY[4], PORT), "10.75.128.0/17", seconds=MANY / 10_000) as strangers:
        strangers.result(60)
    count = until(lambda: _stands_still(scene))
    assert count > MANY * 0.9
    _killed("reg")(scene)
    until(lambda: scene.proxy.said(f"goes on with {count} sessions"))


def _stands_still(scene: Scene) -> int:
    """How many sessions there are, as soon as it is the same for a moment."""
    before = int(scene.info()["sessions"])
    time.sleep(0.2)
    return before if before == scene.info()["sessions"] else 0


MANY = 3000
RULES = "".join(
    f'[[session-acl]]\nname = "rule{number}"\nfrom = ["192.0.2.{number % 256}"]\n'
    f'to = [":{7000 + number}"]\nplug-to = "127.0.0.1:6001"\n'
    for number in range(MANY)
)


def _reloads(scene: Scene) -> None:
    for _ in range(5):
        scene.proxy.ask("reload")


ALL = (0.1, 1.0)
"""Also of what is sent while the weather is being made, which takes its time on a busy machine."""
SOME = (0.0, 1.0)
A_FEW = (0.0, 0.3)
UNREACHED = ("reg icmp-errors",)

SAME = {"a black hole before the server"}
"""Where sessions keep their own end towards the server; else they say that they have another."""
CUT_OFF = {"the link is down", "the interface is pulled", "the route to the server is gone"}

WEATHERS = [
    Weather("calm", _calm),
    Weather("calm, IPv6", _calm, ip=6),
    Weather("another address comes and goes", _another_address),
    Weather("an address comes late", _late_address, more=_late(4)),
    Weather("an address comes late, IPv6", _late_address, ip=6, more=_late(6)),
    Weather("the host is renumbered", _renumbered, lost=SOME, same_sources=False,
            says=("UDPS-601-N",)),
    Weather("the host is renumbered, IPv6", _renumbered, ip=6, lost=(0, 0.3), after=True,
            same_sources=False, says=("UDPS-601-N",)),
    *(
        Weather(
            name + tail, happens, ip=ip, lost=ALL, after=True, same_sources=name in SAME,
            says=("UDPS-601-N",) if name in CUT_OFF else (),
        )
        for ip, tail in ((4, ""), (6, ", IPv6"))
        for name, happens in {
            "the address listened on is gone":
                _while(lambda it: it.here.without_address(net(PROXY[it.ip]))),
            "the link is down": _while(lambda it: it.here.link_down()),
            "the interface is pulled": _while(lambda it: it.here.without_interface()),
            "the route to the server is gone":
                _while(lambda it: it.here.without_route(SERVER[it.ip])),
            "a black hole before the server":
                _while(lambda it: it.there.black_hole(it.server.port)),
        }.items()
    ),
    Weather("an address is tentative, IPv6",
            _while(lambda it: it.here.without_address(net(PROXY[6]), tentative=True)),
            ip=6, lost=ALL, after=True),
    Weather("the route to the server moves", _route_moves),
    Weather("the route to the server moves, IPv6", _route_moves, ip=6),
    Weather("resolv.conf is empty", _resolv_gone),
    Weather("resolv.conf names another server", _resolv_changed),
    Weather("a link of 2 Mbit/s", _while(lambda it: it.here.narrow("2mbit"))),
    Weather("a link that loses 20 %", _while(lambda it: it.there.lossy(20)), lost=(0.02, 0.5)),
    Weather("the server is dead", _while(lambda it: it.server.dead()), lost=ALL, counts=UNREACHED),
    Weather("the server hangs", _while(lambda it: it.server.hung())),
    Weather("the server is silent", _while(lambda it: it.server.silent()), lost=ALL),
    Weather("the server answers from elsewhere", _while(lambda it: it.server.elsewhere()),
            lost=ALL, after=True),
    Weather("the server is replaced", _replaced, lost=SOME, after=True),
    Weather("the name server is silent", _silent_names),
    Weather("the name server is slow", _slow_names),
    Weather("the name server lies", _lying_names, says=("UDPP-830-N",)),
    Weather("the name server knows no such name", _no_such_name),
    Weather("the name server flaps", _flapping_names, says=("UDPP-830-N",)),
    Weather("10,000 forged a second", _flooded(PROXY[4], "10.75.128.0/17"), lost=A_FEW,
            after=True, says=("UDPS-640-W",), counts=("reg refused-table-full",)),
    Weather("10,000 forged a second, IPv6", _flooded(PROXY[6], "fd75::10:0/112"), ip=6,
            lost=A_FEW, after=True, says=("UDPS-640-W",), counts=("reg refused-table-full",)),
    Weather("10,000 forged a second, loopback",
            _flooded("127.0.0.1", "127.64.0.0/10", host="proxy"), lost=A_FEW, after=True,
            says=("UDPS-640-W",), counts=("reg refused-table-full",)),
    Weather("the disk is full", _disk_full),
    Weather("no descriptors when REG is killed", _few_descriptors, says=("UDPS-208-E",)),
    Weather("the clock is a day ahead", _stepped, days=1),
    Weather("the clock is a day behind", _stepped, days=-1),
    Weather("REG is killed", _killed("reg"), says=("UDPS-201-W", "UDPS-210-I")),
    Weather("ACR and APR are killed", _killed("acr", "apr"), says=("UDPS-201-W",)),
    Weather("all children are killed", _killed("reg", "acr", "apr"), says=("UDPS-201-W",)),
    Weather("REG is stopped", _stopped("reg")),
    Weather("REG hangs", _hangs, says=("UDPS-202-E",)),
    Weather("ACR is stopped", _stopped("acr")),
    Weather("APR is stopped", _stopped("apr")),
    Weather("the parent is stopped", _stopped("parent")),
    Weather("all are frozen", _frozen),
    Weather("3,000 ports, REG is killed", _killed("reg"),
            more=f'[[listen]]\naddress = "{PROXY[4]}"\nport = "10000-{9999 + MANY}"'),
    Weather("3,000 rules, REG is killed", _killed("reg"), more=RULES),
    Weather("3,000 clients, REG is killed", _many_clients, top="max-sessions = 4000",
            idle="60s"),
    Weather("five reloads", _reloads, says=("UDPS-303-I",)),
]  # fmt: skip


def _cells() -> Iterator[object]:
    """Every weather with every engine; `make test` goes through each with one of them, by turns."""
    for number, weather in enumerate(WEATHERS):
        for other, engine in enumerate(NAMES):
            marks = [pytest.mark.long] if (number + other) % len(NAMES) else []
            yield pytest.param(engine, weather, marks=marks, id=f"{engine}-{weather.name}")


@pytest.fixture(scope="module")
def flooder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("weather"))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        furnish(made)
        yield made


@pytest.mark.parametrize(("engine", "weather"), [*_cells()])
def test_through(
    network: Network,
    tmp_path: Path,
    flooder: Path,
    request: pytest.FixtureRequest,
    engine: str,
    weather: Weather,
) -> None:
    # Not record_property(), which is a mistake where a file of results is written, too.
    found: list[tuple[str, object]] = request.node.user_properties
    found += [("weather", weather.name), ("engine", engine)]
    outcome = go_through(Scene(weather, network, tmp_path, flooder, engine))
    found.append(("outcome", str(outcome)))
