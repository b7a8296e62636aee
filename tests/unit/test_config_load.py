"""Whole files: the smallest, the largest, and every mistake with its line and key."""

from __future__ import annotations

import grp
import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpproxy.config import reading
from udpproxy.config.model import Log, Name, NameServer, Ports, Rate, Resolver
from udpproxy.errors import ConfigError
from udpproxy.proxy.config import here, load
from udpproxy.proxy.config.model import (
    KEEP,
    Config,
    Destination,
    ExtensionName,
    Limits,
    Listen,
    Rule,
    Server,
    SessionType,
)
from udpproxy.proxy.config.periods import period

SMALLEST = """max-sessions = 1000
[[listen]]
address = "127.0.0.1"
port = 5353
[[session-acl]]
name = "local"
from = ["127.0.0.0/8"]
plug-to = "127.0.0.1:53"
"""

LARGEST = """
max-sessions = 500
max-sessions-per-client = 1000
client-prefix6 = 56
new-sessions = "50000/s"
overflow = "evict-idlest"
singleproc = true
workers = 1
engine = "python"
stop-timeout = "5s"
crash-limit = 3
crash-window = "2m"
on-child-death = "stop"
segmentation = "off"
use-all-ports = true
user = "proxy"
group = "#990"
tag = "inside"
[limits]
idle = "5m"
upload-datagrams = 4
new-sessions-per-client = "20/s"
datagrams-per-client = "600/min"
amplification = 10
[[listen]]
address = "[::]"
port = "5060-5062"
transparent = false
version = 6
[[session-acl]]
name = "first"
from = ["10.0.0.0/8", "2001:db8::1"]
to = [":5060-5061", "2001:db8::/32"]
transparent = false
time = ["mon-fri 08:00-16:30"]
not-time = ["24.-26. dec"]
type = "any-port"
plug-to = "[2001:db8::2]"
source-address = ["client", "2001:db8::7", "no-fallback"]
unreachable = "close"
resolve-policy = "follow"
reload-policy = "keep"
mirror-to = ["192.0.2.7", "[fe80::1%eth0]:162"]
dscp = "keep"
extension = "some.module:Class"
limits = { lifetime = "1h", upload-bytes = "64k", download-bytes = 10, download-datagrams = 0 }
[[session-acl]]
name = "second"
action = "deny"
[resolver]
servers = ["192.0.2.53", "[2001:db8::53]:5353"]
search = ["example.org"]
conf-timeout = 20
initial-timeout = 2
timeout = 3
attempts = 4
tcp-connect-timeout = 5
min-ttl = 6
max-ttl = 7
retry = 8
negative-ttl = 9
stale = 10
[log]
level = "debug"
target = "file"
file = "/var/log/x"
facility = "local0"
records = "/var/log/records"
"""


def mistakes(text: str, ephemeral: tuple[int, int] = load.EPHEMERAL) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load.parse(text, "test.toml", ephemeral=ephemeral)
    return [(problem.line, problem.key, problem.text) for problem in caught.value.problems]


def mistake(text: str) -> str:
    """The only mistake, without its line."""
    ((_, key, told),) = mistakes(text)
    return f"{key}: {told}"


def with_acl(keys: str) -> str:
    """The smallest file with these keys in its ACL; a key given here replaces its own."""
    kept = [
        line
        for line in SMALLEST.splitlines()
        if not line.startswith("plug-to") or "plug-to" not in keys
    ]
    return "\n".join([*kept, keys, ""])


def with_top(keys: str) -> str:
    return keys + "\n" + SMALLEST


def test_the_smallest_file() -> None:
    config = load.parse(SMALLEST, "test.toml")
    assert config == Config(
        max_sessions=1000,
        listen=(
            Listen(
                addresses=(ip_address("127.0.0.1"),),
                ports=(Ports(first=5353, last=5353),),
                line=2,
            ),
        ),
        rules=(
            Rule(
                name="local",
                source=(ip_network("127.0.0.0/8"),),
                destinations=None,
                time=None,
                not_time=None,
                transparent=None,
                accept=True,
                type=SessionType.NORMAL,
                server=Server(host=ip_address("127.0.0.1"), ports=Ports(first=53, last=53)),
                sources=(),
                fallback=True,
                broadcast_network=None,
                reply_any_port=False,
                unreachable_close=False,
                resolve_policy="pin",
                reload_policy="close",
                limits=Limits(),
                extension=None,
                line=5,
            ),
        ),
    )
    assert (config.listen[0].line, config.rules[0].line, config.warnings) == (2, 5, ())


