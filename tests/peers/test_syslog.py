"""Syslog: lines one way; logger(1) to a real rsyslogd, and a receiver that talks back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from echo import Echo, arrived, silent, udp
from host import free_port, is_bound, tool
from proxy import Proxy, config, until

ONE_WAY = 'type = "one-way"'


@contextmanager
def rsyslogd(directory: Path, port: int) -> Iterator[Path]:
    """With UDP input only; the file that it writes."""
    received, rules = directory / "received", directory / "rsyslog.conf"
    rules.write_text(f"""
global(workDirectory="{directory}")
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="{port}")
action(type="omfile" file="{received}")
""")
    words = [tool("rsyslogd"), "-n", "-i", str(directory / "pid"), "-f", str(rules)]
    with subprocess.Popen(words) as process:
        try:
            until(lambda: is_bound(port))
            yield received
        finally:
            process.terminate()


def test_line_arrives(tmp_path: Path) -> None:
    port, server = free_port(), free_port()
    text = "the quick brown fox, 1234"
    with (
        rsyslogd(tmp_path, server) as received,
        Proxy(tmp_path, config(port, f"127.0.0.1:{server}", acl=ONE_WAY)) as proxy,
    ):
        subprocess.run(
            [tool("logger"), "-d", "-n", "127.0.0.1", "-P", str(port), "-t", "fox", text],
            check=True,
            timeout=10,
        )
        until(lambda: received.exists() and text in received.read_text())
        (row,) = proxy.sessions()
        assert (row["type"], row["datagrams-up"], row["datagrams-down"]) == ("one-way", 1, 0)


def test_reply_ends_the_session_and_is_not_passed(tmp_path: Path) -> None:
    port = free_port()
    with (
        Echo(answers=lambda data: data == b"answer me") as receiver,
        Proxy(tmp_path, config(port, str(receiver), acl=ONE_WAY)) as proxy,
        udp() as client,
    ):
        client.sendto(b"a line", ("127.0.0.1", port))
        arrived(receiver, 1)
        assert len(proxy.sessions()) == 1
        client.sendto(b"answer me", ("127.0.0.1", port))
        (record,) = until(proxy.records)
        assert (record["REASON"], record["RESULT"]) == ("unexpected-reply", "FAILED")
        assert (record["DATAGRAMS_CIN"], record["DATAGRAMS_COUT"]) == ("2", "0")
        assert silent(client)
        assert proxy.sessions() == []

        client.sendto(b"another line", ("127.0.0.1", port))
        arrived(receiver, 3)
        assert len(receiver.sources) == 2, "the next line is a session of its own"


def test_stranger_is_ignored(tmp_path: Path) -> None:
    port = free_port()
    with (
        Echo(elsewhere=True) as receiver,
        Proxy(tmp_path, config(port, str(receiver), acl=ONE_WAY)) as proxy,
        udp() as client,
    ):
        client.sendto(b"a line", ("127.0.0.1", port))
        arrived(receiver, 1)
        assert silent(client)
        assert len(proxy.sessions()) == 1
        assert proxy.records() == []
