"""TFTP: the server answers from a port of its own choice, which `any-port` is made for.

tftp-hpa on both sides; also in the middle of a transfer, when REG is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from host import free_port, is_bound, tool
from proxy import Proxy, config, until

SIZE = 5_000_000
ANY_PORT, NORMAL = 'type = "any-port"', 'type = "normal"'


@contextmanager
def tftpd(directory: Path) -> Iterator[int]:
    """A server with its own directory, where everybody may write; its port."""
    directory.mkdir()
    directory.chmod(0o777)
    port = free_port()
    words = [tool("in.tftpd"), "-L", "-c", "-a", f"127.0.0.1:{port}", "-s", str(directory)]
    # A session of its own: the process that it starts for a transfer outlives a lost client.
    with subprocess.Popen(words, start_new_session=True) as process:
        try:
            until(lambda: is_bound(port))
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def tftp(port: int, *words: str | Path, resend: int = 5) -> Iterator[subprocess.Popen[bytes]]:
    """One command of the client, which is killed at the end if it still runs.

    `resend` is when it sends again what was not answered, in seconds.
    """
    with subprocess.Popen(
        [tool("tftp"), "-m", "binary", "127.0.0.1", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as client:
        try:
            assert client.stdin
            with client.stdin:
                client.stdin.write(f"rexmt {resend}\n{' '.join(map(str, words))}\n".encode())
            yield client
        finally:
            client.kill()


def some_bytes(path: Path) -> bytes:
    content = os.urandom(SIZE)
    path.write_bytes(content)
    path.chmod(0o644)
    return content


def test_get_and_put_through_any_port(tmp_path: Path) -> None:
    port, served = free_port(), tmp_path / "served"
    with (
        tftpd(served) as server,
        Proxy(tmp_path, config(port, f"127.0.0.1:{server}", acl=ANY_PORT)) as proxy,
    ):
        content = some_bytes(served / "down")
        with tftp(port, "get", "down", tmp_path / "down") as client:
            client.wait(60)
        assert (tmp_path / "down").read_bytes() == content

        content = some_bytes(tmp_path / "up")
        with tftp(port, "put", tmp_path / "up", "up") as client:
            client.wait(60)
        assert (served / "up").read_bytes() == content

        rows = proxy.sessions()
        assert len(rows) == 2
        assert f"127.0.0.1:{server}" not in {row["server"] for row in rows}
        assert all(row["type"] == "any-port" for row in rows)
        assert max(row["bytes-down"] for row in rows) > SIZE
        assert max(row["bytes-up"] for row in rows) > SIZE


def test_normal_refuses_the_other_port(tmp_path: Path) -> None:
    port, served = free_port(), tmp_path / "served"
    with (
        tftpd(served) as server,
        Proxy(tmp_path, config(port, f"127.0.0.1:{server}", acl=NORMAL)) as proxy,
    ):
        some_bytes(served / "down")
        with (
            tftp(port, "get", "down", tmp_path / "down") as client,
            pytest.raises(subprocess.TimeoutExpired),
        ):
            client.wait(2)
        assert (tmp_path / "down").stat().st_size == 0
        (row,) = proxy.sessions()
        assert (row["datagrams-up"], row["datagrams-down"]) == (1, 0)


@pytest.mark.parametrize("verb", ["get", "put"])
def test_transfer_survives_the_death_of_reg(tmp_path: Path, verb: str) -> None:
    port, served = free_port(), tmp_path / "served"
    with (
        tftpd(served) as server,
        Proxy(tmp_path, config(port, f"127.0.0.1:{server}", acl=ANY_PORT)) as proxy,
    ):
        source, target = served / "file", tmp_path / "file"
        if verb == "put":
            source, target = target, source
        content = some_bytes(source)
        names = (Path("file"), target) if verb == "get" else (source, Path("file"))
        with tftp(port, verb, *names, resend=1) as client:
            until(lambda: target.exists() and target.stat().st_size > SIZE / 10, step=0.001)
            killed = proxy.kill(signal.SIGKILL, "reg")
            middle = target.stat().st_size
            client.wait(60)
        assert middle < SIZE
        assert target.read_bytes() == content
        assert proxy.reg_pid not in (0, killed)
        assert len(proxy.sessions()) == 1
        assert proxy.info()["reg-ends"] == 1
