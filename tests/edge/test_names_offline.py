"""`check -r` and `explain` where names are in the file: they really ask."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host import free_port
from nameserver import NameServer
from proxy import command


@pytest.fixture
def zone() -> Iterator[NameServer]:
    with NameServer() as server:
        server.host("srv.lab.test", "192.0.2.1", "2001:db8::1")
        server.host("gw.lab.test", "192.0.2.7")
        server.reverse("192.0.2.7", "gw.lab.test")
        yield server


def file(tmp_path: Path, zone: NameServer, *, server: str = "srv.lab.test") -> Path:
    path = tmp_path / "one.toml"
    path.write_text(f"""max-sessions = 10
[[listen]]
address = "127.0.0.1"
port = 53
[[session-acl]]
name = "lab"
from = ["*.lab.test"]
plug-to = "{server}:5300"
[[session-acl]]
name = "gateway"
from = ["gw.lab.test", "10.0.0.0/8"]
plug-to = "192.0.2.1"
{zone.section}""")
    return path


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60, check=False)


def test_check_prints_every_name(tmp_path: Path, zone: NameServer) -> None:
    path = file(tmp_path, zone)
    done = run("check", "-r", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "srv.lab.test: 192.0.2.1, 2001:db8::1 (for 60 s)",
        "gw.lab.test: 192.0.2.7 (for 60 s)",
        f"{path}: ok",
    ]
    assert run("check", path).stdout == f"{path}: ok\n"


def test_check_tells_failures(tmp_path: Path, zone: NameServer) -> None:
    done = run("check", "-r", file(tmp_path, zone, server="none.lab.test"))
    assert done.returncode == 71
    assert "none.lab.test: failed: nxdomain\ngw.lab.test: 192.0.2.7" in done.stdout


@pytest.mark.parametrize(
    ("client", "told"),
    [
        ("192.0.2.7", ["lab", "server: 192.0.2.1:5300 (srv.lab.test)"]),
        ("10.0.0.1", ["gateway", "server: 192.0.2.1:53"]),
        ("192.0.2.8", ["-", "in none of its networks"]),
    ],
)
def test_explain_with_names(tmp_path: Path, zone: NameServer, client: str, told: list[str]) -> None:
    done = run("explain", file(tmp_path, zone), "--from", client)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == told[0]
    assert told[1] in done.stdout


def test_four_domains_and_three_servers_end_within_one_limit(tmp_path: Path) -> None:
    """None of them answers; the limit is one for all."""
    with NameServer() as one, NameServer() as two, NameServer() as three:
        for silent in (one, two, three):
            silent.silent = True
        path = tmp_path / "one.toml"
        servers = ", ".join(f'"127.0.0.1:{each.port}"' for each in (one, two, three))
        path.write_text(f"""max-sessions = 10
[[listen]]
address = "127.0.0.1"
port = {free_port()}
[[session-acl]]
name = "a"
plug-to = "short:53"
[resolver]
servers = [{servers}]
search = ["a.test", "b.test", "c.test", "d.test"]
conf-timeout = 3
timeout = 0.5
attempts = 2
""")
        began = time.monotonic()
        done = run("check", "-r", path)
        took = time.monotonic() - began
        assert "short: failed: timeout" in done.stdout
        assert all(each.asked for each in (one, two, three))
        assert 2.5 < took < 4.0