def test_every_key() -> None:
    config = load.parse(LARGEST, "test.toml")
    first, second = config.rules
    assert config == Config(
        max_sessions=500,
        max_sessions_per_client=1000,
        client_prefix6=56,
        new_sessions=Rate(50_000),
        evict_idlest=True,
        singleproc=True,
        engine="python",
        stop_timeout=5.0,
        crash_limit=3,
        crash_window=120.0,
        stop_on_child_death=True,
        segmentation="off",
        use_all_ports=True,
        user="proxy",
        group="#990",
        tag="inside",
        listen=(
            Listen(addresses=(ip_address("::"),), ports=(Ports(first=5060, last=5062),), line=0),
        ),
        rules=(first, second),
        resolver=Resolver(
            servers=(
                NameServer(address=ip_address("192.0.2.53")),
                NameServer(address=ip_address("2001:db8::53"), port=5353),
            ),
            search=("example.org",),
            conf_timeout=20.0,
            initial_timeout=2.0,
            timeout=3.0,
            attempts=4,
            tcp_connect_timeout=5.0,
            min_ttl=6.0,
            max_ttl=7.0,
            retry=8.0,
            negative_ttl=9.0,
            stale=10.0,
        ),
        log=Log(
            level=7, target="file", file="/var/log/x", facility="local0", records="/var/log/records"
        ),
    )
    assert first == Rule(
        name="first",
        source=(ip_network("10.0.0.0/8"), ip_network("2001:db8::1")),
        destinations=(
            Destination(host=None, ports=Ports(first=5060, last=5061)),
            Destination(host=ip_network("2001:db8::/32"), ports=None),
        ),
        time=(period("mon-fri 08:00-16:30"),),
        not_time=(period("24.-26. dec"),),
        transparent=False,
        accept=True,
        type=SessionType.ANY_PORT,
        server=Server(host=ip_address("2001:db8::2"), ports=None),
        sources=(None, ip_address("2001:db8::7")),
        fallback=False,
        broadcast_network=None,
        reply_any_port=False,
        unreachable_close=True,
        resolve_policy="follow",
        reload_policy="keep",
        mirrors=(
            Server(host=ip_address("192.0.2.7"), ports=None),
            Server(host=ip_address("fe80::1%eth0"), ports=Ports(first=162, last=162)),
        ),
        dscp=KEEP,
        limits=Limits(
            idle=300.0,
            lifetime=3600.0,
            upload_datagrams=4,
            upload_bytes=65536,
            download_bytes=10,
            new_sessions_per_client=Rate(20),
            datagrams_per_client=Rate(600, "min"),
            amplification=10,
        ),
        extension=ExtensionName(module="some.module", attribute="Class", path=(), line=0),
        line=0,
    )
    assert first.extension is not None
    assert first.extension.path == ("session-acl", 0, "extension")
    assert LARGEST.splitlines()[first.extension.line - 1].startswith("extension = ")
    assert (second.accept, second.server, second.limits.idle) == (False, None, 300.0)


TEN_MISTAKES = """max-session = 1000
max-sessions = 0
[[listen]]
address = "127.0.0.1"
port = 99999
[limits]
idle = "never"
[[session-acl]]
name = "first"
from = [
  "10.0.0.0/8",   # right
  "10.0.0.1/8",
]
plug-to = "127.0.0.1:53"
[[session-acl]]
name = "first"
action = "permit"
time = ["mon-fri 8-16"]
[log]
level = 10
target = "file"
"""


