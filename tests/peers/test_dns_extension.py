"""The example of an extension, installed as its README says: dig's ANY is refused, A answered."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dnsserver import dnsmasq
from host import free_port, tool
from proxy import Proxy, until
from rig import ENGINES

EXAMPLE = Path(__file__).parents[2] / "examples" / "dns-no-any"


def ask(port: int, kind: str, *options: str) -> str:
    """What dig prints for one question."""
    return subprocess.run(
        [
            *(tool("dig"), "@127.0.0.1", "-p", str(port), "+tries=1", "+time=5", *options),
            *("www.example.test", kind),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    ).stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_any_is_refused_and_the_rest_answered(tmp_path: Path, engine: str) -> None:
    packages = tmp_path / "packages"
    packages.mkdir(mode=0o755)
    shutil.copy(EXAMPLE / "dns_no_any.py", packages)
    port = free_port()
    with dnsmasq() as server:
        text = (EXAMPLE / "dns.toml").read_text()
        text = text.replace("port = 5300", f"port = {port}").replace(":5354", f":{server}")
        proxy = Proxy(tmp_path, f'engine = "{engine}"\n{text}', name="dns")
        proxy.environment["PYTHONPATH"] = str(packages)
        with proxy:
            assert proxy.info("reg")["engine"] == engine
            for _ in range(3):
                refused = ask(port, "ANY", "+notcp")
                assert "status: REFUSED" in refused
                assert re.search(r"^;www\.example\.test\.\s+IN\s+ANY$", refused, re.MULTILINE)
                assert "ANSWER: 0" in refused
                assert ask(port, "A", "+short") == "192.0.2.7\n"
            # As other programs ask: no EDNS, no recursion desired, odd case.
            plain = ask(port, "ANY", "+notcp", "+noedns", "+norecurse")
            assert "status: REFUSED" in plain
            assert re.search(r"flags: qr;", plain)
            records = until(lambda: found if len(found := proxy.records()) == 7 else [])
            assert {record["REASON"] for record in records} == {"download-datagrams"}
            passed = [record["DATAGRAMS_SOUT"] for record in records]
            assert (passed.count("0"), passed.count("1")) == (4, 3), "the server saw no ANY"
            info = proxy.info("reg")
            assert (info["extension.local.refused"], info["extension-errors"]) == (4, 0)
            assert info["extension-sessions"] == 0


def test_its_configuration_says_where_the_module_is_missing(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, (EXAMPLE / "dns.toml").read_text(), name="dns")
    with proxy.launched():
        assert proxy.wait() == 78
    assert proxy.said("extension: there is no installed Python module dns_no_any")
