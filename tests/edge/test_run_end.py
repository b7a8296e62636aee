"""The end of a proxy: every session has its record, and nothing is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from echo import Echo, arrived, clients, exchange
from host import free_port, is_bound
from proxy import Endpoint, Proxy, config, until

SESSIONS = 12
UNCLEAN = 1
"""Exit status where a child did not leave in order."""


@contextmanager
def a_proxy(directory: Path, *, single: bool, echo: Echo) -> Iterator[tuple[Proxy, Endpoint]]:
    port = free_port()
    with Proxy(directory, config(port, str(echo)), single=single) as proxy:
        yield proxy, ("127.0.0.1", port)


@pytest.mark.parametrize("single", [False, True], ids=["fork", "single"])
@pytest.mark.parametrize("how", ["signal", "ctl"])
def test_open_sessions_get_their_records(tmp_path: Path, *, single: bool, how: str) -> None:
    with ExitStack() as stack:
        echo = stack.enter_context(Echo(answers=lambda data: data == b"answer me"))
        proxy, at = stack.enter_context(a_proxy(tmp_path, single=single, echo=echo))
        socks = stack.enter_context(clients(SESSIONS))
        for number, sock in enumerate(socks):
            if number % 2:
                exchange(sock, at, b"answer me")
            else:
                sock.sendto(b"quiet", at)
        arrived(echo, SESSIONS)
        until(lambda: len(proxy.sessions()) == SESSIONS)

        if how == "ctl":
            assert proxy.ctl("terminate").returncode == 0
            assert proxy.wait() == 0
        else:
            assert proxy.stop(signal.SIGTERM) == 0
        records = proxy.records()
        assert len(records) == SESSIONS
        assert {(r["REASON"], r["RESULT"]) for r in records} == {("terminated", "ABORTED")}
        assert {r["CLIENT_PORT"]: r["DATAGRAMS_COUT"] for r in records} == {
            str(sock.getsockname()[1]): str(number % 2) for number, sock in enumerate(socks)
        }
        assert {r["RULE"] for r in records} == {"all"}
        assert {r["BYTES_CIN"] for r in records if r["DATAGRAMS_COUT"] == "1"} == {"9"}
        assert f"UDPS-104-I stopped with {SESSIONS} sessions ended" in proxy.log[-1]

        assert proxy.processes() == {}
        assert not proxy.runtime.exists()
        assert not is_bound(at[1])


def test_session_of_a_rule_that_a_reload_renamed_still_has_its_record(tmp_path: Path) -> None:
    with (
        Echo() as echo,
        a_proxy(tmp_path, single=False, echo=echo) as (proxy, at),
        clients(1) as (client,),
    ):
        exchange(client, at, b"hello")
        proxy.write(proxy.file.read_text().replace('"all"', '"renamed"'))
        proxy.ask("reload")
        assert proxy.stop() == 0
        (record,) = proxy.records()
        assert (record["REASON"], record["RULE"]) == ("terminated", "renamed")


def test_child_that_does_not_go_is_killed_and_named(tmp_path: Path) -> None:
    port = free_port()
    text = config(port, "127.0.0.1:9", top="max-sessions = 5\nstop-timeout = 0.5")
    with Proxy(tmp_path, text) as proxy:
        stopped = proxy.kill(signal.SIGSTOP, "reg")
        assert proxy.stop() == UNCLEAN
        (line,) = proxy.said("UDPS-203-E")
        assert f"reg (process {stopped}) did not go within 0.5 s: killed" in line
        (line,) = proxy.said("UDPS-221-W")
        assert f"reg (process {stopped}) did not leave in order: signal SIGKILL" in line
        assert proxy.processes() == {}


def test_several_signals_are_one_stop(tmp_path: Path) -> None:
    with (
        Echo() as echo,
        a_proxy(tmp_path, single=False, echo=echo) as (proxy, at),
        clients(1) as (client,),
    ):
        exchange(client, at, b"hello")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            proxy.kill(number)
        assert proxy.wait() == 0
        assert len(proxy.records()) == 1
        assert len(proxy.said("UDPS-103-I")) == 1
