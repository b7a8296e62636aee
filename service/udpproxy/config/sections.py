"""The sections of the file but for the ACLs: what keys they have, of what kind, with what default.

The defaults stand in model.py alone; here they are asked of an object made without arguments.
"""

from __future__ import annotations

from udpproxy.config import addresses, values
from udpproxy.config.model import (
    SEGMENTATION,
    Address,
    Config,
    Limits,
    Listen,
    Log,
    Ports,
    Resolver,
)
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
_count = values.whole(0)


def not_built(what: str) -> values.Parser[object]:
    """A parser for a key that is refused whatever its value."""

    def parse(value: object) -> object:
        raise values.NotBuilt(what)

    return parse


def only_false(what: str) -> values.Parser[bool]:
    """A parser for a flag that can only be false so far."""

    def parse(value: object) -> bool:
        if values.flag(value):
            raise values.NotBuilt(f"{what} = true is")
        return False

    return parse


def top(table: Table) -> Config:
    """The keys before the first table; the rest of the Config is put in by load.parse."""
    plain = Config(max_sessions=1, listen=())
    take = table.take
    return Config(
        max_sessions=table.need("max-sessions", values.whole(1, 65535), 1),
        listen=(),
        max_sessions_per_client=take("max-sessions-per-client", values.whole(0, 65535), 0),
        evict_idlest=take(
            "overflow", values.choice({"refuse": False, "evict-idlest": True}), plain.evict_idlest
        ),
        singleproc=take("singleproc", values.flag, plain.singleproc),
        workers=take("workers", values.whole(1, 64), plain.workers),
        engine=take("engine", values.one_of("auto", "native", "python"), plain.engine),
        segmentation=take("segmentation", values.one_of(*SEGMENTATION), plain.segmentation),
        use_all_ports=take("use-all-ports", values.flag, plain.use_all_ports),
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


def listen(table: Table) -> Listen | None:
    """One [[listen]]; None where it is too wrong to be checked further."""
    table.take("interface", not_built("listening by interface is"), None)
    table.take("transparent", only_false("transparent"), None)
    version = table.take("version", _version, None)
    address: Address | None
    if table.has("interface"):
        address = table.take("address", _listening_address, None)
    else:
        address = table.need("address", _listening_address, None)
    ports: Ports | None = table.need("port", addresses.ports, None)
    if address is not None and version is not None and version != address.version:
        table.wrong("version", f"{address} is of version {address.version}, not {version}")
    table.done()
    if address is None or ports is None:
        return None
    return Listen(address=address, ports=ports, line=table.line)


def _listening_address(value: object) -> Address:
    found = addresses.address(value)
    addresses.refuse_link_local(found)
    return found


def _version(value: object) -> int:
    if isinstance(value, int) and value in (4, 6):
        return value
    raise ValueError(f"expected 4 or 6, found {values.said(value)}")


def limits(table: Table, base: Limits) -> Limits:
    """A table of limits over those that hold without it."""
    take = table.take
    found = Limits(
        idle=take("idle", values.duration, base.idle),
        lifetime=take("lifetime", values.duration, base.lifetime),
        upload_datagrams=take("upload-datagrams", _count, base.upload_datagrams),
        download_datagrams=take("download-datagrams", _count, base.download_datagrams),
        upload_bytes=take("upload-bytes", values.size, base.upload_bytes),
        download_bytes=take("download-bytes", values.size, base.download_bytes),
    )
    table.done()
    return found


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
