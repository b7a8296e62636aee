"""What the system does not let us give up, keep or raise is said, and never passed over."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

import pytest

import refused
from daemons import FAILED, Daemon, status_of
from host import free_port
from proxy import Proxy, config
from udpproxy.process.privileges import NICE

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges, and may set filters"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="by numbers"),
]

KEEPCAPS, CAPBSET_DROP, NO_NEW_PRIVS = 8, 24, 38


def without(what: object) -> list[str]:
    return [sys.executable, refused.__file__, str(what)]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (KEEPCAPS, "they cannot be kept"),
        (CAPBSET_DROP, "0 cannot be dropped"),
        (NO_NEW_PRIVS, "new ones cannot be refused"),
    ],
)
def test_daemon_that_cannot_give_up_its_privileges(tmp_path: Path, option: int, said: str) -> None:
    with Daemon(tmp_path / "one") as daemon:
        done = daemon.do("start", prefix=without(option))
        assert done.returncode == FAILED
        assert f"{said}: Operation not permitted" in done.stderr
        assert daemon.processes() == {}


def test_child_that_cannot_give_up_its_privileges(tmp_path: Path) -> None:
    prefix = without(CAPBSET_DROP)
    proxy = Proxy(tmp_path, config(free_port(), "127.0.0.1:9"), prefix=prefix)
    with proxy.launched():
        assert proxy.wait() == 69
        assert proxy.said("UDPS-520-E cannot start: capabilities: 0 cannot be dropped")
        assert not proxy.said("UDPS-530-C")


def test_names_wait_for_sessions_where_processors_are_busy(tmp_path: Path) -> None:
    text = config(free_port(), "127.0.0.1:9", acl='from = ["*.example.org", "one.example.org"]')
    with Proxy(tmp_path, text) as proxy:
        pids = {role: proxy.info(role)["pid"] for role in ("reg", "acr", "apr")}
        own = os.getpriority(os.PRIO_PROCESS, 0)
        niceness = {role: os.getpriority(os.PRIO_PROCESS, pid) for role, pid in pids.items()}
        assert niceness == {"reg": own, "acr": max(own, NICE), "apr": max(own, NICE)}


def test_child_of_a_user_gets_nothing_by_exec(tmp_path: Path) -> None:
    with Daemon(tmp_path / "one") as daemon:
        prefix = ["setpriv", "--reuid=47110", "--regid=47110", "--clear-groups"]
        proxy = Proxy(daemon.directory, config(free_port(), "127.0.0.1:9"), prefix=prefix)
        with proxy:
            status = status_of(proxy.reg_pid)
            assert (status["NoNewPrivs"], status["CapEff"]) == ("1", "0" * 16)
            assert proxy.stop() == 0


def test_limit_that_cannot_be_raised(tmp_path: Path) -> None:
    """It goes on with what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limited = ["prlimit", f"--nofile=900:{hard}"]
    text = config(free_port(), "127.0.0.1:9", top="max-sessions = 5")
    with Proxy(tmp_path, text, prefix=[*limited, *without("limits")]) as proxy:
        assert proxy.said("UDPS-230-W the limit of open descriptors stays at 900: ")
        assert proxy.stop() == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_limit_that_cannot_be_raised_and_is_too_low(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limited = ["prlimit", f"--nofile=900:{hard}"]
    text = config(free_port(), "127.0.0.1:9", top="max-sessions = 5000")
    proxy = Proxy(tmp_path, text, prefix=[*limited, *without("limits")])
    with proxy.launched():
        assert proxy.wait() == 71
        assert proxy.said("the limit is 900")
