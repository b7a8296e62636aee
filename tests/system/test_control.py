"""The four verbs, by bus, by signal and by command: the same effect, on whom it is said to have it.

And what else can be asked over the bus: properties, signals, introspection, nonsense.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from system.machine import Machine
from system.package import ROOT, Package
from system.service import CHILDREN, INSIDE, ROLES, Instance, install, load, serve_echo
from system.waiting import until

pytestmark = pytest.mark.one_release("d12")

SIGNALS = {"info": "RTMIN", "up": "USR1", "down": "USR2", "reopen": "WINCH", "terminate": "TERM"}
METHODS = {
    "info": ["Info"],
    "up": ["LogLevel", "s", "+1"],
    "down": ["LogLevel", "s", "-1"],
    "reopen": ["Reopen"],
    "terminate": ["Terminate"],
}
COMMANDS = {
    "info": ["info"],
    "up": ["loglevel", "+1"],
    "down": ["loglevel", "-1"],
    "reopen": ["reopen"],
    "terminate": ["terminate"],
}


def by_signal(dns: Instance, role: str, verb: str) -> None:
    signal = f"--signal=SIG{SIGNALS[verb]}"
    dns.systemctl("kill", "--kill-whom=main", signal, dns.units()[role])


def by_bus(dns: Instance, role: str, verb: str) -> None:
    dns.call(*METHODS[verb], where=role)


def by_command(dns: Instance, role: str, verb: str) -> None:
    dns.ctl("--process", role, *COMMANDS[verb])


WAYS: list[Callable[[Instance, str, str], None]] = [by_signal, by_bus, by_command]


@pytest.fixture(scope="module")
def controlled(root: Path, release: str, deb: Package) -> Iterator[Machine]:
    with Machine(root, f"{release}-control") as machine:
        install(machine, deb)
        serve_echo(machine)
        Instance(machine).configure(more="crash-limit = 1000")
        yield machine


@pytest.fixture
def dns(controlled: Machine) -> Iterator[Instance]:
    """Running, at its usual level."""
    instance = Instance(controlled)
    instance.start()
    until(lambda: ready(instance))
    instance.ctl("loglevel", "6")
    yield instance
    instance.systemctl("start", instance.unit)


@pytest.fixture
def asked(controlled: Machine) -> Instance:
    """The same for what does it no harm: it is not looked at first."""
    instance = Instance(controlled)
    instance.start()
    return instance


def ready(dns: Instance) -> bool:
    """Are all four there and obey?"""
    info = dns.ctl("info", "--json", check=False)
    if info.returncode or not dns.on_bus():
        return False
    state = json.loads(info.stdout)
    return all(state[f"{role}-state"] == "ready" for role in CHILDREN)


@pytest.mark.parametrize("way", WAYS)
def test_the_harmless_verbs(dns: Instance, way: Callable[[Instance, str, str], None]) -> None:
    pids = {role: dns.pid(role) for role in ROLES}
    for role in ROLES:
        concerned = ROLES if role == "parent" else (role,)
        for verb, ident, text in (
            ("up", "UDPS-300-I", "log level is debug (7)"),
            ("down", "UDPS-300-I", "log level is normal (6)"),
            ("reopen", "UDPS-301-I", "log reopened"),
        ):
            before = said(dns, ident)
            way(dns, role, verb)
            until(lambda: set(news(dns, ident, before)) == set(concerned))  # noqa: B023
            assert set(news(dns, ident, before).values()) == {f"{ident} {text}"}

    for role in ROLES:
        before = said(dns, "UDPS-302-I")
        way(dns, role, "info")
        if way is by_bus:  # who asks has the answer, and monitoring asks often
            assert not news(dns, "UDPS-302-I", before)
            continue
        until(lambda: news(dns, "UDPS-302-I", before))  # noqa: B023
        told = news(dns, "UDPS-302-I", before)
        assert set(told) == {role}
        assert f"role={role} " in told[role]
        assert f"pid={pids[role]} " in told[role]
    assert {role: dns.pid(role) for role in ROLES} == pids


def said(dns: Instance, ident: str) -> dict[str, list[str]]:
    """What each process has said with that id."""
    found: dict[str, list[str]] = {role: [] for role in ROLES}
    for entry in dns.machine.journal(f"UDP_PROXY_ID={ident}"):
        role = entry["SYSLOG_IDENTIFIER"].partition("/")[2].partition("/")[2] or "parent"
        found[role].append(entry["MESSAGE"])
    return found


def news(dns: Instance, ident: str, before: dict[str, list[str]]) -> dict[str, str]:
    """The line of each process that has said something since; one each."""
    later = {role: lines[len(before[role]) :] for role, lines in said(dns, ident).items()}
    assert all(len(lines) <= 1 for lines in later.values()), later
    return {role: lines[0] for role, lines in later.items() if lines}


def pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("role", CHILDREN)
def test_a_child_that_is_terminated_is_replaced(
    dns: Instance, role: str, way: Callable[[Instance, str, str], None]
) -> None:
    old = {one: dns.pid(one) for one in ROLES}
    ends = int(str(dns.info()[f"{role}-ends"]))
    way(dns, role, "terminate")
    dns.replaced(role, old[role])
    until(lambda: ready(dns))
    assert dns.info()[f"{role}-ends"] == ends + 1
    assert {one for one in ROLES if dns.pid(one) != old[one]} == {role}
    assert dns.show("ExecMainStatus", role) == "0"


@pytest.mark.parametrize("way", WAYS)
def test_the_parent_terminates_all(
    dns: Instance, way: Callable[[Instance, str, str], None]
) -> None:
    before = len(dns.records())
    with load(dns.machine, 5, 100):
        way(dns, "parent", "terminate")
        until(lambda: [dns.state(role) for role in ROLES] == ["inactive"] * 4)
    assert dns.show("Result") == "success"
    assert [record["REASON"] for record in dns.records()[before:]] == ["terminated"] * 5
    assert dns.ctl("info", check=False).returncode == 3


def test_the_log_level_as_systemd_knows_it(dns: Instance) -> None:
    def shown() -> str:
        return dns.systemctl("service-log-level", dns.unit).stdout.strip()

    assert shown() == "info"
    dns.systemctl("service-log-level", dns.unit, "debug")
    assert shown() == "debug"
    assert [dns.level(role) for role in ROLES] == [7] * 4
    dns.ctl("loglevel", "full")
    assert shown() == "debug"
    dns.systemctl("service-log-level", dns.unit, "warning")
    assert (shown(), dns.level("reg")) == ("warning", 4)
    assert dns.systemctl("service-log-level", dns.unit, "chatty", check=False).returncode != 0
    dns.systemctl("service-log-level", dns.unit, "info")
    assert dns.systemctl("service-log-target", dns.unit).stdout == "journal\n"


def test_signals_and_changed_properties(dns: Instance) -> None:
    dns.machine.put(INSIDE / "signals.py", "/opt/signals.py")
    with dns.machine.popen("python3", "/opt/signals.py", dns.name) as listener:
        assert listener.stdout is not None
        assert json.loads(listener.stdout.readline())[1] == "listening"
        with load(dns.machine, 100, 80) as clients:  # a new session now and then for a second
            clients.answered()
        old = dns.pid("acr")
        dns.kill("acr")
        dns.replaced("acr", old)
        until(lambda: ready(dns))
        dns.systemctl("reload", dns.unit)
        ends = dns.info()["acr-ends"]
        pause(1.1)
        dns.machine.run("pkill", "--full", "/opt/signals.py")  # in the machine: it is ours alone
        heard = [json.loads(line) for line in listener.stdout]
    changes = [(when, body[1]) for when, member, body in heard if member == "PropertiesChanged"]
    assert len(changes) >= 2
    assert changes[-1][1]["Sessions"] == 100
    moments = [when for when, _ in changes]
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert min(gaps) > 0.9
    others = [[member, body] for _, member, body in heard if member != "PropertiesChanged"]
    assert others == [["ProcessRestarted", ["acr", ends]], ["Reloaded", []]]


def test_properties(asked: Instance) -> None:
    with load(asked.machine, 3, 100) as clients:
        clients.report()
    words = ["--json=short", "call", "org.udpproxy1.dns", "/org/udpproxy1"]
    words += ["org.freedesktop.DBus.Properties", "GetAll", "s", "org.udpproxy1.Proxy"]
    found = json.loads(asked.busctl(*words).stdout)["data"][0]
    values = {name: value["data"] for name, value in found.items()}
    assert values["Instance"] == "dns"
    assert values["State"] == "running"
    assert values["MaxSessions"] == 1000
    assert values["Sessions"] >= 3
    described = ElementTree.parse(ROOT / "dbus" / "org.udpproxy1.Proxy.xml")
    assert set(values) == {each.attrib["name"] for each in described.iter("property")}
    for role in ROLES:
        pid = asked.busctl(
            "get-property", "org.udpproxy1.dns", f"/org/udpproxy1/{role}",
            "org.udpproxy1.Process", "Pid",
        )  # fmt: skip
        assert pid.stdout == f"u {asked.pid(role)}\n"


def test_what_every_object_answers(asked: Instance) -> None:
    def peer(path: str, member: str, interface: str = "org.freedesktop.DBus.Peer") -> str:
        return asked.busctl("call", "org.udpproxy1.dns", path, interface, member).stdout

    machine = asked.machine.run("cat", "/etc/machine-id").stdout.strip()
    names = ["org.udpproxy1.Proxy", *["org.udpproxy1.Process"] * 4]
    paths = ["/org/udpproxy1", *(f"/org/udpproxy1/{role}" for role in ROLES)]
    names.append("org.freedesktop.LogControl1")
    paths.append("/org/freedesktop/LogControl1")
    for path, name in zip(paths, names, strict=True):
        assert peer(path, "GetMachineId") == f's "{machine}"\n'
        assert peer(path, "Ping") == ""
        words = ["--json=short", "call", "org.udpproxy1.dns", path]
        words += ["org.freedesktop.DBus.Introspectable", "Introspect"]
        shown = json.loads(asked.busctl(*words).stdout)["data"][0]
        contract = ElementTree.parse(ROOT / "dbus" / f"{name}.xml")
        assert described(ElementTree.fromstring(shown)) >= described(contract.getroot())
    tree = asked.busctl("tree", "--list", "org.udpproxy1.dns").stdout
    assert set(paths) <= set(tree.split())


def described(node: ElementTree.Element) -> set[str]:
    """Each member of each interface with its arguments."""
    found = set()
    for interface in node.iter("interface"):
        for member in interface:
            arguments = [
                f"{each.get('direction', '')}{each.attrib['type']}" for each in member.iter("arg")
            ]
            kind = member.get("type", "") + member.get("access", "")
            found.add(" ".join([interface.attrib["name"], member.attrib["name"], kind, *arguments]))
    return found


PROXY, PROCESS = "/org/udpproxy1 org.udpproxy1.Proxy", "/org/udpproxy1/reg org.udpproxy1.Process"
PROPERTIES = "/org/udpproxy1 org.freedesktop.DBus.Properties"
LOG_CONTROL = "/org/freedesktop/LogControl1 org.freedesktop.DBus.Properties"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"{PROXY} Dance", "no method"),
        (f"{PROXY} Info s x", "Info takes ''"),
        (f"{PROXY} LogLevel u 7", "LogLevel takes 's'"),
        (f"{PROXY} LogLevel s loud", "loud"),
        (f"{PROXY} KillSession t 99999", "99999"),
        (f"{PROXY} ListSessions a{{sv}} 1 colour s red", "colour"),
        (f"{PROXY} Explain a{{sv}} 1 from s nonsense", "nonsense"),
        (f"{PROXY} Explain a{{sv}} 0", "from is missing"),
        (f"{PROXY} ResolveNow", "no names"),
        (f"{PROXY} Segmentation s perhaps", "perhaps"),
        (f"{PROCESS} Reload", "no method"),
        (f"{PROCESS} LogLevel s 99", "99"),
        ("/org/udpproxy1/nobody org.udpproxy1.Process Info", "no such object"),
        (f"{PROPERTIES} Get ss org.udpproxy1.Proxy Colour", "Colour"),
        (f"{PROPERTIES} Get ss org.udpproxy1.Process Pid", "org.udpproxy1.Process"),
        (f"{PROPERTIES} Get s org.udpproxy1.Proxy", "give ss"),
        (f"{PROPERTIES} Set ssv org.udpproxy1.Proxy MaxSessions u 5", "MaxSessions"),
        (f"{PROPERTIES} Set ssv org.udpproxy1.Proxy Colour s red", "Colour"),
        (f"{PROPERTIES} Set ss org.udpproxy1.Proxy MaxSessions", "give ssv"),
        (f"{LOG_CONTROL} Set ssv org.freedesktop.LogControl1 LogLevel u 7", "give s"),
        (f"{LOG_CONTROL} Set ssv org.freedesktop.LogControl1 LogTarget s console", "LogTarget"),
    ],
)
def test_nonsense_has_a_clean_answer(asked: Instance, words: str, said: str) -> None:
    answer = asked.busctl("call", "org.udpproxy1.dns", *words.split(), check=False)
    assert answer.returncode == 1
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert asked.on_bus()


def test_nothing_of_it_was_an_internal_error(asked: Instance) -> None:
    assert asked.machine.journal("UDP_PROXY_ID=UDPS-530-C") == []
    assert not [entry for entry in asked.entries() if "Traceback" in entry["MESSAGE"]]


def test_the_rest_of_ctl(asked: Instance) -> None:
    with load(asked.machine, 4, 100):
        number = str(asked.sessions()[0]["session"])
        asked.ctl("kill", number)
        until(lambda: number not in {str(one["session"]) for one in asked.sessions()})
    (record,) = [each for each in asked.records() if each["REASON"] == "killed"]
    assert record["SESSION"] == number
    assert asked.ctl("kill", number, check=False).returncode == 1
    for mode, on in ("off", 0), ("auto", 1):
        asked.call("Segmentation", "s", mode)
        assert asked.info("reg")["segmentation"] == on
    explained = asked.call("Explain", "a{sv}", "1", "from", "s", "127.0.0.1").stdout
    assert '"rule" s "local"' in explained
    asked.write("nonsense = 1\n")
    reloaded = asked.systemctl("reload", asked.unit, check=False)
    assert reloaded.returncode != 0
    assert any("nonsense" in line for line in asked.messages("UDPS-304-W"))
    assert asked.state() == "active"
    asked.configure(more="crash-limit = 1000")
    asked.systemctl("reload", asked.unit)
