"""Words on the command line: what is refused before anything else happens, and what is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from udpproxy.cli import ctl
from udpproxy.cli.main import main
from udpproxy.config import reading
from udpproxy.identity import Identity


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--level", "loud", "dns.toml"], "argument --level: log level 'loud': give +1"),
        (["run", "--level", "10", "dns.toml"], "argument --level: log level '10': give +1"),
        (["run", "--single", "--units", "dns.toml"], "not allowed with"),
        (["run"], "required: FILE"),
        (["ctl", "dns", "resart"], "invalid choice: 'resart'"),
        (["explain", "dns.toml"], "required: --from"),
        (["check"], "required: FILE"),
    ],
)
def test_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


RIGHT = """max-sessions = 10
[[listen]]
address = "127.0.0.1"
port = 5353
[[session-acl]]
name = "all"
plug-to = "127.0.0.1:53"
"""


def test_check_takes_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, instances of the host, and standard input; the worst decides."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "etc"
    home.mkdir()
    monkeypatch.setattr(Identity, "configurations", home)
    (home / "dns.toml").write_text(RIGHT)
    (tmp_path / "sip.toml").write_text(RIGHT)
    (tmp_path / "bare").write_text("x = 1")
    assert main(["check", "dns", "sip.toml"]) == 0
    assert capsys.readouterr().out == f"{home}/dns.toml: ok\nsip.toml: ok\n"
    assert main(["check", "dns", "bare", "./sip.toml"]) == 78
    out, err = capsys.readouterr()
    assert out == f"{home}/dns.toml: ok\nsip.toml: ok\n"
    assert "bare:1: x: unknown key" in err
    assert main(["check", "nope"]) == 78
    assert capsys.readouterr().err.startswith(f"{home}/nope.toml: cannot be read: No such file")
    assert reading.path_of("-", home) == Path("/dev/stdin")


@pytest.mark.parametrize(
    "word", ["dns", "dns.toml", "udp-proxy@dns", "udp-proxy@dns.service", "/etc/udp-proxy/dns.toml"]
)
def test_ctl_knows_who_is_meant(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ctl", "--runtime-dir", str(tmp_path), word, "info"]) == ctl.NOT_RUNNING
    assert f"udp-proxy: dns is not running ({tmp_path})" in capsys.readouterr().err
