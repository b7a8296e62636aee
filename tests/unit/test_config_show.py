"""What is shown reads back as the same Config."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udpproxy.config.model import Address, Log, Name, NameServer, Network, Ports, Rate, Resolver
from udpproxy.config.sections import FACILITIES
from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import (
    CLIENTS_PORT,
    Config,
    Destination,
    ExtensionName,
    Limits,
    Listen,
    Pattern,
    Rule,
    Server,
    SessionType,
)
from udpproxy.proxy.config.periods import period
from udpproxy.proxy.config.show import render, words

T = TypeVar("T")

MAPPED = IPv6Network("::ffff:0:0/96")
V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(IPv6Address).filter(lambda address: address not in MAPPED)
ADDRESSES: st.SearchStrategy[Address] = st.one_of(V4, V6)
PORT = st.integers(1, 65535)

SOURCES: st.SearchStrategy[tuple[Address | None, ...]] = st.just(()) | st.lists(
    st.sampled_from([ip_address("192.0.2.1"), ip_address("fe80::1%eth0")]), unique=True
).map(lambda some: (None, *some))  # of whichever family the server is


def _only(port: int) -> Ports:
    return Ports(first=port, last=port)


PORTS = st.tuples(PORT, PORT).map(lambda pair: Ports(first=min(pair), last=max(pair)))
SECONDS = st.one_of(
    st.sampled_from([0.0, 60.0, 90.0, 3600.0, 86400.0, 0.5, 1e-7]),
    st.floats(0, 1e9),
    st.integers(0, 10**9).map(float),
)
POSITIVE = SECONDS.filter(bool)
COUNT = st.integers(0, 2**63 - 1)
WORDS = st.text(max_size=20).filter(str.isprintable)
LABELS = WORDS.filter(lambda word: bool(word.strip()) and word == word.strip() and word != "-")
PATHS = WORDS.map(lambda word: f"/{word}x")
PERIODS = st.sampled_from(
    ["mon-fri 08:00-16:30", "24. dec - 6. jan", " SAT\t,sun\n", "22:00-06:00"]
).map(period)


def network(address: Address, prefix: int) -> Network:
    return ip_network(f"{address}/{prefix % (address.max_prefixlen + 1)}", strict=False)


NETWORKS = st.builds(network, ADDRESSES, st.integers(0, 128)).filter(
    lambda found: found.version == 4 or found.network_address not in MAPPED
)
NAMES = st.sampled_from(["ns", "ns.example.org", "ns.example.org.", "_a-b.c"]).map(Name)
PATTERNS = st.sampled_from(["org", "example.org"]).map(Pattern)
DESTINATIONS = st.builds(
    Destination, host=st.none() | NETWORKS | NAMES, ports=st.none() | PORTS
).filter(lambda item: item.host is not None or item.ports is not None)
RATES = st.just(Rate()) | st.builds(
    Rate, count=st.integers(1, 10**6), unit=st.sampled_from(["s", "min", "h"])
)
LIMITS = st.builds(
    Limits,
    idle=SECONDS,
    lifetime=SECONDS,
    upload_datagrams=COUNT,
    download_datagrams=COUNT,
    upload_bytes=COUNT,
    download_bytes=COUNT,
    new_sessions_per_client=RATES,
    datagrams_per_client=RATES,
)
EVERYWHERE = IPv4Address("255.255.255.255")
HOSTS = ADDRESSES.filter(
    lambda address: (
        not (
            address.is_unspecified
            or address.is_multicast
            or address.is_loopback  # we listen there
            or address == EVERYWHERE
        )
    )
)


def some(items: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(items, min_size=1, max_size=3).map(tuple)


EXTENSIONS = st.builds(
    ExtensionName,
    module=st.sampled_from(["module", "some_package.module"]),
    attribute=st.sampled_from(["Class", "_Other1"]),
    path=st.just(()),
    line=st.just(0),
)


@st.composite
def acls(draw: st.DrawFn) -> Rule:
    kind = draw(st.sampled_from(SessionType))
    address: Address | Name = draw(HOSTS | NAMES)
    wide: IPv4Network | None = None
    if kind is SessionType.BROADCAST:
        number = int(draw(V4)) & 0xFFFFFF00
        wide = IPv4Network((number, 24))
        address = draw(st.sampled_from([EVERYWHERE, wide.broadcast_address]))
    return Rule(
        name=draw(LABELS),
        source=draw(st.none() | some(NETWORKS | NAMES | PATTERNS)),
        destinations=draw(st.none() | some(DESTINATIONS)),
        time=draw(st.none() | some(PERIODS)),
        not_time=draw(st.none() | some(PERIODS)),
        transparent=draw(st.sampled_from([None, False, True])),
        accept=draw(st.booleans()),
        type=kind,
        server=Server(host=address, ports=draw(st.none() | PORT.map(_only))),
        sources=(sources := draw(SOURCES)),
        fallback=not sources or draw(st.booleans()),
        source_port=draw(st.sampled_from([0, CLIENTS_PORT])),
        broadcast_network=wide,
        reply_any_port=wide is not None and draw(st.booleans()),
        unreachable_close=draw(st.booleans()),
        resolve_policy=draw(st.sampled_from(["pin", "follow", "close"])),
        reload_policy=draw(st.sampled_from(["close", "follow", "keep"])),
        header=draw(st.sampled_from(["", "v2", "spp"])),
        limits=draw(LIMITS),
        extension=draw(st.none() | EXTENSIONS),
        line=0,
    )


EVERY = (ip_address("0.0.0.0"), ip_address("::"))
SENDERS = some(NETWORKS) | st.just(())
LISTENS = st.tuples(PORTS, PORTS, st.sampled_from([EVERY, EVERY[:1], EVERY[1:]]), SENDERS).map(
    lambda drawn: (
        Listen(addresses=(ip_address("127.0.0.1"),), ports=drawn[:1], header_from=drawn[3], line=0),
        Listen(addresses=(ip_address("::1"),), ports=drawn[1:2], line=0),
        Listen(addresses=(ip_address("fe80::1%eth1"),), ports=drawn[1:2], line=0),
        Listen(
            addresses=drawn[2],
            interface="eth0",
            ports=(_only(9), _only(7)),
            groups=tuple(
                group
                for group in (ip_address("224.0.0.251"), ip_address("ff02::fb"))
                if group.version in {address.version for address in drawn[2]}
            ),
            line=0,
        ),
    )
)
NAME_SERVERS = st.builds(NameServer, address=HOSTS, port=st.just(53) | PORT)


@st.composite
def resolvers(draw: st.DrawFn) -> Resolver:
    shortest, longest = sorted([draw(SECONDS), draw(SECONDS)])
    return Resolver(
        servers=draw(some(NAME_SERVERS)),
        search=draw(st.sampled_from([(), ("example.org", "localdomain")])),
        conf_timeout=draw(POSITIVE),
        attempts=draw(st.integers(1, 100)),
        min_ttl=shortest,
        max_ttl=longest,
        stale=draw(SECONDS),
    )


@st.composite
def logs(draw: st.DrawFn) -> Log:
    target = draw(st.sampled_from(["auto", "file"]))
    return Log(
        level=draw(st.integers(3, 9)),
        target=target,
        file=draw(PATHS) if target == "file" else None,
        facility=draw(st.sampled_from(FACILITIES)),
        records=draw(st.just("same") | PATHS),
    )


CONFIGS = st.builds(
    Config,
    max_sessions=PORT,
    listen=LISTENS,
    rules=st.lists(acls(), max_size=3, unique_by=lambda acl: acl.name).map(tuple),
    max_sessions_per_client=st.integers(0, 1_000_000),
    client_prefix6=st.integers(1, 128),
    new_sessions=RATES,
    evict_idlest=st.booleans(),
    singleproc=st.booleans(),
    engine=st.sampled_from(["auto", "python"]),
    segmentation=st.sampled_from(["auto", "off"]),
    use_all_ports=st.booleans(),
    stop_timeout=POSITIVE,
    crash_limit=st.integers(1, 1000),
    crash_window=POSITIVE,
    stop_on_child_death=st.booleans(),
    user=st.none() | st.just("proxy"),
    group=st.none() | st.just("#990"),
    tag=WORDS,
    resolver=resolvers(),
    log=logs(),
)


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(config=CONFIGS, defaults=st.booleans())
def test_what_is_shown_reads_back(config: Config, *, defaults: bool) -> None:
    # No ephemeral ports: the ranges drawn here may lie anywhere.
    assert parse(render(config, defaults=defaults), "shown", ephemeral=(0, 0)) == config


SMALL = """max-sessions = 5