def test_ten_mistakes_are_ten_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        load.parse(TEN_MISTAKES, "ten.toml")
    lines = str(caught.value).splitlines()
    assert [tuple(line.split(": ")[:2]) for line in lines] == [
        ("ten.toml:1", "max-session"),
        ("ten.toml:2", "max-sessions"),
        ("ten.toml:5", "listen[1].port"),
        ("ten.toml:7", "limits.idle"),
        ("ten.toml:12", "session-acl[1].from[2]"),
        ("ten.toml:16", "session-acl[2].name"),
        ("ten.toml:17", "session-acl[2].action"),
        ("ten.toml:18", "session-acl[2].time[1]"),
        ("ten.toml:19", "log.file"),
        ("ten.toml:20", "log.level"),
    ]
    assert lines[0].endswith("unknown key; did you mean max-sessions?")


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a = 1\nb = \n", 2, "Invalid value (column 5)"),
        ("a = 1\n\nb = [", 3, "at the end of the file"),
        ("a = 1\na = 2", 2, "Cannot overwrite a value"),
        ("a = " + "1" * 5000, 0, "4300 digits"),
        ("a = " + "[" * 5000, 0, "values are nested too deeply"),
    ],
)
def test_what_is_not_toml(text: str, line: int, told: str) -> None:
    ((found, key, words),) = mistakes(text)
    assert (found, key) == (line, "TOML")
    assert told in words


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALLEST.replace("max-sessions = 1000", ""), "max-sessions: must be given"),
        (SMALLEST.replace("1000", "0"), "max-sessions: expected a number from 1 to 1000000"),
        (SMALLEST.replace("1000", "1000001"), "max-sessions: expected a number from 1 to 1000000"),
        (SMALLEST.replace("1000", '"1k"'), "max-sessions: expected a number from 1 to 1000000"),
        (with_top("max-sessions-per-client = -1"), "max-sessions-per-client: expected a number"),
        (with_top('overflow = "drop"'), 'overflow: expected one of "refuse", "evict-idlest"'),
        (with_top("singleproc = 1"), "singleproc: expected true or false, found 1"),
        (
            with_top('workers = 2\nengine = "python"'),
            'workers: more than one needs the native engine: engine is "python"',
        ),
        (with_top("workers = 0"), "workers: expected a number from 1 to 64"),
        (with_top('engine = "fast"'), 'engine: expected one of "auto", "native", "python"'),
        (with_top('segmentation = "on"'), 'segmentation: expected one of "auto", "off"'),
        (with_top("stop-timeout = 0"), "stop-timeout: expected a duration longer than 0"),
        (with_top("crash-limit = 0"), "crash-limit: expected a number from 1 to 1000"),
        (with_top('on-child-death = "x"'), 'on-child-death: expected one of "restart", "stop"'),
        (with_top('user = ""'), "user: expected a name or a number"),
        (with_top('tag = "a\\nb"'), "tag: expected at most 256 printable characters"),
        (with_top("limits = 5"), "limits: expected a table, found 5"),
        (with_top("resolver = []"), "resolver: expected a table, found a list"),
        (with_top('"a\\nb" = 1'), '"a\\nb": unknown key'),
        (with_top("session_acl = 1"), "session_acl: unknown key; did you mean session-acl?"),
        (with_top("acl = 1"), "acl: unknown key; did you mean session-acl?"),
        ("max-sessions = 1", "listen: at least one [[listen]] must be given"),
        ("max-sessions = 1\nlisten = []", "listen: at least one [[listen]] must be given"),
        ("max-sessions = 1\n[listen]\nport = 1", "listen: expected a list of tables: write [[lis"),
        ("max-sessions = 1\nlisten = [1]", "listen[1]: expected a table: write [[listen]]"),
    ],
)
def test_mistakes_at_the_top(text: str, told: str) -> None:
    assert mistake(text).startswith(told)


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        ("port = 1", "listen[1].address: must be given"),
        ('address = "::1"', "listen[1].port: must be given"),
        ('address = "::1"\ninterface = "eth0"\nport = 1', "an address or an interface, not both"),
        ('interface = "eth 0"\nport = 1', '"eth 0" is no interface\'s name: expected one such as'),
        ('interface = "7"\nport = 1', '"7" is a number: give the interface\'s name, such as eth0'),
        ('interface = "a-name-too-long0"\nport = 1', "is no interface's name"),
        ('address = "fe80::7%7"\nport = 1', '"7" is a number: give the interface\'s name'),
        ('address = "::1%eth0"\nport = 1', "only a link-local IPv6 address has a zone"),
        ('address = "192.0.2.1%eth0"\nport = 1', "only a link-local IPv6 address has a zone"),
        ('address = "::1"\nport = []', "port: expected a port, a range such as"),
        ('address = "::1"\nport = [5, "4-6"]', "port: port 5 is in the list twice"),
        ('address = "::1"\nport = [5, "x"]', 'port: expected a port from 1 to 65535, found "x"'),
        ('address = "::"\nport = 1\nmulticast = ["::1"]', '"::1" is no multicast group'),
        (
            'address = "::1"\nport = 1\nmulticast = ["ff05::1"]',
            'ff05::1 is not heard on ::1: listen on an interface, or on "::"',
        ),
        (
            'address = "::"\nport = 1\nmulticast = ["ff02::fb"]',
            "ff02::fb is there on each link: say which, ff02::fb%eth0",
        ),
        (
            'interface = "eth0"\nport = 1\nmulticast = ["ff02::fb%eth0"]',
            "ff02::fb%eth0: eth0 is meant, leave the zone out",
        ),
        (
            'interface = "eth0"\nversion = 4\nport = 1\nmulticast = ["ff02::fb"]',
            "nothing of version 6 is listened on here",
        ),
        (
            'address = "::1"\nport = 1\ntransparent = true',
            "transparent: needs all addresses: leave ::1 out, or write an interface",
        ),
        ('address = "::1"\nport = 1\ntransparent = 1', "expected true or false"),
        ('address = "::1"\nport = 1\nversion = 4', "version: ::1 is of version 6, not 4"),
        ('address = "::1"\nport = 1\nversion = 5', "version: expected 4 or 6, found 5"),
        ('address = "::1"\nport = 1\nversion = "6"', 'version: expected 4 or 6, found "6"'),
        ('address = "::1"\nport = 1\nmax-sessions = 1', "it belongs at the top of the file"),
        ('address = "::1"\nport = 1\nxyz = 1', "listen[1].xyz: unknown key"),
        ('address = "*"\nport = 1', 'write "0.0.0.0" or "::" (a table each) for all of this host'),
        (
            'address = "fe80::7"\nport = 1',
            '"fe80::7" is there on each link: say which, such as fe80::7%eth0',
        ),
        ('address = "localhost"\nport = 1', '"localhost" is a name: only an address can stand'),
        ('address = "::1"\nport = "5060-40000"', "overlaps the kernel's ephemeral ports 32768-60"),
    ],
)
def test_mistakes_in_listen(listen: str, told: str) -> None:
    assert told in mistake(f"max-sessions = 1\n[[listen]]\n{listen}\n")


@pytest.mark.parametrize(
    ("ports", "reserved", "wanted"),
    [
        ("49152-49252", [(49152, 65535)], ""),
        ("16384-32768", [], "32768"),
        ("16384-32768", [(32768, 32768)], ""),
        ("40000-40010", [(40000, 40004)], "40005-40010"),
        ("40000-40010", [(40003, 40004)], "40000-40002"),
        ("40000-40010", [(40003, 40010), (1, 40002)], ""),
        ("60990-61010", [(60990, 60999)], ""),
        ("1000-2000", [], ""),
    ],
)
def test_reserved_ports_are_not_the_kernels(
    ports: str, reserved: list[tuple[int, int]], wanted: str
) -> None:
    text = SMALLEST.replace("5353", f'"{ports}"')
    if not wanted:
        load.parse(text, "test.toml", reserved=reserved)
        return
    with pytest.raises(ConfigError, match=f"reserve {wanted} with sysctl net.ipv4.ip_local_res"):
        load.parse(text, "test.toml", reserved=reserved)


