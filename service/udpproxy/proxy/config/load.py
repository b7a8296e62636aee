"""From a text to a Config, or to every mistake in it at once; reading.py opens its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from udpproxy.config import document, lines
from udpproxy.config import sections as common
from udpproxy.config.model import Address, Ports
from udpproxy.config.table import Notes, Table
from udpproxy.errors import ConfigError
from udpproxy.proxy.config import check, groups, listens, rules, sections
from udpproxy.proxy.config.model import Config, Limits

EPHEMERAL = (32768, 60999)
EPHEMERAL_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")

Range = tuple[int, int]


def parse(
    text: str,
    origin: str,
    *,
    ephemeral: Range | None = EPHEMERAL,
    reserved: Iterable[Range] = (),
    free_from: int = 1024,
    is_own: Callable[[Address], bool] = lambda address: False,
) -> Config:
    """`ephemeral` is None where the kernel did not say; `reserved` it never hands out;
    below `free_from` a port needs a right. `is_own`: is that address one of this host?"""
    data = document.toml(text, origin)
    notes = Notes(origin, lines.locate(text))
    first, last = EPHEMERAL if ephemeral is None else ephemeral
    kept = tuple(Ports(first=one, last=other) for one, other in reserved)
    kernel = check.KernelPorts(Ports(first=first, last=last), kept, free_from)
    config = _config(Table(data, (), notes), kernel, is_own)
    if ephemeral is None:
        notes.warn(
            ("listen",),
            f"cannot read {EPHEMERAL_FILE}: the kernel's ephemeral ports are taken to be "
            f"{first}-{last}",
        )
    if notes.problems:
        raise ConfigError(notes.problems)
    ports = kernel.for_sessions(config)
    each = 0 if config.use_all_ports else kernel.for_each()
    return replace(config, ports=ports, ports_each=each, warnings=tuple(map(str, notes.warnings)))


def _config(table: Table, kernel: check.KernelPorts, is_own: Callable[[Address], bool]) -> Config:
    notes = table.notes
    base = table.table("limits")
    resolver, log = table.table("resolver"), table.table("log")
    listen_tables, rule_tables = table.tables("listen"), table.tables("session-acl")
    group_tables = table.tables("servers")
    if not listen_tables and table.sound("listen"):
        table.wrong("listen", "at least one [[listen]] must be given")
    config = sections.top(table)
    table.done()

    limits = sections.limits(base, Limits())
    listening = [(each.path, found) for each in listen_tables if (found := listens.listen(each))]
    grouped = [(each.path, groups.group(each)) for each in group_tables]
    named = {one.name: one for _, one in grouped}
    judged = [(each.path, rules.session_rule(each, limits, named)) for each in rule_tables]
    config = replace(
        config,
        listen=tuple(listener for _, listener in listening),
        rules=tuple(rule for _, rule in judged),
        groups=tuple(one for _, one in grouped),
        resolver=common.resolver(resolver),
        log=common.log(log),
    )
    check.together(config, listening, judged, kernel, is_own, notes)
    check.groups(grouped, judged, notes)
    return config