[[listen]]
address = "::1"
port = "5060-5062"

[[session-acl]]
name = "a"
from = ["10.0.0.1", "2001:db8::/32"]
to = [":53", "[::1]:1-9"]
plug-to = "[::2]"

[session-acl.limits]
idle = "90s"
lifetime = 0.5

[[session-acl]]
name = "b"
action = "deny"
"""


def test_without_defaults_only_what_differs() -> None:
    assert render(parse(SMALL, "small"), defaults=False) == SMALL


def test_with_defaults_every_key_that_has_one() -> None:
    shown = render(parse(SMALL, "small"), defaults=True)
    for line in ('overflow = "refuse"', 'on-child-death = "restart"', 'stale = "1h"', "level = 6"):
        assert f"\n{line}\n" in shown
    assert 'max-ttl = "1d"' in shown
    assert "reply-port" not in shown
    assert "user" not in shown


def test_limits_for_people() -> None:
    assert words(Limits()) == "idle 1m"
    assert words(Limits(idle=0.0)) == "none"
    limits = Limits(idle=0.5, lifetime=3600.0, upload_datagrams=1, download_bytes=70000)
    assert words(limits) == "idle 0.5, lifetime 1h, upload-datagrams 1, download-bytes 70000"
    limits = Limits(idle=0, new_sessions_per_client=Rate(600, "min"), amplification=10)
    assert words(limits) == "new-sessions-per-client 600/min, amplification 10"


NAMED = """max-sessions = 5

[[listen]]
address = "::1"
port = 53

[[session-acl]]
name = "a"
from = ["ns.example.org", "*.example.org", "10.0.0.0/8"]
to = ["gw.example.org:53", "gw.example.org"]
plug-to = "ns.example.org:53"
resolve-policy = "follow"
extension = "some.module:Class"

[[session-acl]]
name = "b"
plug-to = "ns.example.org."
"""


def test_names_as_they_were_written() -> None:
    assert render(parse(NAMED, "named"), defaults=False) == NAMED


@pytest.mark.parametrize("where", ["", 'address = "::"\n', 'interface = "eth0"\nversion = 4\n'])
def test_a_transparent_listener(where: str) -> None:
    text = f"max-sessions = 1\n[[listen]]\n{where}port = [5, 7]\ntransparent = true\n"
    config = parse(text, "test.toml")
    shown = render(config, defaults=False)
    assert f"[[listen]]\n{where}port = [5, 7]\ntransparent = true\n" in shown
    assert parse(shown, "shown") == replace(config, warnings=parse(shown, "shown").warnings)