def test_one_ephemeral_port_is_accepted_and_ranges_elsewhere_too() -> None:
    load.parse(SMALLEST.replace("5353", "40000"), "test.toml")
    load.parse(SMALLEST.replace("5353", '"60000-60001"'), "test.toml", ephemeral=(1024, 59999))
    assert mistakes(SMALLEST.replace("5353", '"60000-60001"'), ephemeral=(60001, 65535))


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (("127.0.0.1", "53"), ("127.0.0.1", "53"), True),
        (("127.0.0.1", "50-53"), ("127.0.0.1", "53-60"), True),
        (("127.0.0.1", "53"), ("0.0.0.0", "53"), True),
        (("::", "53"), ("::1", "53"), True),
        (("127.0.0.1", "53"), ("127.0.0.2", "53"), False),
        (("127.0.0.1", "53"), ("127.0.0.1", "54"), False),
        (("0.0.0.0", "53"), ("::", "53"), False),
    ],
)
def test_overlapping_listens(one: tuple[str, str], other: tuple[str, str], *, clash: bool) -> None:
    text = "max-sessions = 1\n" + "".join(
        f'[[listen]]\naddress = "{address}"\nport = "{port}"\n' for address, port in (one, other)
    )
    if clash:
        assert mistake(text).endswith(f"already listened on: see line 2 ({one[0]})")
        assert mistakes(text)[0][:2] == (5, "listen[2]")
    else:
        assert len(load.parse(text, "test.toml").listen) == 2


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("limits = 3", "limits: expected a table, found 3"),
        ("limits.idle = -1", "limits.idle: expected a duration"),
        ("limits.upload-datagrams = 1.5", "limits.upload-datagrams: expected a number from 0"),
        ('limits.download-bytes = "1T"', "limits.download-bytes: expected a size"),
        ("limits.idel = 1", "limits.idel: unknown key; did you mean idle?"),
        ("log = true", "log: unknown key; it is a table of its own: [log]"),
        ('to = "192.0.2.1"', 'to: expected a list such as ["..."], found "192.0.2.1"'),
        ("to = []", "to: the list is empty; leave the key out where anything will do"),
        ("to = [1]", "to[1]: expected text in quotes, found 1"),
        ('time = ["8-16"]', "time[1]: expected a weekday"),
        ("limits.silent = -1", "limits.silent: expected a duration"),
        (
            'type = "one-way"\nlimits.silent = 5',
            'limits.silent: has no meaning with type = "one-way"',
        ),
        (
            'type = "one-way"\nlimits.amplification = 5',
            'limits.amplification: has no meaning with type = "one-way"',
        ),
        ("limits.amplification = 2.5", "limits.amplification: expected a number from 0 to 1000000"),
        ("limits.amplification = 1000001", "expected a number from 0 to 1000000, found 1000001"),
        ("limits.new-sessions-per-client = 20", 'expected a rate such as "20/s"'),
        ('limits.datagrams-per-client = "20/sec"', 'expected a rate such as "20/s"'),
        (
            'limits.new-sessions = "20/s"',
            "limits.new-sessions: unknown key; did you mean new-sessions-per-client?",
        ),
        ('type = "tcp"\nreply-port = "any"', 'type: expected one of "normal", "one-way"'),
        ("transparent = 1", "transparent: expected true or false"),
        ('source-address = ["client", "client"]', '"client" is in the list twice'),
        ('source-address = ["0.0.0.0"]', "0.0.0.0 is no address that datagrams can come from"),
        ('source-address = ["no-fallback"]', '"no-fallback" needs an address, or "client"'),
        ('source-address = ["::1"]', "source-address: none is of version 4, as "),
        (
            f"source-address = {[str(ip_address(number + 9)) for number in range(65)]}",
            "expected at most 64 addresses, found 65",
        ),
        ('source-address = ["x y"]', 'source-address: "x y" is not an address'),
        ("source-address = []", "source-address: expected a list of"),
        ('source-address = "client"', "source-address: expected a list of"),
        ("source-port = 65536", "source-port: expected a port from 1 to 65535"),
        ("source-port = true", "source-port: expected a port from 1 to 65535"),
        ("source-port = 0", "source-port: expected a port from 1 to 65535"),
        ('source-port = "x"', 'source-port: expected "client" or a number'),
        ('unreachable = "x"', 'unreachable: expected one of "ignore", "close"'),
        ('reload-policy = "pin"', 'reload-policy: expected one of "close", "follow", "keep"'),
        ('resolve-policy = "x"', 'resolve-policy: expected one of "pin", "follow", "close"'),
        ("extension = 1", "extension: expected text in quotes, found 1"),
        ('extension = "module"', 'extension: expected "module:Class", found "module"'),
        ('extension = "../module:Class"', 'extension: expected "module:Class"'),
        ('extension = "a..b:Class"', 'extension: expected "module:Class"'),
        ('extension = "a:b.c"', 'extension: expected "module:Class"'),
        ('extension = "mödule:Class"', 'extension: expected "module:Class"'),
        (f'extension = "{"m" * 200}:C"', 'extension: expected "module:Class"'),
        ('plug-to = "ns.example.org:0"', "plug-to: expected a port from 1 to 65535"),
        ('plug-to = "*.example.org:53"', 'plug-to: "*.example.org:53" is not an address'),
        ('to = ["*.example.org"]', 'to[1]: "*.example.org" is not an address'),
        (
            'plug-to = "ns.example.org"\ntype = "broadcast"\nbroadcast-network = "10.0.0.0/8"',
            'plug-to: type = "broadcast" needs an address, found the name ns.example.org',
        ),
        ('plug-to = "x y"', 'plug-to: "x y" is not an address'),
        ('broadcast-network = "10.0.0.0/8"', 'is only used with type = "broadcast", which is "no'),
        ('reply-port = "same"', 'is only used with type = "broadcast", which is "normal"'),
        ('plug-to = "255.255.255.255:9"', 'is not one host: it needs type = "broadcast"'),
        ('plug-to = "[ff02::1]:9"', 'ff02::1 is not one host: it needs type = "broadcast"'),
        ('plug-to = "127.0.0.1:5353"', "127.0.0.1:5353 is the proxy itself: see line 2"),
        ('plug-to = "127.0.0.1"', "127.0.0.1:5353 is the proxy itself: see line 2"),
    ],
)
def test_mistakes_in_an_acl(keys: str, told: str) -> None:
    assert told in mistake(with_acl(keys))


