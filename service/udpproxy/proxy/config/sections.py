"""The proxy's own sections but for the rules: what keys they have, of what kind and default.

The defaults stand in model.py alone; here they are asked of an object made without arguments.
"""

from __future__ import annotations

from udpproxy.config import sections, values
from udpproxy.config.table import Table
from udpproxy.proxy.config.model import SEGMENTATION, Config, Limits

_count = values.whole(0)

MOST_SESSIONS = 1_000_000
MOST_AMPLIFICATION = 1_000_000


def top(table: Table) -> Config:
    """The keys before the first table; the rest of the Config is put in by load.parse."""
    plain = Config(max_sessions=1, listen=())
    take = table.take
    return Config(
        max_sessions=table.need("max-sessions", values.whole(1, MOST_SESSIONS), 1),
        listen=(),
        max_sessions_per_client=take("max-sessions-per-client", values.whole(0, MOST_SESSIONS), 0),
        client_prefix6=take("client-prefix6", values.whole(1, 128), plain.client_prefix6),
        new_sessions=take("new-sessions", values.rate, plain.new_sessions),
        evict_idlest=take(
            "overflow", values.choice({"refuse": False, "evict-idlest": True}), plain.evict_idlest
        ),
        singleproc=take("singleproc", values.flag, plain.singleproc),
        workers=take("workers", values.whole(1, 64), plain.workers),
        engine=take("engine", values.one_of("auto", "native", "python"), plain.engine),
        segmentation=take("segmentation", values.one_of(*SEGMENTATION), plain.segmentation),
        use_all_ports=take("use-all-ports", values.flag, plain.use_all_ports),
        **sections.instance(table),
    )


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
        silent=take("silent", values.duration, base.silent),
        new_sessions_per_client=take(
            "new-sessions-per-client", values.rate, base.new_sessions_per_client
        ),
        datagrams_per_client=take("datagrams-per-client", values.rate, base.datagrams_per_client),
        amplification=take(
            "amplification", values.whole(0, MOST_AMPLIFICATION), base.amplification
        ),
    )
    table.done()
    return found
