"""The log of an installed proxy: the journal, what explains it, and a file of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from system.machine import Machine
from system.service import CONFIG, ROLES, SERVER_PORT, Instance, load, serve_echo
from system.waiting import until

FILE = "/var/log/udp-proxy/dns.log"
ROTATE = f"""\
{FILE} {{
    su udp-proxy udp-proxy
    rotate 3
    postrotate
        systemctl kill --kill-whom=main --signal=WINCH udp-proxy@dns
    endscript
}}
"""


@pytest.fixture
def dns(host: Machine) -> Iterator[Instance]:
    serve_echo(host)
    instance = Instance(host)
    instance.configure()
    yield instance
    assert not [each for each in instance.entries() if "Traceback" in each["MESSAGE"]]


def test_one_session_from_its_beginning_to_its_end(host: Machine, dns: Instance) -> None:
    dns.write(CONFIG.format(sessions=9, port=dns.port, server=SERVER_PORT, more="")
              + '[log]\nlevel = 7\n')  # fmt: skip
    dns.start()
    with load(host, 3, 100):
        dns.ctl("kill", "1")
        until(lambda: len(dns.records()) == 1)
        dns.stop()
    told = dns.entries("SESSION=1")
    assert [entry["UDP_PROXY_ID"] for entry in told] == ["UDPP-820-D", "UDPP-888-I"]
    opened, ended = told
    assert opened["SYSLOG_IDENTIFIER"] == ended["SYSLOG_IDENTIFIER"] == "udp-proxy/dns/reg"
    assert (ended["REASON"], ended["RULE"], ended["CLIENT_ADDR"]) == (
        "killed",
        "local",
        "127.0.0.1",
    )
    assert ended["_SYSTEMD_UNIT"] == "udp-proxy-reg@dns.service"
    found = dns.entries("RULE=local", "REASON=terminated", "CLIENT_ADDR=127.0.0.1")
    ports = {entry["CLIENT_PORT"] for entry in found if entry["UDP_PROXY_ID"] == "UDPP-888-I"}
    assert len(ports) == 2 or len(ports) == 3  # the client of the killed one may have come again


def test_the_catalogue_explains(host: Machine, dns: Instance) -> None:
    dns.start()
    old = dns.pid("reg")
    dns.kill("reg")
    dns.replaced("reg", old)
    until(lambda: dns.messages("UDPS-201-W"))
    for ident, subject in (
        ("UDPS-100-I", "The UDP proxy is ready"),
        ("UDPS-201-W", "A child process of the UDP proxy ended unasked"),
    ):
        explained = host.run("journalctl", "--catalog", f"UDP_PROXY_ID={ident}").stdout
        assert f"Subject: {subject}" in explained
        assert "Defined-By: udp-proxy" in explained
    assert "The process reg has ended" in explained  # a field of the message itself


def test_a_quiet_life_has_no_warnings(host: Machine, dns: Instance) -> None:
    dns.start()
    with load(host, 5, 200) as clients:
        dns.systemctl("restart", dns.unit)
        clients.answered()
    dns.stop()
    host.run("journalctl", "--sync")
    said = dns.entries("--priority=notice")
    assert [entry["MESSAGE"] for entry in said] == []


@pytest.mark.parametrize("rules", ["", ROTATE], ids=["the package's", "by signal"])
def test_a_file_that_is_rotated(host: Machine, dns: Instance, rules: str) -> None:
    more = f'log = {{ target = "file", file = "{FILE}" }}'
    dns.configure(more=more)
    if rules:
        host.write("/etc/logrotate.d/udp-proxy", rules)
    dns.start()

    def lines(name: str = FILE) -> list[str]:
        return host.run("cat", name, check=False).stdout.splitlines()

    def rotated() -> list[str]:
        return host.run("sh", "-c", f"zcat -f {FILE}.1*").stdout.splitlines()

    assert any("UDPS-100-I ready" in line for line in lines())
    mode = host.run("stat", "--format=%U %A", FILE).stdout
    assert mode == "udp-proxy -rw-rw----\n"  # the children are of the group
    with load(host, 5, 100):
        host.run("logrotate", "--force", "/etc/logrotate.d/udp-proxy")
        until(lambda: len(lines()) == len(ROLES))
        assert all("UDPS-301-I" in line for line in lines())
        before = rotated()
        dns.ctl("kill", str(dns.sessions()[0]["session"]))
        until(lambda: sum("UDPP-888-I" in line for line in lines()) == 1)
        dns.systemctl("restart", dns.unit)
        dns.stop()
    assert sum("UDPP-888-I" in line and "terminated" in line for line in lines()) >= 4
    assert any("UDPS-100-I ready" in line for line in before)
    assert rotated() == before
    assert [entry for entry in dns.entries() if "UDPS-1" in entry["MESSAGE"]] == []


def test_a_log_file_and_systemctl_status(host: Machine, dns: Instance) -> None:
    """It says where the log is, and what is wrong."""
    more = f'log = {{ target = "file", file = "{FILE}" }}'
    dns.configure(more=more)
    dns.start()

    def status() -> str:
        return dns.systemctl("status", dns.unit, check=False).stdout

    until(lambda: f"log in {FILE}" in status())
    assert "UDPS-100-I" not in status()
    rival = Instance(host, "rival", dns.port)
    rival.configure(more=more.replace("dns.log", "rival.log"))
    assert rival.systemctl("start", rival.unit, check=False).returncode != 0
    # Of the present try, which rests for some seconds at its end.
    why = "UDPS-520-E cannot start: listen on 127.0.0.1 port"
    until(lambda: why in rival.systemctl("status", rival.unit, check=False).stdout)
    assert "UDPS-520-E" in host.run("cat", FILE.replace("dns.log", "rival.log")).stdout
    rival.stop()
    dns.stop()


def test_a_port_below_1024(host: Machine) -> None:
    serve_echo(host)
    low = Instance(host, "low", 53)
    low.configure()
    assert low.systemctl("start", low.unit, check=False).returncode != 0
    until(lambda: low.state() == "failed")
    assert low.show("ExecMainStatus") == "77"
    said = low.messages("UDPS-520-E")
    assert len(said) == 1, "trying again would not help"
    assert "listen on 127.0.0.1 port 53: Permission denied: ports below 1024 need" in said[0]
    assert "udp-proxy-units(7)" in said[0]

    example = host.run("cat", "/usr/share/doc/udp-proxy/examples/low-ports.conf").stdout
    low.drop_in(example, name="low-ports")
    low.systemctl("reset-failed", low.unit)
    low.start()
    with load(host, 2, 50, 53) as clients:
        assert clients.report().lost == 0
    low.stop()
