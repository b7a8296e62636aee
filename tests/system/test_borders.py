"""What the units see of the kernel, of each other and of the bus, and what they are kept from."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import liar
from system.machine import Machine
from system.package import Package
from system.service import CHILDREN, ROLES, Instance, install, load, serve_echo
from system.waiting import until

RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


@pytest.fixture(scope="module")
def bordered(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    with Machine(root, f"{release}-borders") as machine:
        install(machine, deb)
        serve_echo(machine)
        yield machine


@pytest.fixture(scope="module", params=["machine", "broker"])
def on_a_bus(
    request: pytest.FixtureRequest, root: Path, broker_root: Path, release: str, deb: Package
) -> Iterator[Instance]:
    """Running, beside each implementation of the bus."""
    chosen = broker_root if request.param == "broker" else root
    with Machine(chosen, f"{release}-{request.param}") as machine:
        install(machine, deb)
        served = machine.run("systemctl", "show", "--property=Id", "--value", "dbus.service").stdout
        assert ("broker" in served) is (request.param == "broker")
        machine.run("useradd", "alice")
        machine.run("useradd", "--groups", "udp-proxy", "bob")
        dns = Instance(machine)
        dns.configure()
        dns.start()
        yield dns


@pytest.fixture
def ports(bordered: Machine) -> Iterator[Callable[[str], object]]:
    """Sets the machine's range of ephemeral ports; as it was afterwards."""
    before = bordered.run("cat", RANGE).stdout

    def put(text: str) -> None:
        bordered.run("tee", RANGE, stdin=text)

    yield put
    put(before)


def test_check_and_unit_read_the_same_ports(
    bordered: Machine, ports: Callable[[str], object]
) -> None:
    """A file that `check` calls good starts, and one that it refuses does not."""
    tftp = Instance(bordered, "tftp")
    listens = 'max-sessions = 10\n[[listen]]\naddress = "127.0.0.1"\nport = "{}"\n'
    tftp.write(listens.format("33000-33010"))
    ports("50000 60999")
    bordered.run("udp-proxy", "check", "/etc/udp-proxy/tftp.toml")
    tftp.start()
    assert tftp.state() == "active"
    assert not [each for each in tftp.messages("UDPS-110-W") if "cannot read" in each]
    tftp.stop()

    tftp.write(listens.format("12000-12010"))
    ports("10000 65000")
    checked = bordered.run("udp-proxy", "check", "/etc/udp-proxy/tftp.toml", check=False)
    assert checked.returncode == 78
    tftp.systemctl("start", tftp.unit, check=False)
    assert tftp.show("ExecMainStatus") == "78"
    tftp.stop()


LOG_CONTROL = "org.freedesktop.LogControl1"


def test_who_may_call_on_either_bus(on_a_bus: Instance) -> None:
    for user in ("root", "alice", "bob"):
        assert '"state" s "running"' in on_a_bus.call("Info", user=user).stdout
        assert on_a_bus.call("Info", where="reg", user=user).stdout
        control = ("org.udpproxy1.dns", f"/{LOG_CONTROL.replace('.', '/')}", LOG_CONTROL)
        assert on_a_bus.busctl("get-property", *control, "LogLevel", user=user).stdout
        set_level = ("set-property", *control, "LogLevel", "s", "info")
        allowed = user != "alice"
        assert (on_a_bus.busctl(*set_level, user=user, check=False).returncode == 0) is allowed
        done = on_a_bus.call("LogLevel", "s", "6", user=user, check=False)
        assert (done.returncode == 0) is allowed
        if not allowed:
            assert "Access denied" in done.stderr or "AccessDenied" in done.stderr
    tree = on_a_bus.busctl("tree", "org.udpproxy1.dns").stdout
    assert "/org/udpproxy1/reg" in tree
    assert "LogControl1" in tree


GUARDED = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><policy user="root"><allow own="org.example.Guarded"/></policy></busconfig>
"""
GUARDED_SERVICE = """
import asyncio
from dbus_next.aio import MessageBus
from dbus_next import BusType
from dbus_next.service import ServiceInterface, dbus_property, PropertyAccess

class Guarded(ServiceInterface):
    @dbus_property(access=PropertyAccess.READ)
    def Secret(self) -> 's':
        return 'seen'

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    bus.export('/org/example', Guarded('org.example.Guarded'))
    await bus.request_name('org.example.Guarded')
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


def test_our_policy_opens_no_other_service(on_a_bus: Instance) -> None:
    """One that nobody but its own rules would let call is as closed as without us."""
    machine = on_a_bus.machine
    machine.write("/etc/dbus-1/system.d/org.example.Guarded.conf", GUARDED)
    machine.write("/opt/guarded.py", GUARDED_SERVICE)
    machine.run("systemctl", "reload", "dbus.service")
    machine.unit_start("guarded", "python3", "/opt/guarded.py")
    until(lambda: "org.example.Guarded" in machine.run("busctl", "list", "--acquired").stdout)
    read = ("get-property", "org.example.Guarded", "/org/example", "org.example.Guarded", "Secret")
    ask = ("introspect", "org.example.Guarded", "/org/example")
    for words in (read, ask):
        answer = on_a_bus.busctl(*words, user="alice", check=False)
        assert answer.returncode == 1, answer.stdout
        assert "denied" in answer.stderr or "not permitted" in answer.stderr, answer.stderr


