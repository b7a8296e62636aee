"""What the program knows is in the manual, and what the README says exists."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from manual import plain, says, section
from udpproxy import extension
from udpproxy.cli.main import _parser
from udpproxy.config.table import Table
from udpproxy.process import logs, messages
from udpproxy.proxy.config import load
from udpproxy.proxy.config.model import SessionType
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.table import TOTALS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FULL = """
max-sessions = 1
[limits]
[resolver]
[log]
[[listen]]
address = "127.0.0.1"
port = 5353
[[servers]]
name = "group"
members = ["127.0.0.1:53"]
health = { probe = { ntp = true } }
[[session-acl]]
name = "one"
plug-to = "@group"
"""


def tagged(text: str) -> list[str]:
    """The lines that name what the next paragraph explains."""
    return re.findall(r"^\.TP\n(.*)", text, re.MULTILINE)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command, and every verb of those that have verbs."""
    for name, parser in subcommands(_parser()).items():
        yield name, parser
        yield from subcommands(parser).items()


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_command_is_in_the_manual(name: str) -> None:
    text = section("udp-proxy.8", "COMMANDS")
    assert f".SS {name}\n" in text or any(says(tag, name) for tag in tagged(text))


@pytest.mark.parametrize(("name", "parser"), list(commands()))
def test_options_are_in_the_manual(name: str, parser: argparse.ArgumentParser) -> None:
    tags = " ".join(tagged(section("udp-proxy.8", "COMMANDS")))
    for action in parser._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or says(tags, option), f"{name} {option}"


def config_keys() -> list[tuple[str, str]]:
    """(table, key) of all keys that a configuration can have, as load.parse asks for them."""
    asked: dict[str, set[str]] = {}
    done = Table.done

    def noting(table: Table) -> None:
        name = "".join(str(part) for part in table.path if isinstance(part, str))
        asked.setdefault(name, set()).update(table._asked)
        done(table)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "done", noting)
        load.parse(FULL, "full.toml")
    assert asked.pop("session-acllimits") == asked["limits"]
    return sorted((table, key) for table, keys in asked.items() for key in keys)


@pytest.mark.parametrize(("table", "key"), config_keys())
def test_key_is_in_the_manual(table: str, key: str) -> None:
    page = "udp-proxy.toml.5"
    headings = re.findall(r"^\.SH (.*)", plain(page), re.MULTILINE)
    if not table and (f"[{key}]" in headings or f"[[{key}]]" in headings):
        return
    title = {
        "": "KEYS AT THE TOP",
        "listen": "[[listen]]",
        "servers": "[[servers]]",
        "servershealth": "[servers.health]",
        "servershealthprobe": "[servers.health.probe]",
        "session-acl": "[[session-acl]]",
    }
    tags = tagged(section(page, title.get(table, f"[{table}]")))
    assert any(says(tag.partition("=")[0], key) for tag in tags)


def members() -> list[tuple[str, str]]:
    """(interface, member) of the contract."""
    return [
        (str(interface.get("name")), str(member.get("name")))
        for path in sorted((ROOT / "dbus").glob("*.xml"))
        for interface in ElementTree.parse(path).getroot().iter("interface")
        for kind in ("method", "property", "signal")
        for member in interface.iter(kind)
    ]


@pytest.mark.parametrize(("interface", "member"), members())
def test_bus_member_is_in_the_manual(interface: str, member: str) -> None:
    tags = tagged(section("org.udpproxy1.5", interface))
    assert any(says(tag, member) for tag in tags)


def statuses(path: str) -> set[int]:
    """The whole numbers below 128 that a module gives names to, read and not run."""
    found: set[int] = set()
    for node in ast.parse((ROOT / "service" / "udpproxy" / path).read_text()).body:
        if isinstance(node, ast.Assign):
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            found |= {each.value for each in values if _is_status(each)}  # type: ignore[attr-defined]
    return found