def test_an_acl_needs_a_name_of_its_own_and_a_server() -> None:
    text = SMALLEST + "[[session-acl]]\n"
    assert mistakes(text) == [
        (9, "session-acl[2].name", "must be given"),
        (
            9,
            "session-acl[2].plug-to",
            "must be given: an ACL that accepts needs a server, but for transparent = true",
        ),
    ]
    again = SMALLEST + '[[session-acl]]\nname = "local"\naction = "deny"\n'
    assert mistakes(again) == [(10, "session-acl[2].name", '"local" is already the name of line 5')]


BROADCAST = 'type = "broadcast"\n'


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('plug-to = "10.255.255.255:9"', "broadcast-network: must be given with type"),
        ('plug-to = "255.255.255.255:9"\nbroadcast-network = "2001:db8::/32"', "IPv6 has no"),
        ('plug-to = "255.255.255.255:9"\nbroadcast-network = "10.0.0.0/31"', "has a broadcast"),
        ('plug-to = "10.0.0.1:9"\nbroadcast-network = "10.0.0.0/8"', "sends to 10.255.255.255"),
        ('plug-to = "[ff02::1]:9"\nbroadcast-network = "10.0.0.0/8"', "sends to 10.255.255.255"),
    ],
)
def test_mistakes_in_broadcasting(keys: str, told: str) -> None:
    assert told in mistake(with_acl(BROADCAST + keys))


@pytest.mark.parametrize("target", ["255.255.255.255", "10.255.255.255:9", "239.1.2.3:9"])
def test_broadcasting(target: str) -> None:
    text = with_acl(
        f'{BROADCAST}plug-to = "{target}"\nbroadcast-network = "10.0.0.0/8"\nreply-port = "any"'
    )
    (acl,) = load.parse(text, "test.toml").rules
    assert (acl.type, acl.reply_any_port) == (SessionType.BROADCAST, True)
    assert acl.broadcast_network == ip_network("10.0.0.0/8")


def test_broadcasting_without_a_server_is_one_mistake() -> None:
    text = SMALLEST.replace("plug-to", "#") + BROADCAST + 'broadcast-network = "10.0.0.0/8"\n'
    assert mistake(text).startswith("session-acl[1].plug-to: must be given")


def test_denying_leaves_the_actions_unused_but_spelt_right() -> None:
    unused = (
        'action = "deny"\nplug-to = "ns.example.org:53"\nsource-address = ["client"]\n'
        'source-port = 53\ntype = "normal"\nbroadcast-network = "10.0.0.0/8"\n'
    )
    (acl,) = load.parse(with_acl(unused), "test.toml").rules
    assert (acl.accept, acl.server) == (
        False,
        Server(host=Name("ns.example.org"), ports=Ports(first=53, last=53)),
    )
    itself = with_acl('action = "deny"\nplug-to = "127.0.0.1:5353"')
    assert load.parse(itself, "test.toml").rules[0].server is not None
    assert "source-port: expected" in mistake(with_acl('action = "deny"\nsource-port = 0'))
    assert "transparent: expected" in mistake(with_acl('action = "deny"\ntransparent = 1'))


