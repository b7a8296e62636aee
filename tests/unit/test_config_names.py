"""Which names a configuration has, and which processes they need."""

from __future__ import annotations

import pytest

from udpproxy.proxy.config.check import unprobed
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.config.names import (
    looks_up,
    names,
    needed,
    patterns,
    probed,
    rules_with,
    server_names,
)

HEAD = 'max-sessions = 10\n[[listen]]\naddress = "127.0.0.1"\nport = 53\n'


def config(*acls: str) -> Config:
    rules = (f'[[session-acl]]\nname = "{i}"\n{acl}\n' for i, acl in enumerate(acls, 1))
    return parse(HEAD + "".join(rules), "test.toml")


PLAIN = 'from = ["10.0.0.1"]\nto = [":53"]\nplug-to = "192.0.2.1"'
SERVER = 'plug-to = "Srv.Test:53"'
FROM = 'from = ["10.0.0.0/8", "a.test"]\nto = ["b.test:53", "127.0.0.1"]\nplug-to = "192.0.2.1"'
PATTERN = 'from = ["*.lab.test", "10.0.0.0/8", "*.lab.test"]\nplug-to = "192.0.2.1"'
DENIED = 'action = "deny"\nfrom = ["a.test"]\nplug-to = "srv.test"'


@pytest.mark.parametrize(
    ("acls", "wanted", "roles"),
    [
        ([], (), ()),
        ([PLAIN], (), ()),
        ([SERVER], ("srv.test",), ("acr", "apr")),
        ([FROM], ("a.test", "b.test"), ("acr",)),
        ([FROM, SERVER, SERVER], ("a.test", "b.test", "srv.test"), ("acr", "apr")),
        ([PATTERN], (), ("apr",)),
        ([DENIED], ("a.test",), ("acr",)),
        (['action = "deny"\nplug-to = "srv.test"'], (), ()),
    ],
)
def test_names_and_who_resolves_them(
    acls: list[str], wanted: tuple[str, ...], roles: tuple[str, ...]
) -> None:
    given = config(*acls)
    assert names(given) == wanted
    assert needed(given) == roles


def test_rules_and_patterns() -> None:
    given = config(PLAIN, FROM, PATTERN, DENIED, SERVER)
    assert rules_with(given, "a.test") == ("2", "4")
    assert rules_with(given, "srv.test") == ("5",)
    assert rules_with(given, "none.test") == ()
    assert patterns(given) == ("*.lab.test",)
    assert [server_names(acl) for acl in given.rules] == [(), (), (), (), ("srv.test",)]


GROUP = """
[[servers]]
name = "{}"
members = [{}]
[servers.health]
{}
"""
PROBE = 'probe = { ntp = true, interval = "5s" }'


@pytest.mark.parametrize(
    ("acl", "group", "roles", "asked"),
    [
        ('plug-to = "@dns"', ("dns", '"192.0.2.1:53"', PROBE), ("acr",), ["dns"]),
        ('plug-to = "@dns"', ("dns", '"192.0.2.1:53"', "fall = 2"), (), []),
        ('plug-to = "@dns"', ("dns", '"a.test:53"', PROBE), ("acr", "apr"), ["dns"]),
        ('plug-to = "192.0.2.1"', ("dns", '"a.test:53"', PROBE), (), []),
        ('action = "deny"\nplug-to = "@dns"', ("dns", '"192.0.2.1:53"', PROBE), (), []),
    ],
)
def test_who_probes(
    acl: str, group: tuple[str, str, str], roles: tuple[str, ...], asked: list[str]
) -> None:
    rules = f'[[session-acl]]\nname = "one"\n{acl}\n'
    for single in (False, True):
        top = f"singleproc = {str(single).lower()}\n"
        given = parse(top + HEAD + rules + GROUP.format(*group), "test.toml")
        assert needed(given) == roles
        assert [one.name for one in probed(given)] == asked
        assert bool(unprobed(given)) == bool(asked)
        assert any("sends no probes" in one for one in given.warnings) == (single and bool(asked))
        assert looks_up(given) == ("apr" in roles)
