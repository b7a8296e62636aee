"""Another product on the frame (tests/bells.py) as the units of a real systemd.

The units are made of the same source as ours. What is one instance's own, its children and where
they live, stands in drop-ins: nothing here has the right to start units, as nothing of ours has.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bells import IDENTITY
from system.command import Result
from system.machine import Machine
from system.waiting import until

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PACKAGES = "/usr/lib/python3/dist-packages"
SERVICE = """
[bells]
title = "Bells"
dashless = "bells"
module = "bells"
[bells.parent]
groups = ["network"]
[bells.clock]
groups = ["child"]
task = "clock"
[bells.bell]
groups = ["child"]
task = "bell"
"""
COMMAND = '#!/bin/sh\nexec /usr/bin/python3 -P -m bells "$@"\n'
POLICY = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy user="bells"><allow own_prefix="org.bells1"/></policy>
  <policy context="default"><allow send_destination_prefix="org.bells1"/></policy>
</busconfig>
"""
BELL = """\
[Unit]
PartOf=
PartOf=bells@one.service
StopPropagatedFrom=
StopPropagatedFrom=bells@one.service
[Service]
ExecStartPre=
Environment=RUNTIME_DIRECTORY=/run/bells/one
BindPaths=
BindPaths=-/run/bells/one
ExecStart=
ExecStart=/usr/bin/python3 -P -m bells bell:{name} one
"""
CLOCK = "bells-clock@one.service"
PORTS = (7101, 7102)


def unit(name: str) -> str:
    """A bell's."""
    return IDENTITY.unit("one", f"bell:{name}")


class Tower:
    """The instance `one`."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.port = PORTS[0]
        shutil.copytree(ROOT / "units" / "source", directory / "source")
        with (directory / "source" / "services.toml").open("a") as services:
            services.write(SERVICE)
        words = [sys.executable, str(ROOT / "tools" / "units"), "--in", str(directory)]
        subprocess.run(words, check=True)
        for path in directory.glob("bells*.service"):
            machine.put(path, f"/etc/systemd/system/{path.name}")
        machine.put(TESTS / "bells.py", f"{PACKAGES}/bells.py")
        machine.put(TESTS / "interfaces", f"{PACKAGES}/interfaces")
        machine.write("/usr/bin/bells", COMMAND, 0o755)
        machine.write("/usr/lib/bells/stop-post", "#!/bin/sh\n", 0o755)
        machine.write("/usr/share/dbus-1/system.d/org.bells1.conf", POLICY)
        machine.run("useradd", "--system", "--user-group", "bells")
        machine.run("useradd", "--system", "--gid", "bells", "bells-child")
        machine.run("systemctl", "reload", "dbus.service")

    def hang(self, **tones: int) -> None:
        """The file, and which units there are."""
        self.write(**tones)
        wanted = " ".join([CLOCK, *map(unit, tones)])
        parent = f"[Unit]\nWants={wanted}\n[Service]\nFileDescriptorStoreMax=4\n"
        self.machine.write("/etc/systemd/system/bells@one.service.d/one.conf", parent)
        for name in tones:
            place = f"/etc/systemd/system/{unit(name)}.d/one.conf"
            self.machine.write(place, BELL.format(name=name))
        self.machine.run("systemctl", "daemon-reload")

    def write(self, **tones: int) -> None:
        """The file alone."""
        hung = "".join(
            f'[[bell]]\nname = "{name}"\ntone = {tone}\n' for name, tone in tones.items()
        )
        self.machine.write("/etc/bells/one.toml", f"port = {self.port}\n{hung}")

    def start(self) -> None:
        """What is missing of it."""
        self.machine.run("systemctl", "start", "bells@one")

    def call(self, member: str, *words: str, path: str = IDENTITY.root) -> Result:
        """Over the bus, with the answer as JSON."""
        interface = IDENTITY.interface if path == IDENTITY.root else IDENTITY.process
        words = (IDENTITY.bus_name("one"), path, interface, member, *words)
        return self.machine.run("busctl", "--json=short", "call", *words, check=False)

    def info(self, role: str) -> dict[str, object]:
        """The state of a process; without any while it is away."""
        done = self.call("Info", path=IDENTITY.path(role))
        if done.returncode:
            return {}
        (state,) = json.loads(done.stdout)["data"]
        return {key: value["data"] for key, value in state.items()}

    def ring(self, name: str) -> str:
        """What the bell says."""
        done = self.call("Ring", "s", name)
        return str(json.loads(done.stdout)["data"][0]) if not done.returncode else done.stderr

    def listens(self, port: int) -> bool:
        """Does anybody?"""
        return str(port) in self.machine.run("ss", "-Hltn", f"sport = :{port}").stdout

    def show(self, name: str, what: str) -> str:
        """A property of a unit."""
        words = ["systemctl", "show", "--property", what, "--value", name]
        return self.machine.run(*words).stdout.strip()

    def states(self, *names: str) -> list[str]:
        """Of their units."""
        return [self.show(name, "ActiveState") for name in names]

    def kill(self, name: str) -> None:
        """The unit's main process."""
        pid = self.show(name, "MainPID")
        self.machine.run("kill", "-KILL", pid)
        until(lambda: self.show(name, "MainPID") not in ("0", pid))


def test_another_product_as_units(host: Machine, tmp_path: Path) -> None:
    """A verb, a signal, a reload that fails half-way and one that does not, a role that goes and
    one that comes, a descriptor that outlives the parent."""
    tower = Tower(host, tmp_path)
    tower.hang(a=440, **{"b-1": 494})
    tower.start()
    everything = ["bells@one.service", CLOCK, unit("a"), unit("b-1")]
    until(lambda: tower.states(*everything) == ["active"] * 4)
    until(lambda: tower.ring("a").endswith("440 Hz, 1 times"))
    assert "is not running" in tower.ring("z")
    host.run("systemctl", "kill", "--kill-whom=main", "--signal=RTMIN+1", "bells@one")
    until(lambda: tower.info("bell:b-1").get("rung") == 1)
    assert tower.info("bell:a")["rung"] == 2

    tower.port = PORTS[1]
    tower.write(a=440, c=13)
    assert "it is cracked" in tower.call("Reload").stderr
    assert [tower.listens(port) for port in PORTS] == [True, False]
    assert tower.states(*everything) == ["active"] * 4

    tower.hang(a=440, c=523)
    assert tower.call("Reload").returncode == 0
    assert tower.listens(PORTS[1])
    until(lambda: not tower.listens(PORTS[0]))  # systemd has a copy of it, and lets go later
    until(lambda: tower.states(unit("b-1")) == ["inactive"])
    tower.start()
    until(lambda: tower.ring("c").endswith("523 Hz, 1 times"))

    tower.kill(unit("a"))
    until(lambda: tower.ring("a").endswith("440 Hz, 1 times"))
    tower.kill("bells@one.service")
    until(lambda: tower.info("bell:c").get("rung") == 0)
    said = [entry["MESSAGE"] for entry in host.journal("UDP_PROXY_ID=UDPS-100-I")]
    assert [f"port {PORTS[1]} as before" in text for text in said] == [False, True], said
    assert tower.listens(PORTS[1])

    everything = ["bells@one.service", CLOCK, unit("a"), unit("c")]
    host.run("systemctl", "stop", "bells@one")
    until(lambda: tower.states(*everything) == ["inactive"] * 4)
    assert [tower.show(name, "Result") for name in everything] == ["success"] * 4
    assert not tower.listens(PORTS[1])