def _is_status(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value < 128


def test_exit_statuses_are_in_the_manual() -> None:
    own = {2}  # argparse's
    for path in ("instance/options.py", "instance/start.py", "process/child.py", "cli/offline.py"):
        assert statuses(path), path
        own |= statuses(path)
    text = section("udp-proxy.8", "EXIT STATUS")
    assert {int(number) for number in re.findall(r"^\.B (\d+)$", text, re.MULTILINE)} == own
    words = section("udp-proxy.8", "COMMANDS").partition("The exit status is ")[2]
    assert statuses("cli/ctl.py") == {0, 1, 3}
    for status in (0, 1, 2, 3):
        assert says(words, str(status))


def test_results_of_daemon_are_in_the_manual() -> None:
    words = section("udp-proxy.8", "COMMANDS").partition(".SS daemon\n")[2]
    results = statuses("daemon/commands.py")
    assert results == {0, 100, 101, 102, 103}
    assert {int(number) for number in re.findall(r"^(\d+)\t", words, re.MULTILINE)} == results


@pytest.mark.parametrize("message", messages.ALL, ids=lambda message: message.id)
def test_message_is_in_the_manual(message: messages.Message) -> None:
    assert any(says(tag, message.id) for tag in tagged(section("udp-proxy.8", "MESSAGES")))


@pytest.mark.parametrize("counter", TOTALS)
def test_counter_is_in_the_manual(counter: str) -> None:
    assert any(says(tag, counter) for tag in tagged(section("udp-proxy.8", "COUNTERS")))


@pytest.mark.parametrize("word", [each.value for each in (*Reason, *SessionType)])
def test_reason_or_type_is_in_the_manual(word: str) -> None:
    assert says(section("udp-proxy.8", "SESSIONS"), word)


def public() -> list[str]:
    """What an extension's author meets: methods, fields, what may be returned."""
    methods = [name for name, each in vars(extension.Extension).items() if callable(each)]
    fields = [field.name for field in dataclasses.fields(extension.Session)]
    actions = ["PASS", "DROP", "Replace", "Answer", "End"]
    assert all(hasattr(extension, name) for name in actions)
    return [
        *(name for name in methods if name == "__init__" or not name.startswith("_")),
        *fields,
        *actions,
    ]


@pytest.mark.parametrize("name", public())
def test_the_extensions_interface_is_in_the_manual(name: str) -> None:
    assert any(says(tag, name) for tag in tagged(section("udp-proxy-extension.7", "METHODS")))


def test_the_manual_shows_the_example_as_it_is() -> None:
    (shown,) = re.findall(
        r"^\.EX\n(.*?)^\.EE", section("udp-proxy-extension.7", "EXAMPLE"), re.DOTALL | re.MULTILINE
    )
    (method,) = ast.parse(shown).body
    example = ast.parse((ROOT / "examples" / "dns-no-any" / "dns_no_any.py").read_text())
    (there,) = [
        each
        for each in ast.walk(example)
        if isinstance(each, ast.FunctionDef) and each.name == "from_client"
    ]
    del there.body[0]  # its docstring
    assert ast.dump(method) == ast.dump(there)


PAGE_FOR_NGINX = (ROOT / "man" / "udp-proxy-nginx.7").read_text()
REWRITTEN = [
    *sorted((ROOT / "examples").glob("nginx-*.toml")),
    *sorted((ROOT / "examples").glob("traefik-*.toml")),
]


def bare(toml: str) -> list[str]:
    """Without comments and blank lines."""
    return [line for line in toml.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("path", REWRITTEN, ids=lambda path: path.stem)
def test_the_page_for_nginx_has_the_example_as_it_is(path: Path) -> None:
    (shown,) = re.findall(
        rf"^\.IR {path.name} :\n\.PP\n\.RS 4\n\.EX\n(.*?)^\.EE",
        PAGE_FOR_NGINX,
        re.DOTALL | re.MULTILINE,
    )
    text = path.read_text()
    assert bare(shown) == bare(text)
    sources = re.findall(r"https://(\S+)", text)
    assert sources
    assert [source for source in sources if source not in PAGE_FOR_NGINX] == []
    assert f'"{path.name}"' in (ROOT / "tests/edge/test_run_examples.py").read_text()


def test_the_page_for_nginx_has_no_other_example() -> None:
    named = re.findall(r"^\.IR (\S+\.toml) :", PAGE_FOR_NGINX, re.MULTILINE)
    assert sorted(named) == [path.name for path in REWRITTEN]


def test_what_directives_become_exists() -> None:
    tables = re.findall(r"^_\n(.*?)^\.TE", PAGE_FOR_NGINX, re.DOTALL | re.MULTILINE)
    named = {
        word
        for table in tables
        for word in re.findall(r"\\fB([a-z-]+)(?: = [^\\]*)?\\fP", table.replace(r"\-", "-"))
    }
    assert len(named) > 20
    assert named - {key for _, key in config_keys()} == {"drain"}


@pytest.mark.parametrize("level", logs.NAMES)
def test_level_is_in_the_manual(level: str) -> None:
    assert re.search(rf"^\d\t{level}\t", section("udp-proxy.8", "LOGGING"), re.MULTILINE)


def test_commands_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(each for page in PAGES for each in _code(page.read_text("utf-8")))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", code))
    assert {"run", "test", "check", "test-long", "weather"} <= named <= targets


def _code(markdown: str) -> list[str]:
    blocks = re.findall(r"^```.*?^```", markdown, re.DOTALL | re.MULTILINE)
    return blocks + re.findall(
        r"`[^`\n]+`", re.sub(r"^```.*?^```", "", markdown, flags=re.S | re.M)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_a_page_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    named = set(
        re.findall(r"(?<![\w/.])[a-z]+(?:/[\w.-]+)+\.(?:py|pyx|pxi|c|h)\b", "\n".join(_code(text)))
    )
    for name in named:
        assert (ROOT / "service" / "udpproxy" / name).exists() or (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_smallest_configuration_of_the_readme_is_right() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert load.parse(text, "README.md").warnings == ()


def test_a_flood_is_counted_where_the_manual_says() -> None:
    """The very counters with which tests/edge/test_run_flood.py finds every datagram again."""
    text = (ROOT / "man/udp-proxy.8").read_text()
    _, _, section = text.partition(".SS Where a datagram of a flood is counted")
    table = section.partition("_\n")[2].partition(".TE")[0]
    named = {line.split("\t")[0] for line in table.splitlines()}
    source = (ROOT / "tests/edge/test_run_flood.py").read_text()
    counted = re.search(r"^_WHERE = \((.*?)^\)", source, re.DOTALL | re.MULTILINE)
    assert counted
    assert named == set(re.findall(r'"(.*?)"', counted[1]))


@pytest.mark.parametrize("where", ["README.md", "udp-proxy.8", "udp-proxy-units.7"])
def test_it_is_said_where_refusals_and_records_are(where: str) -> None:
    """They are the relay's, and `journalctl -u udp-proxy@NAME` shows the parent's lines only."""
    text = README if where == "README.md" else plain(where)
    for words in ("-f", "UDP_PROXY_ID=UDPP-821-I", "UDP_PROXY_ID=UDPP-888-I"):
        assert f"journalctl -u 'udp-proxy*@dns.service' {words}" in text
    assert "only" in text[text.index("journalctl -u udp-proxy@dns") :][:300]
