"""The sections that the files of all our services have: what keys, of what kind, with what default.

The defaults stand in model.py alone; here they are asked of an object made without arguments.
"""

from __future__ import annotations

from typing import TypedDict

from udpproxy.config import addresses, values
from udpproxy.config.model import InstanceConfig, Log, Resolver
from udpproxy.config.table import Table

LEVELS = {
    "error": 3,
    "warning": 4,
    "notice": 5,
    "normal": 6,
    "debug": 7,
    "trace": 8,
    "full": 9,
}
LEVEL_WORDS = {"emerg": 3, "alert": 3, "crit": 3, "err": 3, "warn": 4, "info": 6}
"""Of syslog and systemd: they mean the same."""
TARGETS = ("auto", "journal", "stderr", "syslog", "file")
FACILITIES = (
    *("user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)


class _Keys(TypedDict):
    stop_timeout: float
    crash_limit: int
    crash_window: float
    stop_on_child_death: bool
    user: str | None
    group: str | None
    tag: str


def instance(table: Table) -> _Keys:
    """The keys before the first table that every file can have."""
    plain = InstanceConfig()
    take = table.take
    return _Keys(
        stop_timeout=take("stop-timeout", values.positive_duration, plain.stop_timeout),
        crash_limit=take("crash-limit", values.whole(1, 1000), plain.crash_limit),
        crash_window=take("crash-window", values.positive_duration, plain.crash_window),
        stop_on_child_death=take(
            "on-child-death",
            values.choice({"restart": False, "stop": True}),
            plain.stop_on_child_death,
        ),
        user=take("user", values.account, plain.user),
        group=take("group", values.account, plain.group),
        tag=take("tag", values.printable, plain.tag),
    )


def resolver(table: Table) -> Resolver:
    plain = Resolver()
    take = table.take
    short, any_length = values.positive_duration, values.duration
    found = Resolver(
        servers=table.many("servers", addresses.name_server, empty=True) or (),
        search=table.many("search", values.domain, empty=True) or (),
        conf_timeout=take("conf-timeout", short, plain.conf_timeout),
        initial_timeout=take("initial-timeout", short, plain.initial_timeout),
        timeout=take("timeout", short, plain.timeout),
        attempts=take("attempts", values.whole(1, 100), plain.attempts),
        tcp_connect_timeout=take("tcp-connect-timeout", short, plain.tcp_connect_timeout),
        min_ttl=take("min-ttl", any_length, plain.min_ttl),
        max_ttl=take("max-ttl", any_length, plain.max_ttl),
        retry=take("retry", short, plain.retry),
        negative_ttl=take("negative-ttl", any_length, plain.negative_ttl),
        stale=take("stale", any_length, plain.stale),
    )
    if found.max_ttl < found.min_ttl and table.sound("min-ttl", "max-ttl"):
        key = "max-ttl" if table.has("max-ttl") else "min-ttl"
        table.wrong(key, f"max-ttl ({found.max_ttl:g} s) is below min-ttl ({found.min_ttl:g} s)")
    table.done()
    return found


def log(table: Table) -> Log:
    plain = Log()
    found = Log(
        level=table.take("level", _level, plain.level),
        target=table.take("target", values.one_of(*TARGETS), plain.target),
        file=table.take("file", values.absolute_path, plain.file),
        facility=table.take("facility", values.one_of(*FACILITIES), plain.facility),
        records=table.take("records", _records, plain.records),
    )
    if table.sound("target"):
        if found.target == "file" and not table.has("file"):
            table.wrong("file", 'must be given with target = "file"')
        if found.target != "file" and table.has("file"):
            table.wrong("file", f'is only used with target = "file", which is "{found.target}"')
    table.done()
    return found


def _level(value: object) -> int:
    if isinstance(value, str) and value in LEVELS | LEVEL_WORDS:
        return (LEVELS | LEVEL_WORDS)[value]
    if isinstance(value, int) and not isinstance(value, bool) and 3 <= value <= 9:
        return value
    raise ValueError(
        f"expected a number from 3 to 9 or one of {', '.join(LEVELS)}, found {values.said(value)}"
    )


def _records(value: object) -> str:
    return "same" if value == "same" else values.absolute_path(value)