@pytest.mark.parametrize(
    ("listens", "keys", "itself"),
    [
        (["0.0.0.0:53"], 'plug-to = "127.0.0.9:53"', "127.0.0.9:53"),
        (["0.0.0.0:53"], 'plug-to = "192.0.2.1:53"', None),
        (["0.0.0.0:53"], 'plug-to = "[::1]:53"', None),
        (["[::]:53"], 'plug-to = "[::1]:53"', "[::1]:53"),
        (["[::]:53"], 'plug-to = "127.0.0.1:53"', None),
        (["192.0.2.1:53", "192.0.2.2:54"], 'plug-to = "192.0.2.2:53"', None),
        (["192.0.2.1:53", "192.0.2.2:53"], 'plug-to = "192.0.2.2"', "192.0.2.2:53"),
        (["192.0.2.1:53", "192.0.2.2:54"], 'plug-to = "192.0.2.2"', "192.0.2.2:54"),
        # What clients may write to is what counts where the port is theirs.
        (["192.0.2.1:53", "192.0.2.2:54"], 'plug-to = "192.0.2.2"\nto = [":53"]', None),
        (["192.0.2.1:53", "192.0.2.2:54"], 'plug-to = "192.0.2.2"\nto = ["192.0.2.1"]', None),
        (
            ["192.0.2.1:53", "0.0.0.0:54"],
            'plug-to = "127.0.0.1"\nto = ["192.0.2.7"]',
            "127.0.0.1:54",
        ),
        (["192.0.2.1:53", "[::]:54"], 'plug-to = "[::1]"\nto = ["192.0.2.0/24"]', None),
    ],
)
def test_a_proxy_pointed_at_itself(listens: list[str], keys: str, itself: str | None) -> None:
    text = "max-sessions = 1\n"
    for listen in listens:
        address, _, port = listen.rpartition(":")
        text += f'[[listen]]\naddress = "{address}"\nport = {port}\n'
    text += f'[[session-acl]]\nname = "x"\n{keys}\n'
    if itself is None:
        load.parse(text, "test.toml")
    else:
        assert mistake(text).startswith(f"session-acl[1].plug-to: {itself} is the proxy itself")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[resolver]\nservers = [53]", "resolver.servers[1]: expected text"),
        ('[resolver]\nsearch = ["a b"]', "resolver.search[1]: expected a domain name"),
        ("[resolver]\nattempts = 0", "resolver.attempts: expected a number from 1 to 100"),
        ("[resolver]\ntimeout = 0", "resolver.timeout: expected a duration longer than 0"),
        ("[resolver]\nmax-ttl = 1", "resolver.max-ttl: max-ttl (1 s) is below min-ttl (5 s)"),
        ('[resolver]\nmin-ttl = "2d"', "resolver.min-ttl: max-ttl (86400 s) is below min-ttl"),
        ('[resolver]\nmin-ttl = "2d"\nmax-ttl = "x"', "resolver.max-ttl: expected a duration"),
        ("[log]\nlevel = 2", "log.level: expected a number from 3 to 9 or one of error, warning"),
        ('[log]\nlevel = "loud"', "log.level: expected a number from 3 to 9"),
        ("[log]\nlevel = true", "log.level: expected a number from 3 to 9"),
        ('[log]\ntarget = "file"', 'log.file: must be given with target = "file"'),
        ('[log]\nfile = "/x"', 'log.file: is only used with target = "file", which is "auto"'),
        ('[log]\ntarget = "x"\nfile = "/x"', "log.target: expected one of"),
        ('[log]\ntarget = "file"\nfile = "x"', "log.file: expected the absolute path of a file"),
        ('[log]\nrecords = "x"', "log.records: expected the absolute path of a file"),
        ('[log]\nfacility = "x"', "log.facility: expected one of"),
    ],
)
def test_mistakes_in_resolver_and_log(text: str, told: str) -> None:
    assert mistake(f"{SMALLEST}{text}\n").startswith(told)


@pytest.mark.parametrize(("given", "level"), [("3", 3), ("9", 9), ('"notice"', 5), ('"full"', 9)])
def test_log_levels(given: str, level: int) -> None:
    assert load.parse(f"{SMALLEST}[log]\nlevel = {given}\n", "test.toml").log.level == level


def test_empty_lists_of_the_resolver_mean_the_system() -> None:
    config = load.parse(f"{SMALLEST}[resolver]\nservers = []\nsearch = []\n", "test.toml")
    assert config.resolver == Resolver()


def test_warnings() -> None:
    text = 'max-sessions = 101\n[[listen]]\naddress = "239.0.0.1"\nport = 5\n'
    assert load.parse(text, "test.toml", ephemeral=(900, 999)).warnings == (
        "test.toml:1: max-sessions: 101 is more than 90 of the kernel's 100 ephemeral ports "
        "(900-999), the host keeps the others; sessions that get no port are refused; see "
        "use-all-ports",
        "test.toml:1: session-acl: there is none: every datagram is refused",
        "test.toml:3: listen[1].address: 239.0.0.1 is a multicast group that is "
        'not joined: add multicast = ["239.0.0.1"]',
    )


@pytest.mark.parametrize(
    ("top", "ephemeral", "ports", "warning"),
    [
        ("max-sessions = 90", (900, 999), 90, ""),
        ("max-sessions = 91", (900, 999), 90, "91 is more than 90 of the kernel's 100 ephemeral"),
        ("max-sessions = 100\nuse-all-ports = true", (900, 999), 0, ""),
        (
            "max-sessions = 101\nuse-all-ports = true",
            (900, 999),
            0,
            "101 is more than the kernel's 100 ephemeral ports (900-999); sessions that get no",
        ),
        ("max-sessions = 1", (900, 900), 1, ""),
        ("max-sessions = 25408", load.EPHEMERAL, 25408, ""),
        ('max-sessions = 101 # source-port = "client"', (900, 999), 0, ""),
    ],
)
def test_the_host_keeps_ports(
    top: str, ephemeral: tuple[int, int], ports: int, warning: str
) -> None:
    text = SMALLEST.replace("max-sessions = 1000", top) + top.partition("# ")[2]
    config = load.parse(text, "test.toml", ephemeral=ephemeral)
    assert config.ports == ports
    said = [one for one in config.warnings if "max-sessions" in one]
    assert [warning in one for one in said] == [True] * bool(warning)


FRAGMENTS = [*SMALLEST.splitlines(), *LARGEST.splitlines()]


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS)).map("\n".join)))
def test_any_text_is_a_config_or_a_list_of_mistakes(text: str) -> None:
    try:
        assert isinstance(load.parse(text, "test.toml"), Config)
    except ConfigError as error:
        assert error.problems  # noqa: PT017


VALUES = st.recursive(
    st.one_of(
        st.sampled_from(['""', '"x"', '":1"', '"1s"', "true", "1", "-1", "nan", "0x" + "f" * 9999])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]"),
        inner.map(lambda item: f"{{ a = {item} }}"),
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.sampled_from([line.split(" = ")[0] for line in FRAGMENTS if " = " in line]), VALUES)
def test_any_value_of_any_key(key: str, value: str) -> None:
    for header in ("", "[[listen]]", "[[session-acl]]", "[limits]", "[resolver]", "[log]"):
        try:
            load.parse(f"{header}\n{key} = {value}\n", "test.toml")
        except ConfigError as error:
            assert all(problem.line for problem in error.problems)  # noqa: PT017


