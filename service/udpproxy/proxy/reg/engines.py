"""Which engine relays: the native one where it was built, unless the file says otherwise."""

from __future__ import annotations

from udpproxy.errors import UnitError
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.engine.interface import Engine, Reactor
from udpproxy.proxy.engine.pool import Pool
from udpproxy.proxy.engine.python import PythonEngine
from udpproxy.proxy.reg.host import RelayHost
from udpproxy.proxy.session.table import Table

try:
    from udpproxy.proxy.engine.native import NativeEngine
except ImportError as problem:
    NATIVE = False
    _why = str(problem)
else:
    NATIVE = True


def check(config: Config) -> None:
    """UnitError where the file wants what was not built."""
    wanted = 'engine = "native"' if config.engine == "native" else f"workers = {config.workers}"
    if not NATIVE and (config.engine == "native" or config.workers > 1):
        raise UnitError(
            "engine",
            f"{wanted} needs the native engine, which is not here ({_why}): build it (make build) "
            "or take the Python engine with one worker",
        )


def make(reactor: Reactor, table: Table, pool: Pool, host: RelayHost, config: Config) -> Engine:
    """The engine that the file asks for; UnitError where it was not built."""
    check(config)
    per_client, prefix6 = config.max_sessions_per_client, config.client_prefix6
    evict = config.evict_idlest
    if config.engine == "python" or not NATIVE:
        return PythonEngine(
            reactor, table, pool, host, per_client=per_client, prefix6=prefix6, evict=evict
        )
    return NativeEngine(
        reactor,
        table,
        pool,
        host,
        per_client=per_client,
        prefix6=prefix6,
        evict=evict,
        workers=config.workers,
        threads=True,
        lasting=host,
    )
