"""Words on the command line that are refused before anything else happens."""

from __future__ import annotations

import pytest

from udpproxy.cli.main import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--level", "loud", "dns.toml"], "argument --level: log level 'loud': give +1"),
        (["run", "--level", "10", "dns.toml"], "argument --level: log level '10': give +1"),
        (["run", "--single", "--units", "dns.toml"], "not allowed with"),
        (["run"], "required: FILE"),
        (["ctl", "dns", "resart"], "invalid choice: 'resart'"),
        (["explain", "dns.toml"], "required: --from"),
    ],
)
def test_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
