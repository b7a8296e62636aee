"""What a rule's `source-port` means beside the rest of the file: what cannot be, and what will
surprise."""

from __future__ import annotations

from collections.abc import Iterator

from udpproxy.config.lines import Path
from udpproxy.config.model import Address, Name
from udpproxy.config.table import Notes
from udpproxy.proxy.config.model import CLIENTS_PORT, Listen, Rule, SessionType

_ALONE = (SessionType.ANY_PORT, SessionType.ANY_SOCK, SessionType.BROADCAST)
"""Types whose socket takes replies of many: it shares its address and port with no other."""

Source = Address | None | str
"""An address, None for the client's own, or ANY for the one that the system chooses."""
ANY = "any"


def remarks(path: Path, rule: Rule, listeners: list[Listen], free_from: int, notes: Notes) -> None:
    """Of a rule that accepts. `free_from`: the relay may not take ports below."""
    if rule.source_port in (0, CLIENTS_PORT):
        return
    where = (*path, "source-port")
    if rule.source_port < free_from:
        notes.warn(
            where,
            f"the relay may not write from ports below {free_from}, and its sessions are refused: "
            f"set net.ipv4.ip_unprivileged_port_start = {rule.source_port}, or take another",
        )
    if _most_sessions(rule) == 1:
        notes.warn(
            where,
            "two sessions cannot write from one address and port to one server, so there is one at "
            "a time: it takes several servers or addresses (source-address)",
        )
    _own(where, rule, listeners, notes)


def _most_sessions(rule: Rule) -> int | None:
    """At a time; None: nobody can say."""
    if None in rule.sources:
        return None
    alone = rule.type in _ALONE
    if not alone and (rule.to_addressed or not all(server.ports for server in rule.servers)):
        return None  # to wherever the client wrote
    ports = 1 if alone else sum(len(server.ports or ()) for server in rule.servers)
    return ports * len(list(_sources(rule)))


def _sources(rule: Rule) -> Iterator[Source]:
    """Those of the server's family, as far as that is known."""
    version = _version(rule)
    found = [one for one in rule.sources if one is None or version in (0, one.version)]
    yield from found
    if not found:
        yield ANY


def _version(rule: Rule) -> int:
    """Of IP; 0: nobody knows."""
    hosts = [server.host for server in rule.servers]
    versions = {0 if isinstance(host, Name) else host.version for host in hosts}
    return versions.pop() if len(versions) == 1 else 0


def _own(where: Path, rule: Rule, listeners: list[Listen], notes: Notes) -> None:
    """A port that the proxy listens on: no session can have it there."""
    sources: list[Source] = list(_sources(rule))
    for listener in listeners:
        if not listener.has(rule.source_port):
            continue
        taken = [source for source in sources if _is_taken(source, listener, _version(rule))]
        if taken:
            all_of_them = len(taken) == len(sources) and _version(rule)
            (notes.wrong if all_of_them else notes.warn)(
                where,
                f"the proxy itself has port {rule.source_port}: see line {listener.line} "
                f"({listener})",
            )
            return


def _is_taken(source: Source, listener: Listen, version: int) -> bool:
    for listening in listener.addresses:
        if version not in (0, listening.version):
            continue
        if source in (ANY, listening) or listening.is_unspecified:
            return True
    return False
