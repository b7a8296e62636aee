"""Extensions as units have them: where their modules are, and what REG's sandbox lets them do."""

from __future__ import annotations

import json
import re

from system.machine import Machine
from system.service import Instance, serve_echo

EXAMPLE = "/usr/share/doc/udp-proxy/examples/dns-no-any/dns_no_any.py"
PROBE = """
import json, os, socket
from udpproxy.extension import Answer, Extension


def tried(attempt):
    try:
        attempt()
    except OSError as problem:
        return type(problem).__name__
    return "done"


class Probe(Extension):
    def __init__(self, rule):
        self.lines = len(open("/etc/passwd").readlines())

    def opened(self, session, *, adopted):
        session.state = adopted

    def from_client(self, session, payload):
        return Answer(json.dumps({
            "adopted": session.state,
            "lines": self.lines > 0,
            "user": os.getuid() != 0,
            "network": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
            "etc": tried(lambda: open("/etc/udp-proxy/new", "w")),
            "run": tried(lambda: open("/run/udp-proxy/new", "w")),
            "lib": tried(lambda: open(__file__, "a")),
            "home": tried(lambda: os.listdir("/root")),
            "tmp": tried(lambda: open("/tmp/of-the-extension", "w")),
        }).encode())
"""
ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    sock.bind(("127.0.0.1", 9099))
    sock.sendto(bytes.fromhex(sys.argv[2]), ("127.0.0.1", int(sys.argv[1])))
    print(sock.recv(65535).hex())
"""
ANY = "abcd01000001000000000000" + b"\x07example\x03org\x00".hex() + "00ff0001"


def place(machine: Machine) -> str:
    """Where this release's Python has modules of the administrator's."""
    words = ("python3", "-c", "import site; print(site.getsitepackages()[0])")
    return machine.run(*words).stdout.strip()


def ask(proxy: Instance, question: bytes) -> bytes:
    """The answer to a client that always has the same port."""
    done = proxy.machine.run("python3", "-c", ASK, str(proxy.port), question.hex())
    return bytes.fromhex(done.stdout.strip())


def test_what_the_sandbox_lets_it_do(host: Machine) -> None:
    serve_echo(host)
    host.write(f"{place(host)}/probe.py", PROBE)
    proxy = Instance(host)
    proxy.configure()
    text = host.run("cat", f"/etc/udp-proxy/{proxy.name}.toml").stdout
    proxy.write(text + 'extension = "probe:Probe"\n')
    proxy.start()
    seen = json.loads(ask(proxy, b"what may you do?"))
    refused = {seen.pop(name) for name in ("etc", "run", "lib", "home", "network")}
    assert refused <= {"OSError", "PermissionError"}
    assert seen == {"adopted": False, "lines": True, "user": True, "tmp": "done"}
    assert host.run("ls", "/tmp/of-the-extension", check=False).returncode != 0, "a /tmp of its own"

    old = proxy.pid("reg")
    proxy.kill("reg")
    proxy.replaced("reg", old)
    assert json.loads(ask(proxy, b"and now?"))["adopted"] is True
    proxy.systemctl("restart", proxy.unit)
    assert json.loads(ask(proxy, b"and now?"))["adopted"] is True
    assert len(proxy.sessions()) == 1
    assert proxy.messages("UDPP-852-E") == []


def test_the_packaged_example(host: Machine) -> None:
    serve_echo(host)
    proxy = Instance(host)
    proxy.configure()
    text = host.run("cat", f"/etc/udp-proxy/{proxy.name}.toml").stdout
    proxy.write(text + 'extension = "dns_no_any:NoAny"\n')
    checked = host.run("udp-proxy", "check", f"/etc/udp-proxy/{proxy.name}.toml", check=False)
    assert checked.returncode == 78
    assert "there is no installed Python module dns_no_any" in checked.stderr
    assert proxy.systemctl("start", proxy.unit, check=False).returncode != 0
    assert proxy.show("ExecMainStatus") == "78"

    host.run("install", "-Dm644", "-t", place(host), EXAMPLE)
    host.run("udp-proxy", "check", f"/etc/udp-proxy/{proxy.name}.toml")
    proxy.systemctl("reset-failed", proxy.unit)
    proxy.start()
    question = bytes.fromhex(ANY)
    answer = ask(proxy, question)
    assert answer == question[:2] + b"\x81\x05" + question[4:]
    assert ask(proxy, b"anything else").startswith(b"anything else ")
    assert proxy.info("reg")["extension.local.refused"] == 1
    assert re.search(r'"extension\.local\.refused" \w 1 ', proxy.call("Info", where="reg").stdout)
