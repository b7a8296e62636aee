"""A resolver's way of asking: one datagram there, one back, 1000 times, dig to dnsmasq."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dnsserver import dnsmasq
from host import free_port, tool
from proxy import Proxy, config, until

QUESTIONS = 1000
DIGS = 4
ONE_EACH = "limits = { upload-datagrams = 1, download-datagrams = 1 }"


def dig(port: int, names: Path, source: str) -> subprocess.Popen[str]:
    """Ask for all names of a file, one after another. Each dig has an address of its own: their
    sockets have SO_REUSEADDR, so two of one address can have the same port at the same time, and
    one gets the other's answer."""
    options = ["+tries=1", "+time=5", "+noall", "+answer", "+nocookie"]
    return subprocess.Popen(
        [tool("dig"), "@127.0.0.1", "-p", str(port), "-b", source, *options, "-f", str(names)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_thousand_questions_are_thousand_sessions(tmp_path: Path) -> None:
    names = [f"q{number}.example.test." for number in range(QUESTIONS)]
    port = free_port()
    with (
        dnsmasq() as server,
        Proxy(tmp_path, config(port, f"127.0.0.1:{server}", acl=ONE_EACH)) as proxy,
    ):
        digs = []
        for number in range(DIGS):
            part = tmp_path / f"names.{number}"
            part.write_text("\n".join(names[number::DIGS]))
            digs.append(dig(port, part, f"127.0.0.{number + 2}"))
        outputs = [process.communicate(timeout=60)[0] for process in digs]

        answers = [line.split() for output in outputs for line in output.splitlines() if line]
        assert sorted(answer[0] for answer in answers) == sorted(names)
        assert {answer[-1] for answer in answers} == {"192.0.2.7"}
        until(lambda: len(proxy.records()) >= QUESTIONS)
        assert proxy.sessions() == []
        records = proxy.records()
        assert len(records) == QUESTIONS
        assert len({record["SESSION"] for record in records}) == QUESTIONS
        assert {record["REASON"] for record in records} == {"download-datagrams"}
        assert {(r["DATAGRAMS_CIN"], r["DATAGRAMS_COUT"]) for r in records} == {("1", "1")}
        assert proxy.info()["sessions-opened"] == QUESTIONS