def test_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dns.toml"
    path.write_text(SMALLEST)
    assert here.read(path) == load.parse(SMALLEST, str(path))
    ports = tmp_path / "ports"
    monkeypatch.setattr(here, "EPHEMERAL_FILE", ports)
    for unknown in (None, "", "many few\n"):
        if unknown is not None:
            ports.write_text(unknown)
        (warning,) = here.read(path).warnings
        assert (
            f"cannot read {load.EPHEMERAL_FILE}: the kernel's ephemeral ports are taken to be 327"
            in warning
        )
    reserved = tmp_path / "reserved"
    monkeypatch.setattr(here, "_RESERVED_FILE", reserved)
    ports.write_text("1000\t1099\n")
    reserved.write_text("7,1000-1009,1050,1090-2000\n")
    assert here.reserved_ports() == [(7, 7), (1000, 1009), (1050, 1050), (1090, 2000)]
    assert "the kernel's 79 ephemeral ports (1000-1099)" in here.read(path).warnings[0]
    for none in ("\n", "many\n"):
        reserved.write_text(none)
        assert here.reserved_ports() == []
    assert "100 ephemeral ports (1000-1099)" in here.read(path).warnings[0]
    first = tmp_path / "first"
    monkeypatch.setattr(here, "_FREE_FROM_FILE", first)
    for content, number in ((None, 1024), ("many\n", 1024), ("53\n", 53)):
        if content is not None:
            first.write_text(content)
        assert here.free_from() == number


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        (None, 0, "cannot be read: No such file or directory"),
        (b"#" * (2**20 + 1), 0, "is larger than 1048576 bytes"),
        (b"max-sessions = 1\n# \xff\n", 2, "is not UTF-8 text"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, content: bytes | None, line: int, told: str
) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        here.read(path)
    where = f"{path}:{line}: file" if line else str(path)
    assert str(caught.value) == f"{where}: {told}"


@pytest.mark.parametrize(
    ("mode", "mine", "told"),
    [(0o640, True, False), (0o600, True, True), (0o640, False, True), (0o644, False, False)],
)
def test_what_root_can_read_and_the_unit_cannot(
    tmp_path: Path, mode: int, *, mine: bool, told: bool
) -> None:
    path = tmp_path / "dns.toml"
    path.touch()
    path.chmod(mode)
    name = grp.getgrgid(path.stat().st_gid).gr_name
    other = next(each.gr_name for each in grp.getgrall() if each.gr_name != name)
    group = name if mine else other
    assert reading.unreadable_for(group, path, tmp_path / "elsewhere") == ""
    said = reading.unreadable_for(group, path, tmp_path)
    assert (f"chgrp {group} {path}" in said) is told
    assert reading.unreadable_for("no-such-group-here", path, tmp_path) == ""


