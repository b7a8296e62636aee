"""`udp-proxy ctl` by those who may not use the control socket: over D-Bus, or told what to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buses import STRANGER, open_bus
from echo import Echo, exchange, udp
from host import free_port
from proxy import Proxy, command, config, until
from udpproxy.bus import client
from udpproxy.errors import LinkError
from udpproxy.process.wire import Plain
from udpproxy.proxy import over_bus
from udpproxy.proxy.verbs import VERBS

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")


@pytest.fixture
def bus_log(tmp_path: Path) -> Iterator[Path]:
    with open_bus(tmp_path) as log:
        yield log


@pytest.fixture
def proxy(tmp_path: Path, bus_log: Path) -> Iterator[Proxy]:
    with Echo() as echo, Proxy(tmp_path, config(free_port(), str(echo))) as started:
        yield started


def as_stranger(
    proxy: Proxy, *words: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in proxy.environment.items() if key != "XDG_RUNTIME_DIR"}
    return subprocess.run(
        command("ctl", *words),
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
    )


def test_what_everybody_may_goes_over_the_bus(proxy: Proxy) -> None:
    (done,) = until(
        lambda: _done(as_stranger(proxy, "one", "info", "--runtime-dir", proxy.runtime))
    )
    assert "max-sessions" in done.stdout
    done = as_stranger(proxy, "one", "--process", "reg", "info", "--runtime-dir", proxy.runtime)
    assert "relaying" in done.stdout


def _done(done: subprocess.CompletedProcess[str]) -> list[subprocess.CompletedProcess[str]]:
    """As soon as the proxy has its name."""
    return [done] if done.returncode == 0 else []


@pytest.mark.parametrize("verb", [["sessions"], ["loglevel", "debug"], ["terminate"], ["kill", 1]])
def test_what_he_may_not_is_refused_with_the_remedy(proxy: Proxy, verb: list[object]) -> None:
    until(lambda: _done(as_stranger(proxy, "one", "info", "--runtime-dir", proxy.runtime)))
    done = as_stranger(proxy, "one", "--runtime-dir", proxy.runtime, *verb)
    assert (done.returncode, done.stdout) == (1, "")
    assert "root, the group udp-proxy or org.udpproxy1.control may do that" in done.stderr
    assert "run this as root, or join that group" in done.stderr
    assert proxy.info()["log-level"] == "normal (6)"


def test_hold_has_no_other_way(proxy: Proxy) -> None:
    done = as_stranger(proxy, "one", "--runtime-dir", proxy.runtime, "hold")
    assert done.returncode == 1
    assert "hold goes over the control socket only: run this as root" in done.stderr


def test_without_a_bus_the_words_are_right(proxy: Proxy, tmp_path: Path) -> None:
    absent = f"unix:path={tmp_path}/none"
    done = as_stranger(
        proxy, "one", "info", "--runtime-dir", proxy.runtime, DBUS_SYSTEM_BUS_ADDRESS=absent
    )
    assert done.returncode == 1
    assert "only root and the user as whom the proxy runs" in done.stderr
    assert "run this as root" in done.stderr


@pytest.mark.parametrize("home", [True, False])
def test_what_does_not_run_is_said_to_be_so(proxy: Proxy, tmp_path: Path, *, home: bool) -> None:
    given = {"XDG_RUNTIME_DIR": str(tmp_path)} if home else {}
    done = as_stranger(proxy, "another-one", "info", **given)
    assert (done.returncode, done.stdout) == (3, "")
    assert "another-one is not running" in done.stderr


def test_answers_are_those_of_the_socket(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", proxy.environment["DBUS_SYSTEM_BUS_ADDRESS"])
    until(lambda: _done(as_stranger(proxy, "one", "info", "--runtime-dir", proxy.runtime)))
    port = int(proxy.file.read_text().split("port = ")[1].split()[0])
    with udp() as sender:
        exchange(sender, ("127.0.0.1", port), b"hello")
        (row,) = proxy.sessions()
        answer = over_bus.ask("one", VERBS["sessions"], {"filter": {"client": "127.0.0.1"}})
        assert isinstance(answer, list)
        (other,) = answer
        assert isinstance(other, dict)
        changing = {"age", "idle"}
        assert {key: value for key, value in other.items() if key not in changing} == {
            key: value for key, value in row.items() if key not in changing
        }
        assert over_bus.ask("one", VERBS["loglevel"], {"level": "+1"}) == "debug (7)"
        assert (
            over_bus.ask("one", VERBS["loglevel"], {"level": "-1", "process": "reg"})
            == "normal (6)"
        )
        assert over_bus.ask("one", VERBS["reopen"], {}) is None
        assert over_bus.ask("one", VERBS["kill"], {"session": row["session"]}) is None
        assert proxy.sessions() == []
        exchange(sender, ("127.0.0.1", port), b"hello again")
        by_rule: dict[str, Plain] = {"filter": {"rule": "all"}}
        assert over_bus.ask("one", VERBS["kill"], by_rule) == {"sessions-ended": 1}
        assert over_bus.ask("one", VERBS["kill"], by_rule) == {"sessions-ended": 0}
        with pytest.raises(LinkError, match="there is no rule"):
            over_bus.ask("one", VERBS["kill"], {"filter": {"rule": "none"}})
        with pytest.raises(LinkError, match="'x' is no session's number"):
            over_bus.ask("one", VERBS["kill"], {"session": "x"})
        with pytest.raises(LinkError, match="no names"):
            over_bus.ask("one", VERBS["resolve-now"], {})
        with pytest.raises(client.Unreachable, match="not on D-Bus"):
            over_bus.ask("two", VERBS["info"], {})
        with pytest.raises(client.Unreachable, match="invalid bus name"):
            over_bus.ask("2nd", VERBS["info"], {})
