"""What `check` and the start say of `source-port` beside the rest of the file."""

from __future__ import annotations

from datetime import datetime

import pytest

from udpproxy.errors import ConfigError
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import CLIENTS_PORT
from udpproxy.proxy.config.show import render
from udpproxy.proxy.policy import explain
from udpproxy.proxy.policy.rules import Unresolved

LOW = "may not write from ports below 1024"
ALONE = "so there is one at a time"
OWN = "the proxy itself has port"


TWO = '[[servers]]\nname = "two"\nmembers = ["192.0.2.1:53", "192.0.2.2:53"]'


def text(keys: str, address: str = "127.0.0.1", port: str = "5353") -> str:
    """A rule with these keys, and one listener."""
    return f"""max-sessions = 10
[[listen]]
address = "{address}"
port = {port}
{TWO if "@two" in keys else ""}
[[session-acl]]
name = "all"
{keys}
"""


def warnings(keys: str, address: str = "127.0.0.1", port: str = "5353") -> str:
    return "\n".join(parse(text(keys, address, port), "test.toml").warnings)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('plug-to = "192.0.2.1:53"\nsource-port = "client"', []),
        ('plug-to = "192.0.2.1:53"\nsource-port = 2000', [ALONE]),
        ('plug-to = "192.0.2.1:53"\nsource-port = 1023', [LOW, ALONE]),
        ('plug-to = "192.0.2.1:53"\nsource-port = 1024', [ALONE]),
        ('plug-to = "192.0.2.1"\nsource-port = 2000', []),
        ('plug-to = "ns.test:53"\nsource-port = 2000', [ALONE]),
        ('plug-to = "192.0.2.1"\nsource-port = 2000\ntype = "any-port"', [ALONE]),
        (
            'plug-to = "192.0.2.1:53"\nsource-port = 2000\n'
            'source-address = ["192.0.2.8", "192.0.2.9"]',
            [],
        ),
        (
            'plug-to = "192.0.2.1:53"\nsource-port = 2000\nsource-address = ["192.0.2.8", "::2"]',
            [ALONE],
        ),
        (
            'plug-to = "192.0.2.1:53"\nsource-port = 2000\nsource-address = ["client"]',
            [],
        ),
        ('plug-to = "192.0.2.1:53"\nsource-port = 1\naction = "deny"', []),
        ('plug-to = "@two"\nsource-port = 2000', []),
        ('plug-to = "@two"\nsource-port = 2000\ntype = "any-sock"', [ALONE]),
    ],
)
def test_what_surprises(keys: str, expected: list[str]) -> None:
    said = warnings(keys)
    assert [what for what in (LOW, ALONE, OWN) if what in said] == expected


def test_several_ports_of_a_server_are_several_servers() -> None:
    keys = 'plug-to = "192.0.2.1:5000-5001"\nsource-port = 2000'
    assert warnings(keys, port='"6000-6001"') == ""


def test_any_server_is_many() -> None:
    keys = "transparent = true\nsource-port = 2000"
    listening = text(keys, port="7\ntransparent = true").replace('address = "127.0.0.1"\n', "")
    assert parse(listening, "test.toml").warnings == ()


@pytest.mark.parametrize(
    ("address", "sources", "wrong"),
    [
        ("127.0.0.1", "", True),
        ("0.0.0.0", "", True),
        ("::1", "", None),
        ("::", "", None),
        ("192.0.2.8", '["192.0.2.8"]', True),
        ("192.0.2.8", '["192.0.2.9"]', None),
        ("0.0.0.0", '["192.0.2.9"]', True),
        ("192.0.2.8", '["192.0.2.8", "192.0.2.9"]', False),
        ("192.0.2.8", '["client"]', None),
        ("0.0.0.0", '["client"]', True),
    ],
)
def test_a_port_that_the_proxy_listens_on(address: str, sources: str, wrong: bool | None) -> None:  # noqa: FBT001
    keys = 'plug-to = "192.0.2.1:53"\nsource-port = 5353'
    keys += f"\nsource-address = {sources}" if sources else ""
    if wrong:
        with pytest.raises(ConfigError, match=f"{OWN} 5353: see line 2"):
            parse(text(keys, address), "test.toml")
        return
    assert (OWN in warnings(keys, address)) is (wrong is False)


def test_with_a_name_nobody_knows_the_family() -> None:
    assert OWN in warnings('plug-to = "ns.test:53"\nsource-port = 5353', "::1")


@pytest.mark.parametrize(("written", "told"), [("2000", "2000"), ('"client"', "the client's")])
def test_it_is_explained(written: str, told: str) -> None:
    config = parse(text(f'plug-to = "192.0.2.1:53"\nsource-port = {written}'), "test.toml")
    asked = explain.question(config, "192.0.2.9", "127.0.0.1:5353", lambda address: False)
    found = explain.explanation(config, asked, datetime(2030, 1, 1), Unresolved())
    assert f"source-port: {told}" in found.lines()
    config = parse(text('plug-to = "192.0.2.1:53"'), "test.toml")
    found = explain.explanation(config, asked, datetime(2030, 1, 1), Unresolved())
    assert "source-port" not in found.parts()


def test_it_is_shown_as_it_was_written() -> None:
    for written, read in (("2000", 2000), ('"client"', CLIENTS_PORT)):
        keys = f'plug-to = "192.0.2.1:53"\nsource-port = {written}'
        config = parse(text(keys), "test.toml")
        assert config.rules[0].source_port == read
        assert f"source-port = {written}\n" in render(config, defaults=False)
    assert "source-port" not in render(parse(text('plug-to = "[::1]:9"'), "t"), defaults=True)