def test_who_may_not_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may, and so the refusal is made here."""
    path = tmp_path / "dns.toml"

    def refused(*words: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    for uid, who in ((0, "root"), (4_000_123, "uid 4000123")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        with pytest.raises(ConfigError, match=f"cannot be read by {who}: Permission denied"):
            reading.read_text(path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match=r"by the user root \(chgrp root and chmod g\+r help\)"):
        reading.read_text(path, "root")


@pytest.mark.parametrize("name", ["dns", "_x", "A-1_b", "x" * 64])
def test_instance_names(name: str) -> None:
    assert reading.instance_name(Path(f"/etc/udp-proxy/{name}.toml")) == name


@pytest.mark.parametrize("name", ["", "1", "-a", "a.b", "a b", "x" * 65, "č", "a\n"])
def test_what_is_no_instance_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is no instance's name"):
        reading.instance_name(Path(f"/etc/udp-proxy/{name}.toml"))


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("2nd-dns", "_2nd-dns"),
        ("10.0.0.1", "_10-0-0-1"),
        ("dns@home", "dns-home"),
        ("fe80::1", "fe80--1"),
        ("9" * 65, "_" + "9" * 63),
        ("\u017elu\u0165", "_-lu-"),
        ("-a", "_-a"),
    ],
)
def test_a_name_that_would_do_is_named(name: str, similar: str) -> None:
    """People call instances by addresses, and by numbers."""
    with pytest.raises(ConfigError, match=f"; {similar} would be one"):
        reading.instance_name(Path(f"/etc/udp-proxy/{name}.toml"))
    assert reading.instance_name(Path(f"/etc/udp-proxy/{similar}.toml")) == similar


ROOT = Path(__file__).parents[2]


EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_right(path: Path) -> None:
    assert load.parse(path.read_text(), str(path)).warnings == ()
    assert f".I {path.name}\n" in (ROOT / "man/udp-proxy.toml.5").read_text()


def test_the_manual_page_has_every_key() -> None:
    page = (ROOT / "man/udp-proxy.toml.5").read_text()
    keys = set(re.findall(r"^([a-z-]+) =", LARGEST, re.MULTILINE))
    keys |= set(re.findall(r"([a-z-]+) = [\"0-9]", LARGEST))
    keys |= {"interface", "action", "broadcast-network", "reply-port", "source-address"}
    keys |= {"source-port", "mirror-to"}
    entries = "\n".join(line for line in page.splitlines() if line.startswith(".BR "))
    missing = [key for key in keys if not re.search(rf"(?<![a-z-]){key}(?![a-z-])", entries)]
    assert missing == []


def listening(*tables: str) -> str:
    return "max-sessions = 1\n" + "".join(f"[[listen]]\n{table}\n" for table in tables)


def test_places() -> None:
    text = listening(
        'address = "fe80::1%eth0"\nport = [5, "7-8"]',
        'interface = "eth1"\nport = 9\nmulticast = ["224.0.0.251", "ff02::fb"]',
        'address = "239.1.2.3"\nport = 9\nmulticast = ["239.1.2.3"]',
        'address = "::"\nport = 11\nmulticast = ["ff02::fb%eth0"]',
    )
    config = load.parse(text, "test.toml")
    first, second, third, last = config.listen
    assert list(map(str, first.places())) == [
        "fe80::1%eth0 port 5",
        "fe80::1%eth0 port 7",
        "fe80::1%eth0 port 8",
    ]
    assert [first.place_of(port) for port in (5, 7, 8)] == [0, 1, 2]
    with pytest.raises(ValueError, match="fe80::1%eth0 has no port 6"):
        first.place_of(6)
    assert {place.link for place in first.places()} == {"eth0"}
    both = list(second.places())
    assert list(map(str, both)) == ["0.0.0.0 port 9 on eth1", ":: port 9 on eth1"]
    assert {place.link for place in both} == {"eth1"}
    assert list(map(str, second.groups)) == ["224.0.0.251", "ff02::fb"]
    assert [place.link for place in third.places()] == [""]
    assert list(map(str, last.groups)) == ["ff02::fb%eth0"]
    assert len(config.warnings) == 1  # no rule


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('interface = "eth0"\nport = 9', 'interface = "eth0"\nport = 9', True),
        ('interface = "eth0"\nport = 9', 'interface = "eth1"\nport = 9', False),
        ('interface = "eth0"\nport = 9\nversion = 4', 'interface = "eth0"\nport = 9', True),
        (
            'interface = "eth0"\nport = 9\nversion = 4',
            'interface = "eth0"\nport = 9\nversion = 6',
            False,
        ),
        ('interface = "eth0"\nport = 9', 'address = "127.0.0.1"\nport = 9', False),
        ('interface = "eth0"\nport = 9', 'address = "0.0.0.0"\nport = 9', True),
        ('address = "fe80::1%eth0"\nport = 9', 'address = "fe80::1%eth1"\nport = 9', False),
        ('address = "fe80::1%eth0"\nport = 9', 'address = "::"\nport = 9', True),
        ('address = "::1"\nport = [7, 9]', 'address = "::1"\nport = "8-9"', True),
        ('address = "::1"\nport = [7, 9]', 'address = "::1"\nport = 8', False),
    ],
)
def test_the_same_place_twice(one: str, other: str, *, same: bool) -> None:
    text = listening(one, other)
    if same:
        assert "port 9 of" in mistake(text)
        assert "is already listened on: see line 2" in mistake(text)
    else:
        load.parse(text, "test.toml")


RANGED = """max-sessions = 1
[[listen]]
address = "192.0.2.1"
port = [100, "200-202"]
[[listen]]
interface = "eth0"
port = %s
[[session-acl]]
name = "media"
to = ["192.0.2.1:100-202", ":300-303"]
plug-to = "192.0.2.9:%s"
"""


@pytest.mark.parametrize(
    ("listened", "ports", "told"),
    [
        ('"300-303"', "500-503", ""),
        ('"300-303"', "500", ""),
        ("4", "500-503", ""),  # no datagram of it comes to this rule
        ('"300-302"', "500-503", "500-503 are 4 ports, but those of line 5 are 3: there must be"),
        ('"300-303"', "500-504", "500-504 are 5 ports, but those of line 2 are 4: there must be"),
        ('"300-303"', "503-500", "is upside down"),
    ],
)
def test_as_many_ports_of_a_server(listened: str, ports: str, told: str) -> None:
    text = RANGED % (listened, ports)
    if told:
        assert told in mistake(text)
    else:
        load.parse(text, "test.toml")


def test_an_interface_reaches_the_proxy_itself_by_lo_alone() -> None:
    for interface, itself in (("lo", True), ("eth0", False)):
        text = listening(f'interface = "{interface}"\nport = 9') + (
            '[[session-acl]]\nname = "x"\nplug-to = "127.0.0.1:9"\n'
        )
        if itself:
            assert "127.0.0.1:9 is the proxy itself: see line 2 (lo)" in mistake(text)
        else:
            load.parse(text, "test.toml")


def test_nobody_waits_for_an_answer_where_nobody_may_answer() -> None:
    """The default of [limits] is for the other rules; 0 can be written anywhere."""
    rules = [
        'type = "one-way"',
        'type = "one-way"\nlimits.silent = 0',
        'type = "one-way"\nlimits.silent = 5\naction = "deny"',
        "",
    ]
    text = 'max-sessions = 5\n[limits]\nsilent = "20s"\namplification = 9\n'
    text += '[[listen]]\naddress = "::1"\nport = 53\n'
    for number, keys in enumerate(rules):
        text += f'[[session-acl]]\nname = "{number}"\nplug-to = "192.0.2.1:53"\n{keys}\n'
    config = load.parse(text, "test.toml")
    assert [rule.limits.silent for rule in config.rules] == [0.0, 0.0, 5.0, 20.0]
    assert [rule.limits.amplification for rule in config.rules] == [0, 0, 9, 9]
