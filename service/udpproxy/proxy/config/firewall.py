"""What the firewall and the routes have to do for addresses of others (SPEC 12): as text.

The proxy changes neither. Datagrams keep their destination and port: nft's tproxy statement hands
them to the socket that listens on that port, whatever the address, and a route of a table of its
own says that they are for this host.
"""

from __future__ import annotations

from collections.abc import Iterator

from udpproxy.config.model import Name, Network
from udpproxy.proxy.config.model import Config, Listen, Pattern, Rule

TAKEN = 0x75710000
"""The mark of datagrams that this host is to take though they are for others."""
OURS = 0x75700000
"""The mark of datagrams that may come from a client's address (engine/pool.py)."""
MASK = 0xFFFF0000
TABLE = 7571
"""Of routes."""

_FAMILIES = {4: ("ip", "127.0.0.1", "ip"), 6: ("ip6", "::1", "ip -6")}


def rules(config: Config, name: str) -> str:
    """A script of nft and ip; a comment alone where the configuration needs neither. `name` is the
    instance's."""
    taking = [listen for listen in config.listen if listen.transparent]
    writing = [rule for rule in config.rules if rule.accept and None in rule.sources]
    if not taking and not writing:
        return "# Nothing: no listener is transparent, and no rule has the client as its source.\n"
    lines = [
        "# The firewall's part; what else it has stays.",
        "nft -f - <<'END'",
        f"table inet udp-proxy-{name}",
        f"delete table inet udp-proxy-{name}",
        f"table inet udp-proxy-{name} {{",
        *_incoming(taking),
        *(_outgoing(writing) if writing else ()),
        "}",
        "END",
        "",
        "# The routes' part. Both are gone with the next boot.",
        *routes(),
    ]
    return "\n".join(lines) + "\n"


def routes() -> list[str]:
    """The commands by which this host takes what is marked, and answers to clients' addresses."""
    return [command for version in _FAMILIES for command in routes_of(version)]


def routes_of(version: int) -> list[str]:
    """The same of that version of IP."""
    _, _, ip = _FAMILIES[version]
    return [
        f"{ip} rule add fwmark {TAKEN:#x}/{MASK:#x} lookup {TABLE}",
        f"{ip} route replace local default dev lo table {TABLE}",
    ]


def _incoming(taking: list[Listen]) -> Iterator[str]:
    yield "    chain prerouting {"
    yield "        type filter hook prerouting priority mangle; policy accept;"
    # Answers to sockets that have a client's address come first: they are nobody's first datagrams.
    yield (
        "        meta l4proto udp socket transparent 1 socket wildcard 0 "
        f"meta mark set meta mark & {0xFFFF:#x} | {TAKEN:#x} accept"
    )
    for listen in taking:
        for address in listen.addresses:
            family, host, _ = _FAMILIES[address.version]
            where = f'iifname "{listen.interface}" ' if listen.interface else ""
            ports = ", ".join(map(str, listen.ports))
            yield (
                f"        {where}meta nfproto ipv{address.version} fib daddr type unicast "
                f"udp dport {{ {ports} }} tproxy {family} to {_host(host)} "
                f"meta mark set meta mark & {0xFFFF:#x} | {TAKEN:#x} accept"
            )
    yield "    }"


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _outgoing(writing: list[Rule]) -> Iterator[str]:
    """Whoever relays can write from addresses of the rules' clients, and from no others."""
    yield "    chain output {"
    yield "        type filter hook output priority filter; policy accept;"
    for version, (family, _, _) in _FAMILIES.items():
        sources: list[str] | None = []
        for rule in writing:
            found = _networks(rule, version)
            sources = None if found is None or sources is None else [*sources, *found]
        if sources is None:
            yield f"        # {family}: a rule has clients that are not all given as addresses"
            continue
        some = f"{family} saddr != {{ {', '.join(dict.fromkeys(sources))} }} " if sources else ""
        yield (
            f"        meta nfproto ipv{version} meta mark & {MASK:#x} == {OURS:#x} {some}"
            "fib saddr type != local drop"
        )
    yield "    }"


def _networks(rule: Rule, version: int) -> list[str] | None:
    """Its clients of that version; None where they are not all known."""
    items: tuple[Network | Name | Pattern, ...] | None = rule.source
    if items is None or any(isinstance(item, Name | Pattern) for item in items):
        return None
    networks = [item for item in items if not isinstance(item, Name | Pattern)]
    return [str(item) for item in networks if item.version == version]
