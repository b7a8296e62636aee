"""What `udp-proxy transparent` prints: for what is taken, and for what is written as the client."""

from __future__ import annotations

import pytest

from udpproxy.proxy.config import firewall
from udpproxy.proxy.config.load import parse

HEAD = "max-sessions = 10\n"
TAKES = '[[listen]]\ninterface = "eth0"\ntransparent = true\nport = [53, "5060-5061"]\n'
LISTENS = '[[listen]]\naddress = "0.0.0.0"\nport = 53\n'
CLIENT = 'source-address = ["client"]\nplug-to = "192.0.2.1:53"\n'


def printed(text: str) -> str:
    return firewall.rules(parse(HEAD + text, "test.toml"), "sip")


def acl(name: str, more: str) -> str:
    return f'[[session-acl]]\nname = "{name}"\n{more}'


def test_nothing_is_said_to_be_nothing() -> None:
    text = printed(LISTENS + acl("x", 'plug-to = "192.0.2.1:53"\n'))
    assert text.startswith("# Nothing: no listener is transparent")
    denied = printed(LISTENS + acl("x", CLIENT + 'action = "deny"\n'))
    assert denied.startswith("# Nothing")


def test_what_is_taken() -> None:
    lines = printed(TAKES + acl("x", "transparent = true\n")).splitlines()
    taking = [line.strip() for line in lines if "tproxy" in line]
    assert [line.partition(" meta mark")[0] for line in taking] == [
        f'iifname "eth0" meta nfproto {family} fib daddr type unicast '
        f"udp dport {{ 53, 5060-5061 }} tproxy {to}"
        for family, to in (("ipv4", "ip to 127.0.0.1"), ("ipv6", "ip6 to [::1]"))
    ]
    assert "delete table inet udp-proxy-sip" in lines
    assert not any("chain output" in line for line in lines)
    assert lines[-4:] == firewall.routes()
    assert lines[-1] == "ip -6 route replace local default dev lo table 7571"


@pytest.mark.parametrize(
    ("rules", "ipv4", "ipv6"),
    [
        (['from = ["10.1.0.0/16"]\n'], "ip saddr != { 10.1.0.0/16 } ", ""),
        (
            ['from = ["10.1.0.0/16", "fd01::/64"]\n', 'from = ["10.1.0.0/16", "10.2.0.1"]\n'],
            "ip saddr != { 10.1.0.0/16, 10.2.0.1/32 } ",
            "ip6 saddr != { fd01::/64 } ",
        ),
        (['from = ["10.1.0.0/16"]\n', ""], None, None),
        (['from = ["pc.example.org"]\n'], None, None),
    ],
)
def test_whoever_writes_is_held_to_the_clients(
    rules: list[str], ipv4: str | None, ipv6: str | None
) -> None:
    text = LISTENS + "".join(acl(str(number), CLIENT + more) for number, more in enumerate(rules))
    lines = printed(text).splitlines()
    for version, some in (("ipv4", ipv4), ("ipv6", ipv6)):
        start = f"        meta nfproto {version} meta mark & 0xffff0000 == 0x75700000 "
        if some is None:
            assert not any(line.startswith(start) for line in lines)
            family = "ip" if version == "ipv4" else "ip6"
            said = f"        # {family}: a rule has clients that are not all given as addresses"
            assert said in lines
        else:
            assert f"{start}{some}fib saddr type != local drop" in lines
