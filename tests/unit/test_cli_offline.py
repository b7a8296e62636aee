"""check, explain, show: what they print and how they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from udpproxy.cli import offline
from udpproxy.proxy.config.load import parse

SMALLEST = """max-sessions = 1000
[[listen]]
address = "127.0.0.1"
port = 5353
[[session-acl]]
name = "local"
from = ["127.0.0.0/8"]
plug-to = "127.0.0.1:53"
"""
LISTENS = {
    "one": '[[listen]]\naddress = "127.0.0.1"\nport = 53\n',
    "wild": '[[listen]]\naddress = "0.0.0.0"\nport = 53\n',
    "two": '[[listen]]\naddress = "127.0.0.1"\nport = 53\n'
    '[[listen]]\naddress = "127.0.0.2"\nport = 53\n',
    "range": '[[listen]]\naddress = "127.0.0.1"\nport = "53-55"\n',
    "both": '[[listen]]\naddress = "127.0.0.1"\nport = 53\n'
    '[[listen]]\naddress = "::1"\nport = 54\n',
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "dns.toml"
    found.write_text(SMALLEST)
    return found


def acl(name: str, keys: str = "") -> str:
    return f'[[session-acl]]\nname = "{name}"\nplug-to = "192.0.2.1:5300"\n{keys}\n'


def explained(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    client: str = "127.0.0.1",
    to: str | None = None,
    at: str | None = None,
) -> list[str]:
    """The lines of an explanation, or what was said on stderr instead."""
    status = offline.explain(path, client=client, to=to, at=at)
    out, err = capsys.readouterr()
    assert (status, bool(out)) in [(0, True), (2, False), (78, False)]
    return [*out.splitlines(), *err.splitlines()]


def test_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert offline.check(path, resolve=False) == 0
    assert capsys.readouterr() == (f"{path}: ok\n", "")
    assert offline.check(path, resolve=True) == 0
    assert capsys.readouterr().out == f"{path}: no names to resolve\n{path}: ok\n"


def test_check_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "draft.1.toml"
    path.write_text("max-sessions = 1\n" + LISTENS["one"])
    assert offline.check(path, resolve=False) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}: ok\n"
    first, second = err.splitlines()
    assert first.startswith(f"warning: {path}:1: session-acl: there is none")
    assert second.startswith(f'warning: {path}: "draft.1" is no instance\'s name')


def test_every_mistake_is_printed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("max-sessions = 0\nx = 1\n" + LISTENS["one"])
    statuses = [
        offline.check(path, resolve=True),
        offline.show(path, defaults=False),
        offline.explain(path, client="127.0.0.1", to=None, at=None),
    ]
    out, err = capsys.readouterr()
    assert (statuses, out) == ([78] * 3, "")
    found = [tuple(line.split(": ")[:2]) for line in err.splitlines()]
    assert found == [(f"{path}:1", "max-sessions"), (f"{path}:2", "x")] * 3


def test_show(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for defaults in (False, True):
        assert offline.show(path, defaults=defaults) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert parse(out, "shown") == parse(SMALLEST, "given")
        assert ('overflow = "refuse"' in out) == defaults


def test_explain_a_session(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(
        "max-sessions = 1\n"
        + LISTENS["one"]
        + acl("others", 'from = ["10.0.0.0/8"]')
        + acl("weekend", 'time = ["sat,sun"]')
        + acl("local", 'type = "any-port"\nlimits.upload-datagrams = 1')
        + acl("never asked")
    )
    assert explained(path, capsys, client="127.0.0.1:4000", at="2030-01-02T12:00") == [
        "local",
        "action: accept",
        "not others (line 5): from: 127.0.0.1 is in none of its networks",
        "not weekend (line 9): time: Wed 2030-01-02 12:00 is in none of its periods",
        "why: local (line 13): every condition holds",
        "server: 192.0.2.1:5300",
        "type: any-port",
        "limits: idle 1m, upload-datagrams 1",
    ]


def test_explain_a_refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(path, capsys, client="10.0.0.1") == [
        "-",
        "action: deny",
        "not local (line 5): from: 10.0.0.1 is in none of its networks",
        "why: no ACL matches, so it is refused",
    ]
    path.write_text("max-sessions = 1\n" + LISTENS["one"])
    assert explained(path, capsys) == [
        "-",
        "action: deny",
        "why: no ACL matches, so it is refused",
    ]


def test_explain_a_denial(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("max-sessions = 1\n" + LISTENS["one"] + acl("no", 'action = "deny"'))
    assert explained(path, capsys) == [
        "no",
        "action: deny",
        "why: no (line 5): every condition holds",
    ]


SAME_PORT = '[[session-acl]]\nname = "a"\nplug-to = "192.0.2.1"\n'


@pytest.mark.parametrize(
    ("listens", "acls", "to", "wanted"),
    [
        # Derived: with one socket, or where nothing looks at it.
        ("one", acl("a", 'to = ["127.0.0.1:53"]'), None, "a"),
        ("one", SAME_PORT, None, "a"),
        ("wild", SAME_PORT, None, "a"),
        ("wild", acl("a", 'to = [":53"]'), None, "a"),
        ("two", acl("a"), None, "a"),
        ("two", acl("a", 'to = [":53"]'), None, "a"),
        ("range", acl("a", 'to = ["127.0.0.1"]'), None, "a"),
        ("both", acl("a", 'to = ["127.0.0.1:53"]'), None, "a"),
        ("two", acl("a", 'action = "deny"'), None, "a"),
        # Given.
        ("wild", acl("a", 'to = ["127.0.0.2:53"]'), "127.0.0.2:53", "a"),
        ("wild", acl("a", 'to = ["127.0.0.2:53"]'), "127.0.0.3", "-"),
        ("range", acl("a", 'to = [":54"]'), "127.0.0.1:54", "a"),
        ("two", acl("a", 'to = ["127.0.0.2"]'), "127.0.0.2", "a"),
        # Not to be guessed.
        ("wild", acl("a", 'to = ["127.0.0.2:53"]'), None, "--to with an address is needed: ACL a"),
        ("two", acl("b") + acl("a", 'to = ["127.0.0.2"]'), None, "--to with an address is needed"),
        ("range", acl("a", 'to = [":54"]'), None, "--to with a port is needed: ACL a"),
        ("range", SAME_PORT, None, "--to with a port is needed: ACL a"),
        ("range", SAME_PORT, "127.0.0.1", "--to with a port is needed: ACL a"),
    ],
)
def test_what_the_client_wrote_to(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    listens: str,
    acls: str,
    to: str | None,
    wanted: str,
) -> None:
    path.write_text("max-sessions = 1\n" + LISTENS[listens] + acls)
    first = explained(path, capsys, to=to)[0]
    assert first.removeprefix("udp-proxy explain: ").startswith(wanted)


def test_the_port_of_the_client_goes_on(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("max-sessions = 1\n" + LISTENS["both"] + SAME_PORT)
    assert "server: 192.0.2.1:54" in explained(path, capsys, client="::1")


def test_a_datagram_that_nobody_takes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = "note: no listener takes such a datagram"
    assert note in explained(path, capsys, to="127.0.0.1:54")
    assert note in explained(path, capsys, client="::1")
    assert note not in explained(path, capsys, to="127.0.0.1:5353")


@pytest.mark.parametrize(
    ("client", "to", "at", "told"),
    [
        ("here", None, None, '--from here: "here" is a name: only an address can stand here'),
        ("127.0.0.1:0", None, None, "--from 127.0.0.1:0: expected a port from 1 to 65535"),
        ("", None, None, '--from : "" is not an address'),
        ("127.0.0.1", ":53", None, '--to :53: "" is not an address'),
        ("127.0.0.1", "[::1", None, "--to [::1: expected"),
        ("127.0.0.1", "[::1]:53", None, "a client of 127.0.0.1 cannot write to ::1"),
        ("127.0.0.1", None, "noon", "--at noon: expected a time such as 2030-12-24T08:30"),
        ("127.0.0.1", None, "0001-01-01", "--at 0001-01-01: expected a time"),
    ],
)
def test_bad_values(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    client: str,
    to: str | None,
    at: str | None,
    told: str,
) -> None:
    assert offline.explain(path, client=client, to=to, at=at) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("udp-proxy explain: ")
    assert told in err


@pytest.mark.parametrize("zone", ["", "+00:00"])
def test_a_time_zone_is_understood(
    path: Path, capsys: pytest.CaptureFixture[str], zone: str
) -> None:
    path.write_text("max-sessions = 1\n" + LISTENS["one"] + acl("a", 'time = ["1.-2. jul"]'))
    assert explained(path, capsys, at=f"2030-07-01T23:00{zone}")[0] == "a"
    assert explained(path, capsys, at=f"2030-07-05T12:00{zone}")[0] == "-"


def test_explain_what_was_sent_to_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sip.toml"
    file.write_text(
        "max-sessions = 10\n[[listen]]\ntransparent = true\nport = 5060\n"
        '[[session-acl]]\nname = "out"\ntransparent = true\n'
    )
    assert offline.explain(file, client="10.0.0.1", to="192.0.2.9:5060", at=None) == 0
    assert capsys.readouterr().out.splitlines()[0] == "out"
    assert offline.explain(file, client="10.0.0.1", to="127.0.0.1:5060", at=None) == 0
    assert capsys.readouterr().out.splitlines()[0] == "-"
    assert offline.explain(file, client="10.0.0.1", to=None, at=None) == 2
    assert "--to with an address is needed" in capsys.readouterr().err
    assert offline.transparent(file) == 0
    assert "table inet udp-proxy-sip {" in capsys.readouterr().out
    file.write_text("max-sessions = 0")
    assert offline.transparent(file) == 78
    named = tmp_path / "No Name.toml"
    named.write_text('max-sessions = 1\n[[listen]]\naddress = "::1"\nport = 1\n')
    assert offline.transparent(named) == 78