INTRUDER = """
import json, os, signal, socket, sys

parent, instance, hello = sys.argv[1:]

def tried(what):
    try:
        return repr(what())
    except OSError as problem:
        return type(problem).__name__

def connect(path, kind=socket.SOCK_STREAM):
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.connect(path)
    return sock

def said_hello():
    sock = connect(f"/run/udp-proxy/{instance}/children.sock", socket.SOCK_SEQPACKET)
    sock.settimeout(5)
    sock.send(hello.encode())
    return sock.recv(100000)

print(json.dumps({
    "instances": os.listdir("/run/udp-proxy"),
    "bus": tried(lambda: connect("/run/dbus/system_bus_socket")),
    "command": tried(
        lambda: connect(f"/run/udp-proxy/{instance}/control.sock", socket.SOCK_SEQPACKET)
    ),
    "signal": tried(lambda: os.kill(int(parent), signal.SIGCONT)),
    "role": tried(said_hello),
    }))
"""


@pytest.fixture(scope="module")
def two_instances(bordered: Machine) -> Iterator[Instance]:
    """One of two that run."""
    instances = [Instance(bordered, "dns"), Instance(bordered, "ntp", port=5354)]
    for each in instances:
        each.configure()
        each.start()
    yield instances[0]
    for each in instances:
        each.stop()


def inside(instance: Instance, role: str, script: str, *words: str) -> dict[str, object]:
    """What a script says in a child's place: its user, its namespaces, its control group."""
    machine = instance.machine
    pid = instance.pid(role)
    machine.write("/opt/intruder.py", script)
    group = instance.show("ControlGroup", role)
    status = machine.run("cat", f"/proc/{pid}/status").stdout
    user, own = (status.split(f"{name}:")[1].split()[0] for name in ("Uid", "Gid"))
    enter = f"nsenter -t {pid} -m -n -U -S {user} -G {own} -- /usr/bin/python3 /opt/intruder.py"
    join = f"echo $$ >/sys/fs/cgroup{group}/cgroup.procs"
    done = machine.run("sh", "-c", f"{join} && exec {enter} {' '.join(words)}")
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("role", CHILDREN)
def test_a_child_can_only_be_a_child(two_instances: Instance, role: str) -> None:
    another = "acr" if role == "reg" else "reg"
    hello = json.dumps({"": "hello", "role": another, "version": "0"}, separators=(",", ":"))
    before = {each: two_instances.pid(each) for each in ROLES}
    words = (str(before["parent"]), two_instances.name, f"'{hello}'")
    assert inside(two_instances, role, INTRUDER, *words) == {
        "instances": ["dns"],
        "bus": "PermissionError",
        "command": "PermissionError",
        "signal": "PermissionError",
        "role": "b''",
    }
    assert {each: two_instances.pid(each) for each in ROLES} == before
    assert two_instances.messages("UDPS-205-W")


LIES = Path("/opt/lies")
LYING = """\
max-sessions = 500
crash-limit = 1000
[[listen]]
address = "127.0.0.1"
port = 5355
[[session-acl]]
name = "named"
from = ["*.lab.test"]
plug-to = "x.test:9"
[[session-acl]]
name = "local"
plug-to = "127.0.0.1:7000"
[resolver]
servers = ["127.0.0.1:9"]
"""


@pytest.mark.parametrize("role", CHILDREN)
def test_a_unit_that_lies(bordered: Machine, role: str) -> None:
    """It has the real one's place; the parent answers, and the others go on."""
    lies, place = Instance(bordered, "lies", port=5355), bordered.path(str(LIES))
    lies.write(LYING)
    bordered.run("rm", "-rf", str(LIES))
    bordered.run("install", "--directory", "--mode=0777", str(LIES))
    bordered.put(Path(liar.__file__), str(LIES / "liar.py"))
    text = liar.code(LIES, role, count=3000, seed=4, here=LIES)
    bordered.write(str(LIES / "sitecustomize.py"), text)
    lies.drop_in(f"Environment=PYTHONPATH={LIES}\nReadWritePaths={LIES}", role)
    lies.start()
    with contextlib.ExitStack() as stack:
        clients = stack.enter_context(load(bordered, 5, 50, lies.port)) if role != "reg" else None
        slowest, ends = 0.0, time.monotonic() + 120
        while liar.told(place) >= 0:
            begun = time.monotonic()
            assert begun < ends, liar.told(place)
            assert str(lies.info()["state"]).startswith(("running", "degraded"))
            slowest = max(slowest, time.monotonic() - begun)
        # Most of it is the start of `ctl`.
        assert slowest < 3.0
        if clients:
            clients.answered()
            assert clients.report().lost == 0
    until(lambda: lies.ctl("info", "--process", role, check=False).returncode == 0)
    with load(bordered, 5, 50, lies.port) as after:
        after.answered()
    ends_at = time.monotonic()
    lies.stop()
    assert time.monotonic() - ends_at < 5.0
    for sign in ("UDPS-530-C", "UDPS-202-E", "UDPS-203-E"):
        assert not lies.messages(sign)
