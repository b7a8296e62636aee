"""Extensions found and loaded, or refused: where they may be, and what must be in them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from udpproxy.cli import offline
from udpproxy.errors import ConfigError
from udpproxy.proxy.config import load
from udpproxy.proxy.reg import installed

Writer = Callable[..., Path]

FILE = """max-sessions = 1
[[listen]]
address = "127.0.0.1"
port = 5353
[[session-acl]]
name = "one"
plug-to = "192.0.2.1:53"
extension = "%s"
"""
GOOD = """
from udpproxy.extension import Extension

class Good(Extension):
    pass
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed modules, which are forgotten afterwards."""
    place = tmp_path / "packages"
    place.mkdir(mode=0o755)
    # The first place of all is the current directory's, which must not count.
    monkeypatch.setattr(sys, "path", [*sys.path[:1], *sys.path[1:], str(place)])
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def module(places: Path) -> Writer:
    """Writes one."""

    def write(text: str, name: str = "installed_one.py") -> Path:
        path = places / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


def mistake(name: str, *, loading: bool = False) -> str:
    """What is wrong with it, without where it stands; nothing: nothing is."""
    config = load.parse(FILE % name, "file.toml")
    try:
        installed.check(config, "file.toml", loading=loading)
    except ConfigError as problem:
        (only,) = problem.problems
        assert (only.line, only.key) == (8, "session-acl[1].extension")
        return only.text
    return ""


@pytest.mark.parametrize("loading", [False, True])
def test_a_good_one(module: Writer, *, loading: bool) -> None:
    module(GOOD)
    assert mistake("installed_one:Good", loading=loading) == ""


def test_one_in_a_package(module: Writer) -> None:
    module("raise SystemExit('never run by a look')", "installed_pack/__init__.py")
    module(GOOD, "installed_pack/inner.py")
    assert mistake("installed_pack.inner:Good") == ""
    assert "no installed Python module installed_pack.other" in mistake("installed_pack.other:Good")
    told = mistake("installed_pack.inner:Good", loading=True)
    assert told.startswith("SystemExit: never run by a look (__init__.py line 1)")


@pytest.mark.parametrize(
    "text",
    [
        "class Here: pass",
        "from elsewhere import Here",
        "from elsewhere import There as Here",
        "Here = object",
        "Here: type = object",
        "def Here(): pass",
        "if True:\n    class Here: pass",
        "try:\n    import nothing\nexcept ImportError:\n    Here = None",
    ],
)
def test_a_look_finds_whatever_is_named_at_the_top(module: Writer, text: str) -> None:
    module(text)
    assert mistake("installed_one:Here") == ""


def test_a_look_runs_nothing_and_sees_what_is_missing(module: Writer) -> None:
    path = module("raise SystemExit\nclass Other:\n    class Good: pass")
    assert mistake("installed_one:Good") == f"{path} has no Good"
    module("class Good(:")
    assert mistake("installed_one:Good").startswith(f"{path}: invalid syntax")


@pytest.mark.parametrize("loading", [False, True])
def test_what_is_not_there(places: Path, *, loading: bool) -> None:
    told = mistake("installed_nowhere:Good", loading=loading)
    assert told == "there is no installed Python module installed_nowhere"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Good = 1", "Good is no class"),
        ("class Good:\n    def opened(self): pass", "Good has no from_client, from_server, ended"),
        ("import installed_nowhere\nclass Good: pass", "ModuleNotFoundError: No module named"),
        ("1 / 0\nclass Good: pass", "ZeroDivisionError: division by zero (installed_one.py line 1"),
    ],
)
def test_what_cannot_be_loaded(module: Writer, text: str, told: str) -> None:
    module(text)
    assert mistake("installed_one:Good") == ""
    assert mistake("installed_one:Good", loading=True).startswith(told)


@pytest.mark.parametrize(
    ("what", "mode", "trusted"),
    [
        ("installed_one.py", 0o666, False),
        ("installed_one.py", 0o664, True),
        (".", 0o777, False),
        (".", 0o1777, False),
        (".", 0o775, True),
        ("..", 0o777, False),
        ("..", 0o1777, True),
    ],
)
def test_nobody_else_may_have_written_it(
    module: Writer, places: Path, what: str, mode: int, *, trusted: bool
) -> None:
    module(GOOD)
    (places / what).chmod(mode)
    told = mistake("installed_one:Good", loading=True)
    assert trusted == (told == "")
    assert trusted or "is writable for everybody: installed_one is not trusted" in told
    assert trusted or "installed_one" not in sys.modules


def test_the_current_directory_is_no_place(
    module: Writer, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(GOOD)
    monkeypatch.chdir(places)
    monkeypatch.setattr(sys, "path", [str(places), "", *sys.path[1:-1]])
    assert mistake("installed_one:Good") == "there is no installed Python module installed_one"


def test_denials_need_none(places: Path) -> None:
    text = FILE % "installed_nowhere:Good" + 'action = "deny"\n'
    installed.check(load.parse(text, "file.toml"), "file.toml")


def test_check_and_explain_show_it(
    module: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.toml"
    path.write_text(FILE % "installed_one:Good")
    assert offline.check(path, resolve=False) == 78
    told = capsys.readouterr().err
    assert told.startswith(f"{path}:8: session-acl[1].extension: there is no installed Python")
    module(GOOD)
    assert offline.check(path, resolve=False) == 0
    assert capsys.readouterr().out == f"{path}: ok\n"
    assert offline.explain(path, client="127.0.0.1", to=None, at=None) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "extension: installed_one:Good"
